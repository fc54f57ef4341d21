//! The part of curl's command line that says what is requested.

use std::iter::Peekable;
use std::str::Chars;

/// What a curl command asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CurlCommand {
    /// The URL.
    pub url: String,
    /// The method, if it names one or another option means one.
    pub method: Option<String>,
    /// Headers, as `Name: value`.
    pub headers: Vec<String>,
    /// The pieces of the body, which follow each other.
    pub body: Vec<Data>,
    /// `-k`.
    pub insecure: bool,
    /// `-L`.
    pub follows_redirects: bool,
    /// `--http2`.
    pub http2: bool,
    /// `--unix-socket`.
    pub unix_socket: Option<String>,
    /// `--cacert`.
    pub cacert: Option<String>,
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// This text.
    Text(String),
    /// What is in a file.
    File {
        /// Where it is.
        path: String,
        /// Whether its line ends are left out.
        is_one_line: bool,
    },
}

/// Options that change what curl shows, not what it asks for.
const WITHOUT_MEANING_HERE: &[&str] = &[
    "-s",
    "--silent",
    "-S",
    "--show-error",
    "-i",
    "--include",
    "-v",
    "--verbose",
    "-f",
    "--fail",
    "-#",
    "--progress-bar",
    "-N",
    "--no-buffer",
    "--http1.1",
    "-g",
    "--globoff",
];
/// The same with a value.
const VALUES_WITHOUT_MEANING_HERE: &[&str] = &[
    "-o",
    "--output",
    "-w",
    "--write-out",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--retry",
];

/// Reads a curl command as a shell and curl would.
///
/// # Errors
///
/// What cannot be understood.
pub fn read(command: &str) -> Result<CurlCommand, String> {
    let mut words = shell_words(command)?.into_iter();
    let mut found = CurlCommand::default();
    let mut implied = Vec::new();
    match words.next() {
        Some(program) if program == "curl" || program.ends_with("/curl") => {}
        _ => return Err("it does not begin with `curl`".to_owned()),
    }
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            set_url(&mut found, word)?;
            continue;
        }
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ if word.starts_with("--") => (word, None),
            _ => short_options(&mut found, &mut implied, &word)?,
        };
        if !takes_value(&name) {
            flag(&mut found, &mut implied, &name)?;
            continue;
        }
        let value = attached
            .or_else(|| words.next())
            .ok_or_else(|| format!("{name} has no value"))?;
        option(&mut found, &mut implied, &name, value)?;
    }
    add_headers(&mut found, implied);
    if found.url.is_empty() {
        return Err("it has no URL".to_owned());
    }
    if !found.url.contains("://") {
        found.url = format!("http://{}", found.url);
    }
    Ok(found)
}

/// Letters behind one dash, of which the last one may have its value right behind it: -sSk, -XPOST, -sXPOST. What is left
/// to be done: the last one, and its value.
fn short_options(
    found: &mut CurlCommand,
    implied: &mut Vec<(&'static str, String)>,
    word: &str,
) -> Result<(String, Option<String>), String> {
    let mut letters = word.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        let name = format!("-{letter}");
        let rest = &word[at + letter.len_utf8()..];
        if takes_value(&name) {
            return Ok((name, (!rest.is_empty()).then(|| rest.to_owned())));
        }
        if letters.peek().is_none() {
            return Ok((name, None));
        }
        flag(found, implied, &name)?;
    }
    Ok((word.to_owned(), None))
}

fn set_url(found: &mut CurlCommand, url: String) -> Result<(), String> {
    if !found.url.is_empty() {
        return Err(format!("it has two URLs, {:?} and {url:?}", found.url));
    }
    found.url = url;
    Ok(())
}

/// Adds the headers that options mean, unless -H says otherwise; of two that mean the same one the first. `Name:` without
/// a value leaves the header out, and `Name;` sends it empty.
fn add_headers(found: &mut CurlCommand, implied: Vec<(&'static str, String)>) {
    let is_named = |header: &String, name: &str| {
        header
            .split_once([':', ';'])
            .is_some_and(|(known, _)| known.trim().eq_ignore_ascii_case(name))
    };
    for (name, value) in implied {
        if !found.headers.iter().any(|header| is_named(header, name)) {
            found.headers.push(format!("{name}: {value}"));
        }
    }
    found
        .headers
        .retain(|header| header.strip_suffix(':').is_none_or(|name| name.contains(':')));
    for header in &mut found.headers {
        if let Some(name) = header.strip_suffix(';').filter(|name| !name.contains(':')) {
            *header = format!("{name}:");
        }
    }
}

fn takes_value(name: &str) -> bool {
    VALUES_WITHOUT_MEANING_HERE.contains(&name)
        || matches!(
            name,
            "-H" | "--header"
                | "-X"
                | "--request"
                | "-d"
                | "--data"
                | "--data-raw"
                | "--data-binary"
                | "--data-ascii"
                | "--json"
                | "-A"
                | "--user-agent"
                | "-e"
                | "--referer"
                | "-b"
                | "--cookie"
                | "-u"
                | "--user"
                | "--url"
                | "--unix-socket"
                | "--cacert"
        )
}

fn flag(
    found: &mut CurlCommand,
    implied: &mut Vec<(&'static str, String)>,
    name: &str,
) -> Result<(), String> {
    match name {
        "-k" | "--insecure" => found.insecure = true,
        "-L" | "--location" => found.follows_redirects = true,
        "-I" | "--head" => found.method = Some("HEAD".to_owned()),
        "--http2" | "--http2-prior-knowledge" => found.http2 = true,
        "--compressed" => implied.push(("Accept-Encoding", "gzip, deflate".to_owned())),
        name if WITHOUT_MEANING_HERE.contains(&name) => {}
        _ => return Err(format!("its option {name} is not known here")),
    }
    Ok(())
}

fn option(
    found: &mut CurlCommand,
    implied: &mut Vec<(&'static str, String)>,
    name: &str,
    value: String,
) -> Result<(), String> {
    match name {
        "-H" | "--header" => found.headers.push(value),
        "-X" | "--request" => found.method = Some(value),
        "-A" | "--user-agent" => implied.push(("User-Agent", value)),
        "-e" | "--referer" => implied.push(("Referer", value)),
        "-b" | "--cookie" => match implied.iter_mut().find(|(name, _)| *name == "Cookie") {
            Some((_, cookies)) => *cookies = format!("{cookies}; {value}"),
            None => implied.push(("Cookie", value)),
        },
        "-u" | "--user" => implied.push(("Authorization", format!("Basic {}", base64(value.as_bytes())))),
        "--url" => set_url(found, value)?,
        "--unix-socket" => found.unix_socket = Some(value),
        "--cacert" => found.cacert = Some(value),
        "--json" => {
            // Before what another option for the body may mean.
            implied.insert(0, ("Content-Type", "application/json".to_owned()));
            implied.insert(0, ("Accept", "application/json".to_owned()));
            found.body.push(data(value, false));
        }
        "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-ascii" => {
            implied.push(("Content-Type", "application/x-www-form-urlencoded".to_owned()));
            if !found.body.is_empty() {
                found.body.push(Data::Text("&".to_owned()));
            }
            found.body.push(match name {
                "--data-raw" => Data::Text(value),
                name => data(value, name != "--data-binary"),
            });
        }
        _ => {}
    }
    Ok(())
}

fn data(value: String, is_one_line: bool) -> Data {
    match value.strip_prefix('@') {
        Some(path) => Data::File {
            path: path.to_owned(),
            is_one_line,
        },
        None => Data::Text(value),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes.chunks(3).fold(String::new(), |mut text, chunk| {
        let bits =
            chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            text.push(if place <= chunk.len() {
                LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char
            } else {
                '='
            });
        }
        text
    })
}

/// Words as a POSIX shell separates them: quotes, backslashes, `$'…'`; no variables.
fn shell_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => words.extend(word.take()),
            '\\' => match letters.next() {
                // A line that goes on.
                Some('\n') => {}
                Some('\r') if letters.next_if_eq(&'\n').is_some() => {}
                Some(next) => word.get_or_insert_default().push(next),
                None => {}
            },
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(letter) => word.push(letter),
                        None => return Err("a ' is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => match letters.next() {
                            Some('\n') | None => {}
                            Some(letter @ ('"' | '\\' | '$' | '`')) => word.push(letter),
                            Some(letter) => word.extend(['\\', letter]),
                        },
                        Some(letter) => word.push(letter),
                        None => return Err("a \" is not closed".to_owned()),
                    }
                }
            }
            '$' if letters.peek() == Some(&'\'') => {
                letters.next();
                word.get_or_insert_default().push_str(&unescaped(&mut letters)?);
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What stands in `$'…'`, the closing quote included, as bash reads it.
fn unescaped(letters: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut bytes = Vec::new();
    let push = |bytes: &mut Vec<u8>, letter: char| {
        bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    };
    loop {
        let unclosed = || "a $' is not closed".to_owned();
        match letters.next().ok_or_else(unclosed)? {
            '\'' => break,
            '\\' => match letters.next().ok_or_else(unclosed)? {
                'a' => push(&mut bytes, '\x07'),
                'b' => push(&mut bytes, '\x08'),
                'e' | 'E' => push(&mut bytes, '\x1b'),
                'f' => push(&mut bytes, '\x0c'),
                'n' => push(&mut bytes, '\n'),
                'r' => push(&mut bytes, '\r'),
                't' => push(&mut bytes, '\t'),
                'v' => push(&mut bytes, '\x0b'),
                letter @ ('\'' | '"' | '\\' | '?') => push(&mut bytes, letter),
                letter @ ('u' | 'U') => match number(letters, 16, if letter == 'u' { 4 } else { 8 }) {
                    Some(code) => push(
                        &mut bytes,
                        char::from_u32(code)
                            .ok_or_else(|| format!("\\{letter}{code:x} in a $' is no character"))?,
                    ),
                    None => ['\\', letter]
                        .into_iter()
                        .for_each(|letter| push(&mut bytes, letter)),
                },
                'x' => match number(letters, 16, 2) {
                    Some(byte) => bytes.push(byte as u8),
                    None => bytes.extend_from_slice(b"\\x"),
                },
                digit @ '0'..='7' => {
                    let mut code = digit.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        let Some(next) = letters.next_if(|letter| letter.is_digit(8)) else {
                            break;
                        };
                        code = code * 8 + next.to_digit(8).unwrap_or(0);
                    }
                    bytes.push(code as u8);
                }
                other => ['\\', other]
                    .into_iter()
                    .for_each(|letter| push(&mut bytes, letter)),
            },
            letter => push(&mut bytes, letter),
        }
    }
    String::from_utf8(bytes).map_err(|_| "the bytes in a $' are no text".to_owned())
}

/// The number that stands here, if one does.
fn number(letters: &mut Peekable<Chars<'_>>, radix: u32, most_digits: usize) -> Option<u32> {
    let mut number = None;
    for _ in 0..most_digits {
        let Some(digit) = letters.next_if(|letter| letter.is_digit(radix)) else {
            break;
        };
        number = Some(number.unwrap_or(0) * radix + digit.to_digit(radix)?);
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Data {
        Data::Text(text.to_owned())
    }

    #[test]
    fn a_command_as_browsers_copy_it_is_understood() {
        let command =
            "curl 'http://127.0.0.1:8080/cart?a=1' \\\n  -H 'Accept: */*' \\\n  -H $'X-Name: it\\'s' \\\n  \
                       --data-raw '{\"id\": 1}' \\\n  --compressed --insecure";
        let found = read(command).unwrap();
        assert_eq!(found.url, "http://127.0.0.1:8080/cart?a=1");
        assert_eq!(found.body, [text("{\"id\": 1}")]);
        assert!(found.insecure);
        assert_eq!(
            found.headers,
            [
                "Accept: */*",
                "X-Name: it's",
                "Content-Type: application/x-www-form-urlencoded",
                "Accept-Encoding: gzip, deflate"
            ]
        );
    }

    #[test]
    fn short_forms_are_understood() {
        let found = read("curl -sSkL -XPUT -u me:secret 127.0.0.1/x -d a=1 -d b=2 --max-time 3").unwrap();
        assert_eq!(found.url, "http://127.0.0.1/x");
        assert_eq!(found.method.as_deref(), Some("PUT"));
        assert_eq!(found.body, [text("a=1"), text("&"), text("b=2")]);
        assert!(found.insecure && found.follows_redirects);
        assert!(found
            .headers
            .contains(&"Authorization: Basic bWU6c2VjcmV0".to_owned()));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        assert_eq!(
            read("wget http://x"),
            Err("it does not begin with `curl`".to_owned())
        );
        assert_eq!(read("curl -H"), Err("-H has no value".to_owned()));
        assert_eq!(
            read("curl --proxy http://x"),
            Err("its option --proxy is not known here".to_owned())
        );
        assert_eq!(read("curl 'http://x"), Err("a ' is not closed".to_owned()));
        assert_eq!(read("curl -s"), Err("it has no URL".to_owned()));
    }

    #[test]
    fn what_browsers_escape_is_sent_as_it_was() {
        // A body with a quote, an exclamation mark or a line's end is copied in this form.
        let found = read(r"curl h --data-raw $'it\'s\u0021 \xc3\xa9\U0001f600\n\t\101\\ \q'").unwrap();
        assert_eq!(found.body, [text("it's! é\u{1f600}\n\tA\\ \\q")]);
        assert_eq!(
            read(r"curl h -d $'\xff'"),
            Err("the bytes in a $' are no text".to_owned())
        );
        assert_eq!(read(r"curl h -d $'\"), Err("a $' is not closed".to_owned()));
    }

    #[test]
    fn a_header_that_is_given_takes_the_place_of_the_one_that_an_option_means() {
        let headers = |command: &str| read(command).unwrap().headers;
        assert_eq!(
            headers("curl h -d {} -A me -H 'content-type: application/json' -H 'User-Agent: you'"),
            ["content-type: application/json", "User-Agent: you"]
        );
        assert_eq!(
            headers("curl h -d x -H Content-Type: -H 'X-Empty;'"),
            ["X-Empty:"]
        );
        assert_eq!(
            headers("curl h -d x --json {} -b a=1 -b b=2"),
            [
                "Accept: application/json",
                "Content-Type: application/json",
                "Cookie: a=1; b=2"
            ]
        );
    }

    #[test]
    fn only_some_options_read_files() {
        let body = |command: &str| read(command).unwrap().body;
        let file = |is_one_line| Data::File {
            path: "f".to_owned(),
            is_one_line,
        };
        assert_eq!(body("curl h --data-raw @f"), [text("@f")]);
        assert_eq!(body("curl h -d a=1 -d @f"), [text("a=1"), text("&"), file(true)]);
        assert_eq!(body("curl h --data-binary @f"), [file(false)]);
        assert_eq!(body("curl h --json '{' --json '}'"), [text("{"), text("}")]);
    }

    #[test]
    fn letters_behind_one_dash_may_end_with_one_that_has_a_value() {
        let found = read("curl -sSXPUT -kd a h").unwrap();
        assert_eq!((found.method.as_deref(), found.insecure), (Some("PUT"), true));
        assert_eq!(found.body, [text("a")]);
        assert_eq!(
            read("curl h -sZ"),
            Err("its option -Z is not known here".to_owned())
        );
    }

    #[test]
    fn only_one_url_is_requested() {
        assert_eq!(
            read("curl http://a | jq ."),
            Err("it has two URLs, \"http://a\" and \"|\"".to_owned())
        );
    }

    #[test]
    fn base64_pads_as_it_must() {
        assert_eq!(
            ["", "a", "ab", "abc"].map(|text| base64(text.as_bytes())),
            ["", "YQ==", "YWI=", "YWJj"]
        );
    }
}
