// SPDX-License-Identifier: MIT OR Apache-2.0

//! One connection to xenstored.

use crate::wire::{HEADER, Op, PAYLOAD_MAX, Packet, strings};
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// xenstored's socket, in the domain where it runs.
pub const SOCKET: &str = "/run/xenstored/socket";
/// The way to xenstored from any domain.
pub const XENBUS: &str = "/dev/xen/xenbus";

/// An answer later than this is none.
const ANSWER: Duration = Duration::from_secs(10);
/// Watch events kept. Equal ones are kept once, so a guest that writes a lot adds nothing; past
/// this many different ones, all are replaced by one [`Event::is_overflow`].
const EVENTS_MAX: usize = 1024;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    Both,
}

/// One entry of a node's permissions. The first of a node names its owner, who may do anything,
/// and what all unnamed domains may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// Who.
    pub domain: u32,
    /// May do what.
    pub access: Access,
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.access {
            Access::None => 'n',
            Access::Read => 'r',
            Access::Write => 'w',
            Access::Both => 'b',
        };
        write!(f, "{letter}{}", self.domain)
    }
}

/// Something changed at or below a watched path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed, or the name of the special watch.
    pub path: String,
    /// The watch's token.
    pub token: String,
}

impl Event {
    fn overflow() -> Self {
        Self {
            path: String::new(),
            token: String::new(),
        }
    }

    /// Events were dropped: look at everything that is watched.
    pub fn is_overflow(&self) -> bool {
        self.token.is_empty()
    }
}

/// A connection. Its file is readable when an event may be waiting; ask [`Xenstore::event`] first,
/// as answers to requests may have brought events along.
#[derive(Debug)]
pub struct Xenstore {
    fd: OwnedFd,
    input: Vec<u8>,
    events: VecDeque<Event>,
    request: u32,
}

impl Xenstore {
    /// Connects over [`SOCKET`], or where there is none over [`XENBUS`].
    pub fn connect() -> Result<Self> {
        let socket = match UnixStream::connect(SOCKET) {
            Ok(stream) => return Ok(Self::over(stream.into())),
            Err(e) => e,
        };
        match rustix::fs::open(XENBUS, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self::over(fd)),
            Err(xenbus) => Err(Error::Connect(format!(
                "{SOCKET}: {socket}; {XENBUS}: {xenbus} (does this domain run on Xen, and as root?)"
            ))),
        }
    }

    /// A client over an open connection.
    pub fn over(fd: OwnedFd) -> Self {
        Self {
            fd,
            input: Vec::new(),
            events: VecDeque::new(),
            request: 0,
        }
    }

    /// Reads a node. Not text is replaced.
    pub fn read(&mut self, path: &str) -> Result<String> {
        self.read_in(0, path)
    }

    /// Reads a node; `None` if it does not exist.
    pub fn read_if_any(&mut self, path: &str) -> Result<Option<String>> {
        if_any(self.read(path))
    }

    /// The names of a node's children.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>> {
        self.directory_in(0, path)
    }

    /// Writes a node, making it and its parents where they are missing.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.write_in(0, path, value)
    }

    /// Removes a node and all below it. It need not exist.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        if_any(self.call(Op::Rm, 0, path, &[])).map(drop)
    }

    /// A node's permissions.
    pub fn perms(&mut self, path: &str) -> Result<Vec<String>> {
        Ok(strings(&self.call(Op::GetPerms, 0, path, &[])?))
    }

    /// Whether xenstored serves this domain: it was introduced and has not been released.
    pub fn is_introduced(&mut self, domain: u32) -> Result<bool> {
        let answer = self.call(Op::IsDomainIntroduced, 0, &domain.to_string(), &[])?;
        Ok(answer.first() == Some(&b'T'))
    }

    /// Watches a path and everything below it, or `@introduceDomain`, `@releaseDomain`. The first
    /// event comes at once. The token must not be empty.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        self.call(Op::Watch, 0, path, &[token]).map(drop)
    }

    /// Ends a watch. Events of it that are waiting are dropped.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        let done = self.call(Op::Unwatch, 0, path, &[token]).map(drop);
        self.events.retain(|event| event.token != token);
        done
    }

    /// The next event, waiting up to `timeout` for it.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.packet(end)? {
                None => return Ok(None),
                Some(packet) if packet.is(Op::WatchEvent) => self.keep_event(&packet.payload),
                Some(_) => {} // The late answer to a request that was given up.
            }
        }
    }

    /// Puts events that were taken, but not meant for the taker, back in front.
    pub(crate) fn give_back(&mut self, events: Vec<Event>) {
        for event in events.into_iter().rev() {
            self.events.push_front(event);
        }
    }

    /// Runs `body` in transactions until one is not disturbed by others.
    pub fn transaction<T>(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..50 {
            let id = strings(&self.call(Op::TransactionStart, 0, "", &[])?);
            let id = id
                .first()
                .and_then(|id| id.parse().ok())
                .ok_or(Error::Protocol("transaction id"))?;
            let done = body(&mut Transaction { store: self, id });
            let end = if done.is_ok() { "T" } else { "F" };
            match (done, self.call(Op::TransactionEnd, id, end, &[])) {
                (Ok(value), Ok(_)) => return Ok(value),
                (Ok(_), Err(e)) if e.is("EAGAIN") => {}
                (Ok(_), Err(e)) => return Err(e),
                // The first error is the cause, whatever aborting said. But what was read in a
                // transaction that has met another may be inconsistent, and xenstored says so here.
                (Err(e), _) if e.is("EAGAIN") => {}
                (Err(e), _) => return Err(e),
            }
        }
        Err(Error::Conflict)
    }

    fn read_in(&mut self, tx: u32, path: &str) -> Result<String> {
        let value = self.call(Op::Read, tx, path, &[])?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    fn write_in(&mut self, tx: u32, path: &str, value: &str) -> Result<()> {
        check(path)?;
        // The value alone has no NUL behind it.
        let payload = [path.as_bytes(), b"\0", value.as_bytes()].concat();
        self.exchange(Op::Write, tx, path, payload).map(drop)
    }

    fn directory_in(&mut self, tx: u32, path: &str) -> Result<Vec<String>> {
        match self.call(Op::Directory, tx, path, &[]) {
            Ok(list) => Ok(strings(&list)),
            Err(e) if e.is("E2BIG") => self.directory_in_parts(tx, path),
            Err(e) => Err(e),
        }
    }

    /// A listing that is larger than a message comes in parts; each tells the node's generation,
    /// and if that changes the listing starts again.
    fn directory_in_parts(&mut self, tx: u32, path: &str) -> Result<Vec<String>> {
        let (mut list, mut generation) = (Vec::new(), Vec::new());
        for _ in 0..1024 {
            let offset = list.len().to_string();
            let answer = self.call(Op::DirectoryPart, tx, path, &[&offset])?;
            let at = answer
                .iter()
                .position(|&b| b == 0)
                .ok_or(Error::Protocol("partial listing"))?;
            let (now, part) = (&answer[..at], &answer[at + 1..]);
            if now != generation && !list.is_empty() {
                list.clear();
                generation.clear();
                continue;
            }
            generation = now.to_vec();
            // The last part ends with an empty name.
            let last = part == [0] || part.ends_with(&[0, 0]);
            list.extend_from_slice(&part[..part.len() - usize::from(last)]);
            if last {
                return Ok(strings(&list));
            }
            if part.is_empty() {
                break;
            }
        }
        Err(Error::Protocol("endless listing"))
    }

    /// A request whose payload is NUL-terminated strings.
    fn call(&mut self, op: Op, tx: u32, path: &str, rest: &[&str]) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        for part in std::iter::once(&path).chain(rest) {
            check(part)?;
            payload.extend_from_slice(part.as_bytes());
            payload.push(0);
        }
        self.exchange(op, tx, path, payload)
    }

    fn exchange(&mut self, op: Op, tx: u32, path: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Error::BadRequest(path.to_owned()));
        }
        self.request = self.request.wrapping_add(1);
        let request = Packet {
            op: op as u32,
            request: self.request,
            transaction: tx,
            payload,
        };
        let bytes = request.encode();
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::io::write(&self.fd, &bytes[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return Err(Error::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        let end = Instant::now() + ANSWER;
        loop {
            let answer = self.packet(end)?.ok_or(Error::TimedOut)?;
            if answer.is(Op::WatchEvent) {
                self.keep_event(&answer.payload);
            } else if answer.request != request.request {
                // The late answer to a request that was given up.
            } else if answer.is(Op::Error) {
                return Err(Error::Refused {
                    operation: op.name(),
                    path: path.to_owned(),
                    code: strings(&answer.payload)
                        .into_iter()
                        .next()
                        .unwrap_or_default(),
                });
            } else if answer.is(op) {
                return Ok(answer.payload);
            } else {
                return Err(Error::Protocol("answer to another question"));
            }
        }
    }

    fn keep_event(&mut self, payload: &[u8]) {
        let mut parts = strings(payload).into_iter();
        let (Some(path), Some(token)) = (parts.next(), parts.next()) else {
            return;
        };
        let event = Event { path, token };
        if self.events.len() >= EVENTS_MAX {
            self.events.clear();
            self.events.push_back(Event::overflow());
        } else if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }

    /// The next message of xenstored; `None` if `end` passed first.
    fn packet(&mut self, end: Instant) -> Result<Option<Packet>> {
        loop {
            if let Some(packet) = Packet::take(&mut self.input)? {
                return Ok(Some(packet));
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut part = [0; HEADER + PAYLOAD_MAX];
            match rustix::io::read(&self.fd, &mut part) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => self.input.extend_from_slice(&part[..n]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A transaction: all of it takes effect, or nothing.
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a mut Xenstore,
    id: u32,
}

impl Transaction<'_> {
    /// Reads a node; `None` if it does not exist.
    pub fn read_if_any(&mut self, path: &str) -> Result<Option<String>> {
        if_any(self.store.read_in(self.id, path))
    }

    /// The names of a node's children; none if it does not exist.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>> {
        Ok(if_any(self.store.directory_in(self.id, path))?.unwrap_or_default())
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.store.write_in(self.id, path, value)
    }

    /// Makes a node with these permissions, which what is written below it inherits.
    pub fn mkdir(&mut self, path: &str, perms: &[Perm]) -> Result<()> {
        self.store.call(Op::Mkdir, self.id, path, &[])?;
        let perms: Vec<_> = perms.iter().map(Perm::to_string).collect();
        let perms: Vec<_> = perms.iter().map(String::as_str).collect();
        let done = self.store.call(Op::SetPerms, self.id, path, &perms);
        done.map(drop)
    }

    /// Removes a node and all below it. It need not exist.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        if_any(self.store.call(Op::Rm, self.id, path, &[])).map(drop)
    }
}

fn if_any<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is("ENOENT") => Ok(None),
        Err(e) => Err(e),
    }
}

/// A NUL inside would make one string two.
fn check(text: &str) -> Result<()> {
    if text.len() < PAYLOAD_MAX && !text.contains('\0') {
        Ok(())
    } else {
        Err(Error::BadRequest(text.chars().take(80).collect()))
    }
}
