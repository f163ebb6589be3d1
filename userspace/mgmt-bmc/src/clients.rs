// SPDX-License-Identifier: MIT OR Apache-2.0

//! Those who steer the controller: lines in, lines out.

use anyhow::{Context as _, Result};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Bytes of the longest line.
const LINE: usize = 4096;

pub(crate) struct Clients {
    listener: UnixListener,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    partial: Vec<u8>,
}

impl Clients {
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        // What an earlier one left is in the way.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
        })
    }

    /// To wait for.
    pub(crate) fn waits(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = self.clients.iter().map(|c| c.stream.as_fd());
        [self.listener.as_fd()].into_iter().chain(streams)
    }

    /// Takes new clients, and has each whole line answered.
    pub(crate) fn serve(&mut self, mut answer: impl FnMut(&str) -> String) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    partial: Vec::new(),
                });
            }
        }
        self.clients.retain_mut(|client| client.serve(&mut answer));
    }
}

impl Client {
    /// False at its end.
    fn serve(&mut self, answer: &mut impl FnMut(&str) -> String) -> bool {
        let mut bytes = [0; LINE];
        let open = match self.stream.read(&mut bytes) {
            Ok(n) => {
                self.partial.extend(&bytes[..n]);
                n > 0
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        while let Some(end) = self.partial.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            let mut reply = answer(line.trim());
            reply.push('\n');
            // Who does not read its answers is let go.
            if self.stream.write_all(reply.as_bytes()).is_err() {
                return false;
            }
        }
        open && self.partial.len() <= LINE
    }
}
