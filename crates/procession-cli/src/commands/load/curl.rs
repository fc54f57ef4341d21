//! The part of curl's command line that says what is requested.

/// What a curl command asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CurlCommand {
    /// The URL.
    pub url: String,
    /// The method, if it names one or another option means one.
    pub method: Option<String>,
    /// Headers, as `Name: value`.
    pub headers: Vec<String>,
    /// The body; `@FILE` where it comes from a file.
    pub body: Option<String>,
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
    match words.next() {
        Some(program) if program == "curl" || program.ends_with("/curl") => {}
        _ => return Err("it does not begin with `curl`".to_owned()),
    }
    while let Some(word) = words.next() {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            // A short option may have its value right behind it: -XPOST.
            _ if word.len() > 2
                && word.starts_with('-')
                && !word.starts_with("--")
                && word.is_char_boundary(2) =>
            {
                let (name, value) = word.split_at(2);
                if takes_value(name) {
                    (name.to_owned(), Some(value.to_owned()))
                } else {
                    // Several letters behind one dash: -sSk.
                    for letter in word.chars().skip(1) {
                        flag(&mut found, &format!("-{letter}"))?;
                    }
                    continue;
                }
            }
            _ => (word.clone(), None),
        };
        if !name.starts_with('-') {
            found.url = word;
            continue;
        }
        if !takes_value(&name) {
            flag(&mut found, &name)?;
            continue;
        }
        let value = attached
            .or_else(|| words.next())
            .ok_or_else(|| format!("{name} has no value"))?;
        option(&mut found, &name, value);
    }
    if found.url.is_empty() {
        return Err("it has no URL".to_owned());
    }
    if !found.url.contains("://") {
        found.url = format!("http://{}", found.url);
    }
    Ok(found)
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

fn flag(found: &mut CurlCommand, name: &str) -> Result<(), String> {
    match name {
        "-k" | "--insecure" => found.insecure = true,
        "-L" | "--location" => found.follows_redirects = true,
        "-I" | "--head" => found.method = Some("HEAD".to_owned()),
        "--http2" | "--http2-prior-knowledge" => found.http2 = true,
        "--compressed" => found.headers.push("Accept-Encoding: gzip, deflate".to_owned()),
        name if WITHOUT_MEANING_HERE.contains(&name) => {}
        _ => return Err(format!("its option {name} is not known here")),
    }
    Ok(())
}

fn option(found: &mut CurlCommand, name: &str, value: String) {
    match name {
        "-H" | "--header" => found.headers.push(value),
        "-X" | "--request" => found.method = Some(value),
        "-A" | "--user-agent" => found.headers.push(format!("User-Agent: {value}")),
        "-e" | "--referer" => found.headers.push(format!("Referer: {value}")),
        "-b" | "--cookie" => found.headers.push(format!("Cookie: {value}")),
        "-u" | "--user" => found
            .headers
            .push(format!("Authorization: Basic {}", base64(value.as_bytes()))),
        "--url" => found.url = value,
        "--unix-socket" => found.unix_socket = Some(value),
        "--cacert" => found.cacert = Some(value),
        "--json" => {
            found.headers.push("Content-Type: application/json".to_owned());
            found.headers.push("Accept: application/json".to_owned());
            add_body(found, value);
        }
        "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-ascii" => {
            let named = |header: &String| header.to_ascii_lowercase().starts_with("content-type:");
            if !found.headers.iter().any(named) {
                found
                    .headers
                    .push("Content-Type: application/x-www-form-urlencoded".to_owned());
            }
            add_body(found, value);
        }
        _ => {}
    }
}

/// Several bodies are joined as curl does.
fn add_body(found: &mut CurlCommand, value: String) {
    found.body = Some(match found.body.take() {
        Some(body) => format!("{body}&{value}"),
        None => value,
    });
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
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some('\\') => match letters.next() {
                            Some('n') => word.push('\n'),
                            Some('r') => word.push('\r'),
                            Some('t') => word.push('\t'),
                            Some(letter) => word.push(letter),
                            None => {}
                        },
                        Some(letter) => word.push(letter),
                        None => return Err("a $' is not closed".to_owned()),
                    }
                }
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_as_browsers_copy_it_is_understood() {
        let command =
            "curl 'http://127.0.0.1:8080/cart?a=1' \\\n  -H 'Accept: */*' \\\n  -H $'X-Name: it\\'s' \\\n  \
                       --data-raw '{\"id\": 1}' \\\n  --compressed --insecure";
        let found = read(command).unwrap();
        assert_eq!(found.url, "http://127.0.0.1:8080/cart?a=1");
        assert_eq!(found.body.as_deref(), Some("{\"id\": 1}"));
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
        assert_eq!(found.body.as_deref(), Some("a=1&b=2"));
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
    fn base64_pads_as_it_must() {
        assert_eq!(
            ["", "a", "ab", "abc"].map(|text| base64(text.as_bytes())),
            ["", "YQ==", "YWI=", "YWJj"]
        );
    }
}
