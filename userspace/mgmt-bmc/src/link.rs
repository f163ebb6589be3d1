// SPDX-License-Identifier: MIT OR Apache-2.0

//! The connection to the machine: made again and again, and never waited for.

use mgmt_bmc::vm::{self, Decoder, Frame, Mistake};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between attempts to connect.
const RETRY: Duration = Duration::from_millis(100);
/// What the machine does not read is kept up to here; then the connection is broken.
const UNSENT: usize = 1 << 20;

/// The connection, or when to try again.
pub(crate) struct Link {
    path: PathBuf,
    up: Option<Up>,
    next_try: Instant,
    /// Replies that are not due yet.
    later: Vec<(Instant, Vec<u8>)>,
}

struct Up {
    stream: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
}

impl Link {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            up: None,
            next_try: Instant::now(),
            later: Vec::new(),
        }
    }

    /// Connects, if it is time to; whether there is a new connection.
    pub(crate) fn connect(&mut self) -> bool {
        let now = Instant::now();
        if self.up.is_some() || now < self.next_try {
            return false;
        }
        self.next_try = now + RETRY;
        let Ok(stream) = UnixStream::connect(&self.path) else {
            return false;
        };
        if stream.set_nonblocking(true).is_err() {
            return false;
        }
        self.up = Some(Up {
            stream,
            decoder: Decoder::default(),
            unsent: Vec::new(),
        });
        self.send(&vm::UNFINISHED);
        // What was enabled, or waits, the machine knows from another controller.
        for command in [
            &[vm::VERSION, vm::SPOKEN][..],
            &[vm::DISABLE_INTERRUPTS],
            &[vm::NO_ATTENTION],
        ] {
            self.send(&vm::command(command));
        }
        true
    }

    /// Breaks the connection; what was to be sent is lost.
    pub(crate) fn disconnect(&mut self, time: Duration) {
        self.up = None;
        self.later.clear();
        self.next_try = Instant::now() + time;
    }

    /// To wait for: the stream, and whether something is to be written.
    pub(crate) fn waits(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let up = self.up.as_ref()?;
        Some((up.stream.as_fd(), !up.unsent.is_empty()))
    }

    /// When the next reply is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.later.iter().map(|(at, _)| *at).min()
    }

    /// Sends now, or as soon as the machine reads.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Some(up) = &mut self.up {
            up.unsent.extend(bytes);
        }
        self.flush();
    }

    /// Sends after a while.
    pub(crate) fn send_after(&mut self, time: Duration, bytes: Vec<u8>) {
        if time.is_zero() {
            self.send(&bytes);
        } else {
            self.later.push((Instant::now() + time, bytes));
        }
    }

    /// Sends what is due.
    pub(crate) fn send_due(&mut self) {
        let now = Instant::now();
        let (due, later) = self.later.drain(..).partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, Vec<u8>)> = due;
        for (_, bytes) in due {
            self.send(&bytes);
        }
    }

    /// Writes what the machine takes.
    pub(crate) fn flush(&mut self) {
        let Some(up) = &mut self.up else { return };
        while !up.unsent.is_empty() {
            match up.stream.write(&up.unsent) {
                Ok(n) => drop(up.unsent.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock && up.unsent.len() < UNSENT => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(RETRY),
            }
        }
    }

    /// Reads what there is; its frames.
    pub(crate) fn receive(&mut self) -> Vec<Result<Frame, Mistake>> {
        let Some(up) = &mut self.up else {
            return Vec::new();
        };
        let mut bytes = [0; 4096];
        match up.stream.read(&mut bytes) {
            Ok(n) if n > 0 => {
                let frames = bytes[..n].iter().filter_map(|&b| up.decoder.push(b));
                return frames.collect();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.disconnect(RETRY),
        }
        Vec::new()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }
}
