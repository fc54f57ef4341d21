//! Files whose names match a pattern.
//!
//! The matching of one name is the `glob` crate's; the walk is ours, because names that are not UTF-8 and folders that
//! cannot be read must not be passed over in silence.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// A folder that could not be read, and why.
#[derive(Debug)]
pub struct Unreadable {
    /// The folder.
    pub folder: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// A pattern that is none: what is wrong with it, and at which character (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub message: &'static str,
    /// Where.
    pub character: usize,
}

enum Part {
    /// This very name.
    Name(String),
    /// Any name that matches.
    Names(Pattern),
    /// Any number of folders.
    Folders,
}

/// The files (anything but folders) that match, in alphabetical order, and the folders that could not be looked into.
///
/// # Errors
///
/// When the pattern is malformed.
pub fn matching(pattern: &str) -> Result<(Vec<OsString>, Vec<Unreadable>), Malformed> {
    let mut parts = Vec::new();
    let mut start = 0;
    for text in pattern.split('/') {
        match text {
            "" => {}
            "**" if matches!(parts.last(), Some(Part::Folders)) => {}
            "**" => parts.push(Part::Folders),
            _ if text.contains(['*', '?', '[']) => {
                parts.push(Part::Names(Pattern::new(text).map_err(|error| Malformed {
                    message: error.msg,
                    character: start + error.pos + 1,
                })?));
            }
            _ => parts.push(Part::Name(text.to_owned())),
        }
        start += text.chars().count() + 1;
    }
    if matches!(parts.last(), Some(Part::Folders)) {
        parts.push(Part::Names(Pattern::new("*").expect("the pattern is constant")));
    }
    let mut walk = Walk {
        files: Vec::new(),
        unreadable: Vec::new(),
    };
    walk.descend(
        if pattern.starts_with('/') {
            Path::new("/")
        } else {
            Path::new("")
        },
        &parts,
    );
    walk.files.sort_unstable();
    // Two `**` can divide the same folders between them in several ways.
    walk.files.dedup();
    Ok((walk.files, walk.unreadable))
}

struct Walk {
    files: Vec<OsString>,
    unreadable: Vec<Unreadable>,
}

impl Walk {
    fn descend(&mut self, folder: &Path, parts: &[Part]) {
        let Some((part, rest)) = parts.split_first() else {
            return;
        };
        match part {
            Part::Name(name) => self.reach(folder.join(name), rest),
            Part::Names(pattern) => {
                const OPTIONS: MatchOptions = MatchOptions {
                    case_sensitive: true,
                    require_literal_separator: true,
                    require_literal_leading_dot: true,
                };
                for entry in self.entries(folder) {
                    // A byte that is not UTF-8 counts as one unknown character, which `*` and `?` match.
                    if pattern.matches_with(&entry.file_name().to_string_lossy(), OPTIONS) {
                        self.reach(folder.join(entry.file_name()), rest);
                    }
                }
            }
            Part::Folders => {
                self.descend(folder, rest);
                for entry in self.entries(folder) {
                    let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                    // A link may lead back up.
                    if !is_hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        self.descend(&folder.join(entry.file_name()), parts);
                    }
                }
            }
        }
    }

    fn reach(&mut self, path: PathBuf, rest: &[Part]) {
        let is_folder = path.is_dir();
        if !rest.is_empty() {
            if is_folder {
                self.descend(&path, rest);
            }
        } else if !is_folder && path.symlink_metadata().is_ok() {
            self.files.push(path.into_os_string());
        }
    }

    fn entries(&mut self, folder: &Path) -> Vec<fs::DirEntry> {
        let opened = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        // Read whole before going deeper, so that only one folder is open at a time.
        match fs::read_dir(opened).and_then(Iterator::collect) {
            Ok(entries) => entries,
            Err(error) => {
                // Gone since its name was read, or never there.
                if error.kind() != io::ErrorKind::NotFound {
                    self.unreadable.push(Unreadable {
                        folder: opened.to_owned(),
                        error,
                    });
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    /// A folder with these files, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[&[u8]]) -> Self {
            let root = std::env::temp_dir().join(format!("procession-files-{name}-{}", std::process::id()));
            for file in files {
                let path = root.join(OsString::from_vec(file.to_vec()));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(root)
        }

        fn matching(&self, pattern: &str) -> Vec<Vec<u8>> {
            let root = self.0.to_str().unwrap();
            let (files, unreadable) = matching(&format!("{root}/{pattern}")).unwrap();
            assert!(unreadable.is_empty(), "{unreadable:?}");
            files
                .into_iter()
                .map(|file| file.into_vec()[root.len() + 1..].to_vec())
                .collect()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn stars_stay_within_a_folder_and_double_stars_do_not() {
        let tree = Tree::new(
            "stars",
            &[b"a.txt", b"b.md", b"sub/c.txt", b"sub/deep/d.txt", b"sub.txt/e"],
        );
        assert_eq!(tree.matching("*.txt"), [b"a.txt".to_vec()]);
        assert_eq!(tree.matching("*/*.txt"), [b"sub/c.txt".to_vec()]);
        assert_eq!(
            tree.matching("**/*.txt"),
            [
                b"a.txt".to_vec(),
                b"sub/c.txt".to_vec(),
                b"sub/deep/d.txt".to_vec()
            ]
        );
        assert_eq!(tree.matching("**/**/d.txt"), [b"sub/deep/d.txt".to_vec()]);
        assert_eq!(
            tree.matching("sub/**"),
            [b"sub/c.txt".to_vec(), b"sub/deep/d.txt".to_vec()]
        );
        assert_eq!(tree.matching("**/deep/**/d.*"), [b"sub/deep/d.txt".to_vec()]);
        assert_eq!(
            tree.matching("sub/../[ab].*"),
            [b"sub/../a.txt".to_vec(), b"sub/../b.md".to_vec()]
        );
        assert!(tree.matching("nowhere/*").is_empty());
    }

    #[test]
    fn hidden_names_match_only_when_asked_for() {
        let tree = Tree::new("hidden", &[b".a", b".b/c", b"d"]);
        assert_eq!(tree.matching("**/*"), [b"d".to_vec()]);
        assert_eq!(tree.matching(".*"), [b".a".to_vec()]);
        assert_eq!(tree.matching(".b/*"), [b".b/c".to_vec()]);
    }

    #[test]
    fn names_that_are_not_utf8_match() {
        let tree = Tree::new("bytes", &[b"caf\xe9.bin"]);
        assert_eq!(tree.matching("*.bin"), [b"caf\xe9.bin".to_vec()]);
        assert_eq!(tree.matching("caf?.bin"), [b"caf\xe9.bin".to_vec()]);
    }

    #[test]
    fn links_are_not_followed_in_circles() {
        let tree = Tree::new("links", &[b"sub/a"]);
        std::os::unix::fs::symlink("..", tree.0.join("sub/up")).unwrap();
        assert_eq!(tree.matching("**/a"), [b"sub/a".to_vec()]);
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_its_place() {
        assert_eq!(matching("src/[").unwrap_err().character, 5);
        assert_eq!(matching("é/a**").unwrap_err().character, 3);
    }
}
