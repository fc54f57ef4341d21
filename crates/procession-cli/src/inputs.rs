//! Where the inputs come from, read one at a time.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStringExt;

use serde_json::value::RawValue;

use crate::args::WorkArguments;
use crate::error::CommandError;
use crate::exit_codes;
use crate::files;
use crate::host::protocol::ItemInput;

/// A longer line of standard input fails, rather than fill the memory.
pub const MAX_LINE_BYTES: usize = 64 << 20;
/// How much of an input is shown in messages.
const SHOWN_CHARACTERS: usize = 80;

/// What the function gets for one item, or why it gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Text.
    Text(String),
    /// The name of a file, or an argument, that is not UTF-8.
    Name(Vec<u8>),
    /// Nothing that the function could get.
    Unreadable {
        /// The input, as far as it can be shown.
        shown: String,
        /// What is wrong with it, and where it is.
        why: String,
    },
}

impl Payload {
    fn from_name(name: OsString) -> Self {
        match name.into_string() {
            Ok(text) => Self::Text(text),
            Err(name) => Self::Name(name.into_vec()),
        }
    }

    /// The input for the host; none if it is unreadable.
    pub fn for_host(&self) -> Option<ItemInput> {
        match self {
            Self::Text(text) => Some(ItemInput::Text(text.clone())),
            Self::Name(bytes) => Some(ItemInput::NameHex(
                bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            )),
            Self::Unreadable { .. } => None,
        }
    }

    /// The input as text, whole.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Name(bytes) => String::from_utf8_lossy(bytes),
            Self::Unreadable { shown, .. } => shown.into(),
        }
    }

    /// How much memory it holds, about.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Name(bytes) => bytes.len(),
            Self::Unreadable { shown, why } => shown.len() + why.len(),
        }
    }

    /// The input for a message: quoted, and cut where it is long.
    pub fn quoted(&self) -> String {
        quoted(&self.text())
    }
}

/// A text for a message: quoted, and cut where it is long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}… ({} bytes)", &text[..cut], text.len()),
    }
}

/// Where inputs come from.
#[derive(Debug)]
pub enum Source {
    /// Arguments and names of files.
    List(Vec<FileOrTrouble>),
    /// Lines of standard input.
    StandardInput,
    /// The numbers 0…N-1, as JSON.
    Range(u64),
}

impl Source {
    /// The source that the command line names; patterns are looked up now.
    ///
    /// # Errors
    ///
    /// When it names none, or several that exclude each other, or a pattern is malformed or matches nothing.
    pub fn new(work: &WorkArguments, range: Option<u64>) -> Result<Self, CommandError> {
        if let Some(count) = range {
            return Ok(Self::Range(count));
        }
        if work.inputs.iter().any(|input| input == "-") {
            if work.inputs.len() > 1 || !work.glob.is_empty() {
                return Err(CommandError::new(
                    exit_codes::USAGE,
                    "`-` reads the inputs from standard input, so no other inputs can be given",
                )
                .with_help("leave out `-`, or the other inputs"));
            }
            return Ok(Self::StandardInput);
        }
        if work.inputs.is_empty() && work.glob.is_empty() {
            return Err(CommandError::new(exit_codes::USAGE, format!("no inputs for {}", work.function)).with_help(
                "give them as arguments, or `-` for the lines of standard input, or files with --glob 'PATTERN'",
            ));
        }
        let mut list: Vec<_> = work.inputs.iter().cloned().map(Ok).collect();
        let mut seen = HashSet::new();
        for pattern in &work.glob {
            let mut matches = 0_u64;
            list.extend(
                matching_files(pattern)?
                    .inspect(|_| matches += 1)
                    .filter(|file| match file {
                        Ok(path) if work.glob.len() > 1 => seen.insert(path.clone()),
                        _ => true,
                    }),
            );
            if matches == 0 {
                return Err(CommandError::new(
                    exit_codes::COULD_NOT_START,
                    format!("no file matches --glob {}", quoted(pattern)),
                )
                .with_help("`*` stays within one folder, `**/` goes into all folders below; folders themselves don't count"));
            }
        }
        Ok(Self::List(list))
    }

    /// How many inputs there are, where that is known.
    pub fn total(&self) -> Option<u64> {
        match self {
            Self::List(list) => Some(list.len() as u64),
            Self::StandardInput => None,
            Self::Range(count) => Some(*count),
        }
    }

    /// The inputs, each read when it is asked for.
    ///
    /// Standard input stays locked by the thread that calls this.
    pub fn into_payloads(self, form: Form) -> Box<dyn Iterator<Item = io::Result<Payload>>> {
        match self {
            Self::List(list) => Box::new(list.into_iter().map(move |input| {
                Ok(match input {
                    Ok(name) => form.check(Payload::from_name(name), || "this input".to_owned()),
                    Err((shown, why)) => Payload::Unreadable { shown, why },
                })
            })),
            Self::StandardInput => Box::new(Lines::new(io::stdin().lock(), form)),
            Self::Range(count) => Box::new((0..count).map(|number| Ok(Payload::Text(number.to_string())))),
        }
    }
}

/// The name of a file or an argument; or what could not be looked at, and why.
type FileOrTrouble = Result<OsString, (String, String)>;

fn matching_files(pattern: &str) -> Result<impl Iterator<Item = FileOrTrouble>, CommandError> {
    let (found, unreadable) = files::matching(pattern).map_err(|error| {
        CommandError::new(
            exit_codes::USAGE,
            format!(
                "--glob {} is not a pattern: {} (character {})",
                quoted(pattern),
                error.message,
                error.character
            ),
        )
        .with_help("patterns know `*`, `?`, `[a-z]` and `**/`; put `[` in brackets to mean itself: `[[]`")
    })?;
    let troubles = unreadable.into_iter().map(|trouble| {
        let why = format!("cannot read this folder: {}", trouble.error);
        Err((trouble.folder.to_string_lossy().into_owned(), why))
    });
    Ok(found.into_iter().map(Ok).chain(troubles))
}

/// What inputs must look like.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// They are JSON.
    pub json: bool,
    /// They are lists of arguments.
    pub star: bool,
}

impl Form {
    fn check(self, payload: Payload, place: impl Fn() -> String) -> Payload {
        if !self.json {
            return payload;
        }
        let trouble = match &payload {
            Payload::Text(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(value) if self.star && !value.get().starts_with('[') => {
                    format!("{} is not a JSON list of arguments, as --star expects", place())
                }
                Ok(_) => return payload,
                Err(error) => format!("{} is not JSON: {}", place(), json_trouble(&error)),
            },
            Payload::Name(_) => format!("{} is not UTF-8, as JSON must be", place()),
            Payload::Unreadable { .. } => return payload,
        };
        Payload::Unreadable {
            shown: payload.text().into_owned(),
            why: trouble,
        }
    }
}

fn json_trouble(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    if error.line() > 1 {
        format!("{what} (line {}, column {})", error.line(), error.column())
    } else {
        format!("{what} (column {})", error.column())
    }
}

/// Lines of a reader, bounded in length.
struct Lines<R> {
    reader: R,
    form: Form,
    number: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, form: Form) -> Self {
        Self {
            reader,
            form,
            number: 0,
            ended: false,
        }
    }

    /// The next line without its end, and whether it is whole; none after the last.
    fn read(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        let read = (&mut self.reader)
            .take(MAX_LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        } else if line.len() > MAX_LINE_BYTES {
            line.truncate(4 * SHOWN_CHARACTERS);
            line.shrink_to_fit();
            self.skip_rest_of_line()?;
            return Ok(Some((line, false)));
        }
        Ok(Some((line, true)))
    }

    fn skip_rest_of_line(&mut self) -> io::Result<()> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (used, done) = match available.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (available.len(), available.is_empty()),
            };
            self.reader.consume(used);
            if done {
                return Ok(());
            }
        }
    }

    fn payload(&self, line: Vec<u8>, whole: bool) -> Payload {
        let place = || format!("line {} of standard input", self.number);
        let unreadable = |line: &[u8], why: String| {
            let shown = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN_CHARACTERS)]).into_owned();
            Payload::Unreadable { shown, why }
        };
        if !whole {
            return unreadable(
                &line,
                format!("{} is longer than {} MiB", place(), MAX_LINE_BYTES >> 20),
            );
        }
        match String::from_utf8(line) {
            Ok(text) => self.form.check(Payload::Text(text), place),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let line = error.as_bytes();
                unreadable(
                    line,
                    format!(
                        "{} is not UTF-8: byte 0x{:02x} at position {}",
                        place(),
                        line[at],
                        at + 1
                    ),
                )
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Payload>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ended {
                return None;
            }
            match self.read() {
                Ok(None) => {
                    self.ended = true;
                    return None;
                }
                Ok(Some((line, _))) if self.form.json && line.trim_ascii().is_empty() => {}
                Ok(Some((line, whole))) => return Some(Ok(self.payload(line, whole))),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Form = Form {
        json: false,
        star: false,
    };
    const JSON: Form = Form {
        json: true,
        star: false,
    };
    const STAR: Form = Form {
        json: true,
        star: true,
    };

    fn lines(bytes: &[u8], form: Form) -> Vec<Payload> {
        Lines::new(bytes, form).map(Result::unwrap).collect()
    }

    fn text(text: &str) -> Payload {
        Payload::Text(text.to_owned())
    }

    fn why(payload: &Payload) -> &str {
        match payload {
            Payload::Unreadable { why, .. } => why,
            other => panic!("readable: {other:?}"),
        }
    }

    #[test]
    fn lines_lose_their_ends_and_empty_ones_count() {
        assert_eq!(
            lines(b"a\r\n\nb c\nlast", TEXT),
            [text("a"), text(""), text("b c"), text("last")]
        );
        assert_eq!(lines(b"", TEXT), []);
    }

    #[test]
    fn a_line_that_is_not_utf8_fails_alone_and_is_named() {
        let payloads = lines(b"a\nb\xffc\nd\n", TEXT);
        assert_eq!(
            why(&payloads[1]),
            "line 2 of standard input is not UTF-8: byte 0xff at position 2"
        );
        assert_eq!((&payloads[0], &payloads[2]), (&text("a"), &text("d")));
    }

    #[test]
    fn a_line_without_end_is_not_kept_in_memory() {
        let endless = io::repeat(b'x')
            .take(MAX_LINE_BYTES as u64 + 10)
            .chain(&b"\nnext\n"[..]);
        let payloads: Vec<_> = Lines::new(io::BufReader::with_capacity(1 << 20, endless), TEXT)
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            why(&payloads[0]),
            "line 1 of standard input is longer than 64 MiB"
        );
        assert_eq!(payloads[1], text("next"));
    }

    #[test]
    fn json_is_checked_but_not_changed_and_blank_lines_are_skipped() {
        let payloads = lines(b"{\"a\": 1.10}\n  \n[1,\nnul\n\"x\"", JSON);
        assert_eq!(payloads[0], text("{\"a\": 1.10}"));
        assert_eq!(
            why(&payloads[1]),
            "line 3 of standard input is not JSON: EOF while parsing a value (column 3)"
        );
        assert!(
            why(&payloads[2]).starts_with("line 4 of standard input is not JSON: "),
            "{payloads:?}"
        );
        assert_eq!(payloads[3], text("\"x\""));
    }

    #[test]
    fn star_takes_lists_only() {
        let payloads = lines(b"[1, 2]\n{}\n", STAR);
        assert_eq!(payloads[0], text("[1, 2]"));
        assert_eq!(
            why(&payloads[1]),
            "line 2 of standard input is not a JSON list of arguments, as --star expects"
        );
    }

    #[test]
    fn a_name_that_is_not_utf8_travels_as_hexadecimal() {
        let payload = Payload::from_name(OsString::from_vec(b"a\xff".to_vec()));
        assert_eq!(payload.for_host(), Some(ItemInput::NameHex("61ff".into())));
    }

    #[test]
    fn long_inputs_are_cut_in_messages() {
        let shown = text(&"é".repeat(100)).quoted();
        assert_eq!(shown, format!("\"{}\"… (200 bytes)", "é".repeat(80)));
        assert_eq!(text("a\tb").quoted(), r#""a\tb""#);
    }
}
