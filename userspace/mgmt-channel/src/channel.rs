// SPDX-License-Identifier: MIT OR Apache-2.0

//! One open file of `/dev/mgmt`.

use crate::ids::Ids;
use crate::uapi::{self, Account, Info, Link, RuleHits};
use crate::{
    Address, AppId, Component, Error, Flags, HEADER_LEN, Kind, Message, Reason, Result, Serial,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where the kernel module puts its device.
pub const DEVICE: &str = "/dev/mgmt";

/// A bridge tells of a deadline that passed within 0.1 s; this leaves room for a busy machine.
const DEADLINE_TOLD_WITHIN: Duration = Duration::from_millis(500);

/// Messages that are kept for [`Channel::recv`] while [`Channel::request`] waits for its reply.
const BACKLOG: usize = 1024;
/// A buffer is never made larger than this, whatever the kernel says, bytes.
const MAX_BUFFER: usize = 16 << 20;
/// A non-blocking sender tries again after this at first, and doubles it from then on.
pub(crate) const RETRY_FIRST: Duration = Duration::from_micros(100);
/// The longest pause between two tries.
pub(crate) const RETRY_LONGEST: Duration = Duration::from_millis(10);

/// A session with the bridge of this domain.
///
/// Threads may share it: one that sends and one that receives do not wait for each other.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    max_payload: usize,
    /// A bridge is at the other end, which tells when the deadline of a request has passed.
    is_device: bool,
    is_nonblocking: AtomicBool,
    ids: Ids,
    incoming: Mutex<Incoming>,
}

#[derive(Debug, Default)]
struct Incoming {
    buffer: Vec<u8>,
    backlog: VecDeque<Message>,
}

impl Channel {
    /// Opens [`DEVICE`].
    pub fn open() -> Result<Self> {
        Self::open_at(DEVICE)
    }

    /// Opens the device at `path`.
    pub fn open_at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| Error::Open {
                path: path.to_owned(),
                errno,
            },
        )?;
        let max_payload = uapi::info(fd.as_fd())?.max_payload;
        Ok(Self {
            is_device: true,
            ..Self::from_fd(fd, max_payload)
        })
    }

    /// A channel over a file that moves whole messages and is bound already: a device that was
    /// passed on, or in tests one end of a `SOCK_SEQPACKET` pair.
    pub fn from_fd(fd: OwnedFd, max_payload: usize) -> Self {
        Self {
            fd,
            max_payload,
            is_device: false,
            is_nonblocking: AtomicBool::new(false),
            ids: Ids::default(),
            incoming: Mutex::default(),
        }
    }

    /// Claims `app` in this domain for this channel.
    pub fn bind(&self, app: &AppId) -> Result<()> {
        uapi::bind(self.fd.as_fd(), app, false)
    }

    /// Claims `app` together with others that share it: a broadcast goes to all of them, any other
    /// message to the one that was first.
    pub fn bind_shared(&self, app: &AppId) -> Result<()> {
        uapi::bind(self.fd.as_fd(), app, true)
    }

    /// Claims `app` of the hardware with this serial number, which this program has in hand. In the
    /// management VM only. Needs `CAP_SYS_ADMIN`.
    pub fn bind_hardware(&self, serial: Serial, app: &AppId) -> Result<()> {
        uapi::bind_hardware(self.fd.as_fd(), serial, app)
    }

    /// [`Channel::bind`] by name, in one line with opening.
    pub fn bound(self, app: &str) -> Result<Self> {
        self.bind(&AppId::new(app.as_bytes())?)?;
        Ok(self)
    }

    /// What this file and this domain are.
    pub fn info(&self) -> Result<Info> {
        uapi::info(self.fd.as_fd())
    }

    /// Every link of this domain's bridge. Needs `CAP_SYS_ADMIN`.
    pub fn links(&self) -> Result<Vec<Link>> {
        uapi::links(self.fd.as_fd())
    }

    /// The serial numbers of the hardware that programs of this domain serve, in their order. Needs
    /// `CAP_SYS_ADMIN`.
    pub fn hardware(&self) -> Result<Vec<Serial>> {
        uapi::hardware(self.fd.as_fd())
    }

    /// The account of every principal of this domain's bridge. Needs `CAP_SYS_ADMIN`.
    pub fn accounts(&self) -> Result<Vec<Account>> {
        uapi::accounts(self.fd.as_fd())
    }

    /// Says what address (MVM_IP) this management VM has. Needs `CAP_SYS_ADMIN`.
    pub fn set_mvm(&self, ip: IpAddr) -> Result<()> {
        let ip = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        uapi::set_mvm(self.fd.as_fd(), ip.octets())
    }

    /// Puts rules in the place of those that hold; if one is wrong, nothing changes. Needs
    /// `CAP_SYS_ADMIN`.
    pub fn load_policy(&self, text: &[u8]) -> Result<()> {
        uapi::load_policy(self.fd.as_fd(), text)
    }

    /// The rules that hold, as they were loaded. Needs `CAP_SYS_ADMIN`.
    pub fn read_policy(&self) -> Result<Vec<u8>> {
        uapi::read_policy(self.fd.as_fd())
    }

    /// What the rule with this number, from 0, has decided. Needs `CAP_SYS_ADMIN`.
    pub fn rule_hits(&self, number: u32) -> Result<RuleHits> {
        uapi::rule_hits(self.fd.as_fd(), number, false)
    }

    /// What the built-in rule with this number, from 0, has decided. Needs `CAP_SYS_ADMIN`.
    pub fn built_in_hits(&self, number: u32) -> Result<RuleHits> {
        uapi::rule_hits(self.fd.as_fd(), number, true)
    }

    /// Whether sends return [`Error::WouldBlock`] instead of waiting for room. Off at first.
    pub fn set_nonblocking(&self, on: bool) -> Result<()> {
        let error = |errno| Error::from_errno("fcntl", errno);
        let mut flags = rustix::fs::fcntl_getfl(&self.fd).map_err(error)?;
        flags.set(OFlags::NONBLOCK, on);
        self.is_nonblocking.store(on, Ordering::Relaxed);
        rustix::fs::fcntl_setfl(&self.fd, flags).map_err(error)
    }

    /// Bytes of the largest payload.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Sends one message. Waits for room at the receiver unless the channel is non-blocking.
    ///
    /// Success means that the bridge accepted the message: it is delivered once, or comes back as
    /// an undeliverable one.
    pub fn send(&self, message: &Message) -> Result<()> {
        self.send_bytes(&message.encode())
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match rustix::io::write(&self.fd, bytes) {
                Ok(n) if n == bytes.len() => return Ok(()),
                // Never of the device: it takes a message whole or not at all.
                Ok(_) => return Err(Error::Malformed("short write")),
                // Nothing was sent, so sending again sends it once.
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) => {
                    return Err(Error::TooLarge {
                        payload: bytes.len() - HEADER_LEN,
                        max: self.max_payload,
                    });
                }
                Err(errno) => return Err(Error::from_errno("write", errno)),
            }
        }
    }

    /// Sends one message on a non-blocking channel, waiting up to `timeout` for room.
    ///
    /// `poll` cannot tell when there is room, as that depends on the destination: this tries
    /// again after pauses of 0.1 ms to 10 ms. On a blocking channel the kernel waits, and the
    /// timeout has no effect.
    pub fn send_timeout(&self, message: &Message, timeout: Duration) -> Result<()> {
        let bytes = message.encode();
        let end = Instant::now() + timeout;
        let mut pause = RETRY_FIRST;
        loop {
            match self.send_bytes(&bytes) {
                Err(Error::WouldBlock) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::TimedOut);
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                other => return other,
            }
        }
    }

    /// Receives one message, waiting up to `timeout` for it (`None`: without end). `Ok(None)`
    /// when none came. Those of a [`Bundle`](crate::Bundle) come one by one.
    pub fn recv(&self, timeout: Option<Duration>) -> Result<Option<Message>> {
        let mut incoming = self.incoming.lock().unwrap_or_else(|e| e.into_inner());
        let kept = incoming.backlog.pop_front();
        let next = match kept {
            Some(message) => Some(message),
            None => self.recv_until(&mut incoming.buffer, Until::of(timeout))?,
        };
        let Some(messages) = next.as_ref().and_then(Message::unbundle) else {
            return Ok(next);
        };
        let mut messages = VecDeque::from(messages);
        let first = messages.pop_front();
        messages.append(&mut incoming.backlog);
        incoming.backlog = messages;
        Ok(first)
    }

    /// Receives one message that is there already.
    pub fn try_recv(&self) -> Result<Option<Message>> {
        self.recv(Some(Duration::ZERO))
    }

    /// As [`Channel::recv`], into a buffer of the caller's, past the backlog.
    pub(crate) fn recv_until(&self, buffer: &mut Vec<u8>, until: Until) -> Result<Option<Message>> {
        if buffer.is_empty() {
            buffer.resize(HEADER_LEN + self.max_payload, 0);
        }
        let mut wait = match until {
            // The kernel waits in `read`, and is called once for each message.
            Until::Told(_) if self.is_device => false,
            Until::Forever => false,
            // First see what is there.
            _ => !self.is_nonblocking.load(Ordering::Relaxed),
        };
        loop {
            if wait && !self.wait_readable(until.left())? {
                return Ok(None);
            }
            match rustix::io::read(&self.fd, &mut **buffer) {
                Ok(0) => return Err(Error::Gone),
                Ok(n) => return Message::decode(&buffer[..n]).map(Some),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if until.left().is_some_and(|left| left.is_zero()) => {
                    return Ok(None);
                }
                Err(Errno::AGAIN) => wait = true,
                // The message stays queued: make room for it.
                Err(Errno::MSGSIZE) if buffer.len() < MAX_BUFFER => {
                    buffer.resize((buffer.len() * 2).min(MAX_BUFFER), 0);
                }
                Err(errno) => return Err(Error::from_errno("read", errno)),
            }
        }
    }

    /// Waits until there is something to read. False if `timeout` passed first.
    fn wait_readable(&self, timeout: Option<Duration>) -> Result<bool> {
        let end = timeout.map(|t| Instant::now() + t);
        loop {
            let left = end.map(|end| {
                let left = end.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) if fds[0].revents().contains(PollFlags::IN) => return Ok(true),
                Ok(_) if fds[0].revents().contains(PollFlags::HUP) => return Err(Error::Gone),
                Ok(_) => return Err(Error::NotBound),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::from_errno("poll", errno)),
            }
        }
    }

    /// Who serves `app` in `component`, which may be [`Component::Platform`] or
    /// [`Component::Everywhere`]: the bridges answer.
    ///
    /// Collects answers for `wait`. Other messages that come meanwhile are kept for
    /// [`Channel::recv`].
    pub fn discover(
        &self,
        component: Component,
        app: AppId,
        wait: Duration,
    ) -> Result<Vec<Address>> {
        let mut question = Message::new(Kind::Discover, Address::new(component, app), Vec::new());
        let id = self.ids.next();
        question.header.correlation = id;
        question.header.flags = Flags::REQUEST.union(Flags::BROADCAST);
        let mut incoming = self.incoming.lock().unwrap_or_else(|e| e.into_inner());
        self.send(&question)?;
        let until = Until::of(Some(wait));
        let mut found = Vec::new();
        while let Some(answer) = self.recv_until(&mut incoming.buffer, until)? {
            match answer.header.kind {
                Kind::Reply if answer.header.correlation == id => found.push(answer.header.source),
                _ if incoming.backlog.len() < BACKLOG => incoming.backlog.push_back(answer),
                _ => return Err(Error::Backlog),
            }
        }
        Ok(found)
    }

    /// Sends a request and waits for its reply; [`Error::Undeliverable`] if it comes back.
    ///
    /// A request without a deadline of its own gets `timeout` for one, and then the bridge says that
    /// the time is up: [`Error::TimedOut`]. Other messages that come meanwhile are kept for
    /// [`Channel::recv`].
    pub fn request(&self, mut message: Message, timeout: Duration) -> Result<Message> {
        let id = self.ids.next();
        message.header.correlation = id;
        message.header.flags = message.header.flags.union(Flags::REQUEST);
        let until = message.ask_within(timeout);
        // Held across sending, so that no other thread takes the reply.
        let mut incoming = self.incoming.lock().unwrap_or_else(|e| e.into_inner());
        self.send_timeout(&message, timeout)?;
        loop {
            let Some(answer) = self.recv_until(&mut incoming.buffer, until)? else {
                return Err(Error::TimedOut);
            };
            match answer.header.kind {
                Kind::Reply if answer.header.correlation == id => return Ok(answer),
                Kind::Undeliverable if answer.header.correlation == id => {
                    if answer.header.reason == Reason::Deadline {
                        return Err(Error::TimedOut);
                    }
                    return Err(Error::Undeliverable(answer.header.reason));
                }
                _ if incoming.backlog.len() < BACKLOG => incoming.backlog.push_back(answer),
                _ => return Err(Error::Backlog),
            }
        }
    }
}

/// How long to wait for a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// Until one comes.
    Forever,
    /// Until one comes, as the bridge will send one in time: what is awaited has a deadline.
    Told(Instant),
    /// No longer than this.
    Time(Instant),
}

impl Until {
    /// From now; `None` is without end, and so is what no clock can count.
    pub(crate) fn of(timeout: Option<Duration>) -> Self {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        end.map_or(Self::Forever, Self::Time)
    }

    /// The time left.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::Forever => None,
            Self::Told(end) | Self::Time(end) => {
                Some(end.saturating_duration_since(Instant::now()))
            }
        }
    }
}

impl Message {
    /// Gives a request without a deadline this one; until when its answer, or the word that there
    /// is none, is awaited.
    pub(crate) fn ask_within(&mut self, timeout: Duration) -> Until {
        let limit = Until::of(Some(timeout));
        let (0, Ok(ms @ 1..)) = (self.header.deadline_ms, u32::try_from(timeout.as_millis()))
        else {
            return limit;
        };
        self.header.deadline_ms = ms;
        match Until::of(Some(timeout + DEADLINE_TOLD_WITHIN)) {
            Until::Time(end) => Until::Told(end),
            other => other,
        }
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// Two channels joined by a packet socket, which like the device moves whole messages.
    fn pair() -> (Channel, Channel) {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Channel::from_fd(a, 4096), Channel::from_fd(b, 4096))
    }

    fn peer() -> Address {
        Address::new(Component::SelfDomain, AppId::new(b"Peer").unwrap())
    }

    const SOON: Option<Duration> = Some(Duration::from_secs(5));

    #[test]
    fn a_message_arrives_whole() {
        let (a, b) = pair();
        let sent = Message::with_app_header(Kind::Establish, peer(), b"head", b"data");
        a.send(&sent).unwrap();
        let got = b.recv(SOON).unwrap().unwrap();
        assert_eq!(got, sent);
        assert_eq!(
            (got.app_header(), got.app_data()),
            (&b"head"[..], &b"data"[..])
        );
        assert_eq!(b.try_recv().unwrap(), None);
    }

    #[test]
    fn a_larger_message_than_expected_is_still_read() {
        // SEQPACKET truncates where the device says EMSGSIZE; the wire check must notice.
        let (a, b) = pair();
        a.send(&Message::data(peer(), vec![1; 5000])).unwrap();
        assert!(matches!(b.recv(SOON), Err(Error::Wire(_))));
    }

    #[test]
    fn a_reply_is_matched_and_the_rest_is_kept() {
        let (a, b) = pair();
        let answerer = std::thread::spawn(move || {
            let request = b.recv(SOON).unwrap().unwrap();
            assert!(request.is_request());
            b.send(&Message::data(peer(), b"other".to_vec())).unwrap();
            let mut reply = request.reply(b"answer".to_vec());
            reply.header.destination = peer();
            b.send(&reply).unwrap();
            b
        });
        let reply = a
            .request(
                Message::data(peer(), b"question".to_vec()),
                Duration::from_secs(5),
            )
            .unwrap();
        assert_eq!(reply.payload, b"answer");
        assert_eq!(a.try_recv().unwrap().unwrap().payload, b"other");
        drop(answerer.join().unwrap());
        assert!(matches!(a.recv(SOON), Err(Error::Gone)));
    }

    #[test]
    fn answers_are_collected_and_the_rest_is_kept() {
        let (a, b) = pair();
        let bridge = std::thread::spawn(move || {
            let question = b.recv(SOON).unwrap().unwrap();
            assert_eq!(
                question.header.flags,
                Flags::REQUEST.union(Flags::BROADCAST)
            );
            assert_eq!(question.header.kind, Kind::Discover);
            for vm_id in [3, 4] {
                let mut answer = question.reply(Vec::new());
                answer.header.destination = peer();
                answer.header.source.component = Component::Vm {
                    mvm_ip: [0; 16],
                    vm_id,
                };
                b.send(&answer).unwrap();
                b.send(&Message::data(peer(), vec![vm_id as u8])).unwrap();
            }
            b
        });
        let app = AppId::new(b"Service").unwrap();
        let found = a
            .discover(Component::Platform, app, Duration::from_millis(300))
            .unwrap();
        let ids: Vec<_> = found.iter().map(|address| address.component).collect();
        let vm = |vm_id| Component::Vm {
            mvm_ip: [0; 16],
            vm_id,
        };
        assert_eq!(ids, [vm(3), vm(4)]);
        for byte in [3, 4] {
            assert_eq!(a.try_recv().unwrap().unwrap().payload, [byte]);
        }
        drop(bridge.join().unwrap());
    }

    #[test]
    fn a_request_that_comes_back_is_an_error_with_its_reason() {
        let (a, b) = pair();
        let bridge = std::thread::spawn(move || {
            let request = b.recv(SOON).unwrap().unwrap();
            let header = request.header.undeliverable(Reason::NoEndpoint).unwrap();
            let back = Message {
                header: crate::Header {
                    destination: peer(),
                    ..header
                },
                payload: Vec::new(),
            };
            b.send(&back).unwrap();
        });
        let error = a
            .request(Message::data(peer(), Vec::new()), Duration::from_secs(5))
            .unwrap_err();
        assert!(matches!(error, Error::Undeliverable(Reason::NoEndpoint)));
        bridge.join().unwrap();
    }

    #[test]
    fn waiting_ends_in_time() {
        let (a, _b) = pair();
        let start = Instant::now();
        assert!(a.recv(Some(Duration::from_millis(30))).unwrap().is_none());
        let error = a.request(Message::data(peer(), Vec::new()), Duration::from_millis(30));
        assert!(matches!(error, Err(Error::TimedOut)));
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert!(start.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_full_receiver_blocks_or_says_so() {
        let (a, b) = pair();
        a.set_nonblocking(true).unwrap();
        let message = Message::data(peer(), vec![0; 4000]);
        let mut sent = 0;
        while let Ok(()) = a.send(&message) {
            sent += 1;
        }
        assert!(matches!(a.send(&message), Err(Error::WouldBlock)));
        let short = Duration::from_millis(20);
        assert!(matches!(
            a.send_timeout(&message, short),
            Err(Error::TimedOut)
        ));
        for _ in 0..sent {
            b.recv(SOON).unwrap().unwrap();
        }
        a.send_timeout(&message, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = Channel::open_at("/nonexistent/mgmt")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/mgmt"), "{error}");
        assert!(error.contains("mgmt.ko"), "{error}");
    }
}
