// SPDX-License-Identifier: MIT OR Apache-2.0

//! One process, whose files nobody else touches: it knows what each call must come to.

use crate::dice::Dice;
use crate::memory::Memory;
use crate::sys::{self, Address, Child};
use crate::{Findings, ioctls, messages};
use anyhow::{Result, anyhow};
use libc::{
    EACCES, EADDRINUSE, EAGAIN, EBADFD, EBUSY, ECONNREFUSED, EFAULT, EHOSTUNREACH, EINVAL,
    EMSGSIZE, ENOBUFS, ENODEV, ENOENT, ENOSPC, ENOTCONN, ENXIO, EOPNOTSUPP, EPERM, ESPIPE,
    O_NONBLOCK, O_RDWR,
};
use mgmt_wire::{AppId, HEADER_LEN, Header};
use std::time::{Duration, Instant};

/// Files that are open at most at a time, and App_IDs that they bind.
const FILES: usize = 6;
const NAMES: usize = 4;
/// The longest line that an unbound file takes.
const MAX_LINE: usize = 37;

/// An open file.
struct File {
    fd: i32,
    /// The App_ID that it has bound, and whether it shares it.
    bound: Option<(AppId, bool)>,
}

/// The process.
struct Model<'a> {
    dice: Dice,
    findings: &'a mut Findings,
    memory: Memory,
    text: Memory,
    files: Vec<File>,
    names: Vec<AppId>,
    /// Nobody binds this one.
    nobody: AppId,
    most: usize,
    own_ip: [u8; 16],
    is_admin: bool,
}

/// The App_IDs of this process.
fn names() -> Result<Vec<AppId>> {
    let pid = std::process::id();
    let name = |n| AppId::new(format!("Fuzz-{pid}-{n}").as_bytes());
    (0..=NAMES)
        .map(|n| name(n).map_err(|e| anyhow!("{e:?}")))
        .collect()
}

/// Makes calls for so long, and compares what comes of them.
pub fn run(seed: u64, time: Duration, is_admin: bool, findings: &mut Findings) -> Result<()> {
    let mut names = names()?;
    let nobody = names.pop().ok_or(anyhow!("no names"))?;
    let mut model = Model {
        dice: Dice::new(seed),
        findings,
        memory: Memory::new(4096)?,
        text: Memory::new(4096)?,
        files: Vec::new(),
        names,
        nobody,
        most: 0,
        own_ip: [0; 16],
        is_admin,
    };
    model.ask_info()?;
    let end = Instant::now() + time;
    while Instant::now() < end && !model.findings.is_enough() {
        model.step()?;
    }
    for file in model.files {
        let _ = sys::close(file.fd);
    }
    Ok(())
}

/// Whether the device works still: a file can be opened, bound and closed.
pub fn works(findings: &mut Findings) -> Result<()> {
    let memory = Memory::new(4096)?;
    for name in names()? {
        let fd =
            sys::open(O_RDWR | O_NONBLOCK).map_err(|errno| anyhow!("open: errno {errno}"))? as i32;
        let argument = memory.put(&bind_argument(name, 0));
        findings.expect(
            "binding at the end",
            sys::ioctl(fd, ioctls::BIND, argument),
            &[0],
        );
        findings.expect("closing at the end", sys::close(fd), &[0]);
    }
    Ok(())
}

fn bind_argument(name: AppId, flags: u32) -> Vec<u8> {
    [
        name.as_encoded().to_vec(),
        flags.to_le_bytes().to_vec(),
        vec![0; 28],
    ]
    .concat()
}

impl Model<'_> {
    /// Learns the largest message, and this platform's address.
    fn ask_info(&mut self) -> Result<()> {
        let fd = sys::open(O_RDWR)
            .map_err(|errno| anyhow!("cannot open the device: errno {errno}"))?
            as i32;
        let done = sys::ioctl(fd, ioctls::INFO, self.memory.buffer(120));
        let _ = sys::close(fd);
        done.map_err(|errno| anyhow!("no info: errno {errno}"))?;
        let info = self.memory.get(120);
        self.most = u32::from_le_bytes(info[72..76].try_into()?) as usize;
        if info[8] == 1 {
            self.own_ip.copy_from_slice(&info[12..28]);
        }
        self.memory = Memory::new(HEADER_LEN + self.most + 4096)?;
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        if self.files.is_empty() || self.files.len() < FILES && self.dice.once_in(10) {
            return self.open();
        }
        let at = self.dice.below(self.files.len());
        match self.dice.below(32) {
            0 => self.close(at),
            1 => self.replace_by_copy(at),
            2..=4 => self.bind(at),
            5 => self.bind_line(at),
            6..=10 => self.write_good(at),
            11..=16 => self.write_wrong(at),
            17..=20 => self.read(at),
            21 => self.poll(at),
            22 => self.info(at),
            23..=27 => self.ioctl(at),
            28..=29 => self.odd_call(at),
            30 => self.child_of(at),
            // It takes as long as many other calls.
            _ if self.dice.once_in(8) => self.killed_child(),
            _ => self.fabric()?,
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let fd = sys::open(O_RDWR | O_NONBLOCK).map_err(|errno| anyhow!("open: errno {errno}"))?;
        self.files.push(File {
            fd: fd as i32,
            bound: None,
        });
        Ok(())
    }

    fn close(&mut self, at: usize) {
        let file = self.files.swap_remove(at);
        self.findings.expect("close", sys::close(file.fd), &[0]);
    }

    /// Closing one of two descriptors of a file changes nothing.
    fn replace_by_copy(&mut self, at: usize) {
        let old = self.files[at].fd;
        if let Ok(copy) = sys::dup(old) {
            self.findings
                .expect("close of a copy", sys::close(old), &[0]);
            self.files[at].fd = copy as i32;
        }
    }

    /// What binding a good name must come to.
    fn bind_result(&self, at: usize, name: AppId, shared: bool) -> i32 {
        if self.files[at].bound.is_some() {
            return EINVAL;
        }
        let mut holders = self
            .files
            .iter()
            .filter_map(|file| file.bound)
            .filter(|(bound, _)| *bound == name);
        if holders.any(|(_, other)| !(other && shared)) {
            return EADDRINUSE;
        }
        0
    }

    fn bind(&mut self, at: usize) {
        let name = self.dice.choose(&self.names);
        let shared = self.dice.once_in(2);
        let mut argument = bind_argument(name, u32::from(shared));
        let wrong = self.dice.once_in(3);
        if wrong {
            match self.dice.below(4) {
                0 => argument[32] |= 1 << (1 + self.dice.below(7)),
                1 => argument[36 + self.dice.below(28)] = 1,
                2 => argument[0] = self.dice.choose(b"\0 \n/\xff"),
                _ => argument[..32].fill(b'x'),
            }
        }
        let expected = if wrong {
            EINVAL
        } else {
            self.bind_result(at, name, shared)
        };
        let fd = self.files[at].fd;
        let got = sys::ioctl(fd, ioctls::BIND, self.memory.put(&argument));
        self.findings.expect("bind", got, &[expected]);
        if got.is_ok() {
            self.files[at].bound = Some((name, shared));
        }
    }

    /// To an unbound file, a line binds it; to a bound one it is a short message.
    fn bind_line(&mut self, at: usize) {
        let name = self.dice.choose(&self.names);
        let (line, expected) = match self.dice.below(6) {
            0 => (String::from("bind "), EINVAL),
            1 => (format!("bind a b{name:?}"), EINVAL),
            2 => (format!("bound {}", name.as_str()), EBADFD),
            3 => (format!("bind {:x<40}", name.as_str()), EBADFD),
            _ => (
                format!("bind {}\n", name.as_str()),
                self.bind_result(at, name, false),
            ),
        };
        // "a b" and a name may be too long for a line.
        let too_long = line.len() > MAX_LINE;
        let is_bound = self.files[at].bound.is_some();
        let expected = match (is_bound, too_long) {
            (true, _) => EINVAL,
            (_, true) => EBADFD,
            _ => expected,
        };
        let got = sys::write(
            self.files[at].fd,
            self.memory.put(line.as_bytes()),
            line.len(),
        );
        self.findings.expect("a line that binds", got, &[expected]);
        if got.is_ok() && !is_bound {
            self.files[at].bound = Some((name, false));
        }
    }

    fn write_good(&mut self, at: usize) {
        let name = if self.dice.once_in(4) {
            self.nobody
        } else {
            self.dice.choose(&self.names)
        };
        let served = self
            .files
            .iter()
            .any(|file| file.bound.is_some_and(|(bound, _)| bound == name));
        let (message, allowed): (_, &[i32]) = match self.dice.below(8) {
            0 => (
                messages::broadcast(&mut self.dice, name, self.most),
                &[0, ENOBUFS],
            ),
            1 => (
                messages::watch(&mut self.dice, name),
                &[0, ENOBUFS, ENOSPC, ENOTCONN],
            ),
            2 => (
                messages::to_others(&mut self.dice, name, self.most),
                &[
                    0,
                    EAGAIN,
                    ENOBUFS,
                    ENOSPC,
                    EHOSTUNREACH,
                    EACCES,
                    ENOTCONN,
                    ECONNREFUSED,
                ],
            ),
            _ => (
                messages::to_self(&mut self.dice, name, self.most).1,
                if served {
                    // Requests that nobody answers are kept until there are too many.
                    &[0, EAGAIN, ENOBUFS, ENOSPC]
                } else {
                    &[ECONNREFUSED, ENOBUFS]
                },
            ),
        };
        let fd = self.files[at].fd;
        let got = if self.dice.once_in(5) {
            self.write_in_pieces(fd, &message)
        } else {
            sys::write(fd, self.memory.put(&message), message.len())
        };
        if self.files[at].bound.is_none() {
            self.findings
                .expect("a message of an unbound file", got, &[EBADFD]);
            return;
        }
        self.findings.expect("a message", got, allowed);
        if got.is_ok_and(|len| len != message.len()) {
            self.findings
                .differ(format!("{got:?} of {} bytes were written", message.len()));
        }
    }

    /// The same message, from pieces of odd lengths.
    fn write_in_pieces(&mut self, fd: i32, message: &[u8]) -> sys::Outcome {
        let at = self.memory.put(message).0;
        let cuts = [0, self.dice.below(HEADER_LEN), HEADER_LEN, message.len()];
        let entries = cuts
            .windows(2)
            .flat_map(|cut| [(at + cut[0]) as u64, (cut[1] - cut[0]) as u64]);
        let table: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        sys::writev(fd, self.text.put(&table), cuts.len() - 1)
    }

    fn write_wrong(&mut self, at: usize) {
        let name = self.dice.choose(&self.names);
        let (mut message, errno) = messages::wrong(&mut self.dice, name);
        let mut allowed = vec![errno];
        let mut from = None;
        match self.dice.below(8) {
            0 => {
                message.truncate(self.dice.below(HEADER_LEN));
                allowed = vec![EINVAL];
            }
            1 => {
                message = messages::to_self(&mut self.dice, name, self.most).1;
                from = Some(if self.dice.once_in(2) {
                    self.memory.unreadable(&mut self.dice)
                } else {
                    self.memory.put_part(&mut self.dice, &message)
                });
                allowed = vec![EFAULT];
            }
            2 => {
                let length = (self.most + 1 + self.dice.below(1000)) as u32;
                let (header, _) = messages::to_self(&mut self.dice, name, 0);
                message = Header { length, ..header }.encode().to_vec();
                message.resize(HEADER_LEN + length as usize, 7);
                allowed = vec![EMSGSIZE];
            }
            3 => {
                let len = HEADER_LEN + self.dice.below(500);
                message = self.dice.bytes(len);
                // Any version, and the version that there is.
                allowed = vec![EINVAL, libc::EPROTONOSUPPORT];
            }
            _ => {}
        }
        if self.files[at].bound.is_none() {
            // A short one is read, in search of a line.
            allowed = match from {
                Some(_) => vec![EBADFD, EFAULT],
                None => vec![EBADFD],
            };
        } else if message.is_empty() {
            allowed.push(0);
        }
        let from = from.unwrap_or_else(|| self.memory.put(&message));
        let got = sys::write(self.files[at].fd, from, message.len());
        self.findings.expect("a wrong message", got, &allowed);
    }

    fn read(&mut self, at: usize) {
        let fd = self.files[at].fd;
        let room = self.dice.choose(&[
            0,
            1,
            HEADER_LEN - 1,
            HEADER_LEN,
            HEADER_LEN + 64,
            HEADER_LEN + self.most,
        ]);
        if self.files[at].bound.is_none() {
            let got = sys::read(fd, self.memory.buffer(room), room);
            self.findings
                .expect("a read of an unbound file", got, &[EBADFD]);
        } else if self.dice.once_in(5) {
            let to = self.memory.unwritable(&mut self.dice, HEADER_LEN);
            let got = sys::read(fd, to, HEADER_LEN + self.most);
            self.findings
                .expect("a read to nowhere", got, &[EFAULT, EAGAIN]);
        } else {
            let got = sys::read(fd, self.memory.buffer(room), room);
            self.findings.expect("a read", got, &[0, EAGAIN, EMSGSIZE]);
            if let Ok(len) = got {
                self.check_message(len, room);
            }
        }
    }

    /// What was read is a message, and nothing behind it was touched.
    fn check_message(&mut self, len: usize, room: usize) {
        let bytes = self.memory.get(room);
        let whole =
            Header::of_message(&bytes[..len]).is_ok_and(|header| header.source.app.is_some());
        if !whole {
            self.findings
                .differ(format!("{len} bytes were read that are no message"));
        }
        if bytes[len..].iter().any(|&byte| byte != 0xa5) {
            self.findings.differ(format!(
                "more than the {len} bytes that were read has changed"
            ));
        }
    }

    fn poll(&mut self, at: usize) {
        let got = sys::poll(self.files[at].fd);
        self.findings.calls += 1;
        let as_it_must = match (got, self.files[at].bound) {
            (Ok(events), None) => events & libc::POLLERR != 0,
            (Ok(events), Some(_)) => events & (libc::POLLERR | libc::POLLOUT) == libc::POLLOUT,
            _ => false,
        };
        if !as_it_must {
            self.findings.differ(format!("poll: {got:?}"));
        }
    }

    fn info(&mut self, at: usize) {
        let got = sys::ioctl(self.files[at].fd, ioctls::INFO, self.memory.buffer(120));
        self.findings.expect("info", got, &[0]);
        let wanted = self.files[at]
            .bound
            .map_or([0; 32], |(name, _)| *name.as_encoded());
        if got.is_ok() && self.memory.get(120)[40..72] != wanted {
            self.findings
                .differ(String::from("info: another App_ID than was bound"));
        }
    }

    fn ioctl(&mut self, at: usize) {
        let is_bound = self.files[at].bound.is_some();
        let (request, argument, mut allowed) = match self.dice.below(5) {
            0 => ioctls::unknown(&mut self.dice, &self.memory),
            4 if is_bound => ioctls::exchange(&mut self.dice, &self.memory, &self.text),
            1 => ioctls::no_memory(&mut self.dice, &self.memory),
            _ => ioctls::admin(&mut self.dice, &self.memory, &self.text, self.own_ip),
        };
        if ioctls::is_admins(request) && !self.is_admin {
            allowed = vec![EPERM];
        }
        let got = sys::ioctl(self.files[at].fd, request, argument);
        self.findings
            .expect(&format!("ioctl {request:#x}"), got, &allowed);
    }

    /// A file that would carry the link to other platforms, for a few calls.
    fn fabric(&mut self) -> Result<()> {
        let fd = sys::open(O_RDWR).map_err(|errno| anyhow!("open: errno {errno}"))? as i32;
        let mut argument = [0; 32];
        let wrong = self.dice.once_in(4);
        argument[16 + self.dice.below(16)] = u8::from(wrong);
        let allowed = match (self.is_admin, wrong) {
            (false, _) => vec![EPERM],
            (true, true) => vec![EINVAL],
            (true, false) => vec![0, EBUSY, EOPNOTSUPP, ENXIO],
        };
        let got = sys::ioctl(fd, ioctls::FABRIC, self.memory.put(&argument));
        self.findings.expect("a fabric link", got, &allowed);
        let carries = got.is_ok();
        for _ in 0..4 {
            self.call_fabric(fd, carries);
        }
        self.findings.expect("close", sys::close(fd), &[0]);
        Ok(())
    }

    fn call_fabric(&mut self, fd: i32, carries: bool) {
        let of_link = |errnos: &[i32]| {
            if carries {
                errnos.to_vec()
            } else {
                vec![EBADFD]
            }
        };
        let name = self.nobody;
        match self.dice.below(4) {
            0 => {
                let room = self.dice.choose(&[0, 7, 8, HEADER_LEN + 8, self.most]);
                let got = sys::read(fd, self.memory.buffer(room), room);
                let allowed = of_link(&[0, EAGAIN, EMSGSIZE]);
                self.findings.expect("a read of the link", got, &allowed);
            }
            1 => {
                // No message of its own comes from another platform.
                let message = messages::to_self(&mut self.dice, name, 64).1;
                let got = sys::write(fd, self.memory.put(&message), message.len());
                let allowed = of_link(&[EACCES]);
                self.findings.expect("a write to the link", got, &allowed);
            }
            2 => {
                let mut argument = self.dice.bytes(16);
                argument[8..].fill(0);
                let (at, allowed) = self.dice.choose(&[(8, EINVAL), (12, EINVAL), (0, 0)]);
                let allowed = if allowed == 0 {
                    of_link(&[ENOENT])
                } else {
                    argument[at] = 200;
                    vec![allowed]
                };
                let got = sys::ioctl(fd, ioctls::FABRIC_SETTLE, self.memory.put(&argument));
                self.findings.expect("settling", got, &allowed);
            }
            _ => {
                let argument = [self.dice.bytes(16), vec![0; 16]].concat();
                let got = sys::ioctl(fd, ioctls::FABRIC_MOVED, self.memory.put(&argument));
                self.findings
                    .expect("a guest that moved", got, &of_link(&[ENOENT]));
            }
        }
    }

    /// What a file of another kind would do.
    fn odd_call(&mut self, at: usize) {
        let fd = self.files[at].fd;
        match self.dice.below(6) {
            0 => self.findings.expect("mmap", sys::map(fd), &[ENODEV]),
            1 => self
                .findings
                .expect("truncate", sys::truncate(fd), &[EINVAL]),
            2 => self.findings.expect("fsync", sys::fsync(fd), &[EINVAL]),
            3 => self.findings.expect("seek", sys::seek(fd), &[ESPIPE]),
            4 => {
                let got = sys::pread(fd, self.memory.buffer(8), 8);
                let allowed = [ESPIPE, EBADFD, EAGAIN, EMSGSIZE];
                self.findings.expect("a read at an offset", got, &allowed);
            }
            _ => {
                let len = self
                    .dice
                    .choose(&[usize::MAX, isize::MAX as usize, 0x7fff_f000]);
                let got = sys::write(fd, self.memory.buffer(8), len);
                let allowed = [EINVAL, EFAULT, EMSGSIZE, EBADFD, libc::EPROTONOSUPPORT];
                self.findings
                    .expect("a write of almost everything", got, &allowed);
            }
        }
    }

    /// A child has the same files, uses them and ends: they are as they were.
    fn child_of(&mut self, at: usize) {
        let fd = self.files[at].fd;
        let from = self.memory.buffer(300);
        let child = Child::start(|| {
            let _ = sys::write(fd, from, 300);
            let _ = sys::ioctl(fd, ioctls::INFO, Address(0));
            let _ = sys::close(fd);
        });
        self.findings.calls += 3;
        if !child.ends() {
            self.findings.differ(String::from("a child does not end"));
        }
    }

    /// A child that is killed while it waits, for a message or for room.
    fn killed_child(&mut self) {
        let name = self.nobody;
        let bind = self.memory.put(&bind_argument(name, 0));
        let message = messages::to_self(&mut self.dice, name, 64).1;
        let from = self.text.put(&message);
        let writes = self.dice.once_in(2);
        let child = Child::start(|| {
            let Ok(fd) = sys::open(O_RDWR) else { return };
            let _ = sys::ioctl(fd as i32, ioctls::BIND, bind);
            while writes && sys::write(fd as i32, from, message.len()).is_ok() {}
            let _ = sys::read(fd as i32, Address(0), 0);
        });
        std::thread::sleep(Duration::from_micros(self.dice.number() % 5000));
        self.findings.calls += 3;
        if !child.kill() {
            self.findings
                .differ(String::from("a child cannot be killed"));
        }
    }
}
