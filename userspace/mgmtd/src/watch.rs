// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tells when a file was written, or another was moved into its place.

use anyhow::{Context, Result};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A watched file, which need not be there.
pub struct Watch {
    inotify: OwnedFd,
    name: OsString,
}

impl Watch {
    /// Watches its directory, as a file that is replaced is another one.
    pub fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().context("a file is expected")?.to_owned();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).context("inotify")?;
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        add_watch(&inotify, directory, what)
            .with_context(|| format!("watching {}", directory.display()))?;
        Ok(Self { inotify, name })
    }

    /// Whether it was written since the last call. Does not wait.
    pub fn changed(&self) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    changed |= name == Some(self.name.as_bytes());
                }
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("inotify"),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_and_replacing_are_seen_and_others_are_not() {
        let directory = std::env::temp_dir().join(format!("mgmtd-watch-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("rules");
        let watch = Watch::new(&file).unwrap();
        assert!(!watch.changed().unwrap());
        std::fs::write(&file, "a").unwrap();
        assert!(watch.changed().unwrap());
        let other = directory.join("other");
        std::fs::write(&other, "b").unwrap();
        assert!(!watch.changed().unwrap());
        std::fs::rename(&other, &file).unwrap();
        assert!(watch.changed().unwrap());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
