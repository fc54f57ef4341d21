//! Where this user's pools are: by the descriptors of this user's processes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::channel::View;

/// What the kernel calls a pool's memory.
const LINK: &str = "/memfd:procession (deleted)";

/// A pool's memory as some processes have it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Descriptors of it, in whatever process.
    paths: Vec<PathBuf>,
    /// The processes that have it.
    pub pids: HashSet<u32>,
}

impl Found {
    /// Opens it; `None` if it is no pool's, or everybody who had it is gone by now.
    pub fn open(&self) -> Option<View> {
        // Opening it a second time yields a description of one's own, for reading alone.
        self.paths
            .iter()
            .find_map(|path| View::open(File::open(path).ok()?).ok())
    }
}

/// The memories that call themselves a pool's, by the number of their file.
pub(super) fn pools() -> HashMap<u64, Found> {
    let mut found: HashMap<u64, Found> = HashMap::new();
    let me = fs::metadata("/proc/self").map(|m| m.uid());
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if process.metadata().map(|m| m.uid()).ok() != me.as_ref().ok().copied() {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let path = descriptor.path();
            if !fs::read_link(&path).is_ok_and(|link| link.as_os_str() == LINK) {
                continue;
            }
            let Ok(file) = fs::metadata(&path) else { continue };
            let pool = found.entry(file.ino()).or_default();
            pool.paths.push(path);
            pool.pids.insert(pid);
        }
    }
    found
}
