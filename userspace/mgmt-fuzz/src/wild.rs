// SPDX-License-Identifier: MIT OR Apache-2.0

//! Threads that share files, which others of them bind and close meanwhile.

use crate::dice::Dice;
use crate::memory::Memory;
use crate::{Findings, ioctls, messages, sys};
use anyhow::{Result, anyhow};
use libc::{O_NONBLOCK, O_RDWR};
use mgmt_wire::{AppId, HEADER_LEN};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const THREADS: u64 = 4;
const FILES: usize = 5;
const ROOM: usize = HEADER_LEN + 8192;

/// Success, and every errno of docs/uapi.md; and that of a file that was closed.
const DOCUMENTED: &[i32] = &[
    0,
    libc::EACCES,
    libc::EADDRINUSE,
    libc::EAGAIN,
    libc::EBADFD,
    libc::ECONNREFUSED,
    libc::EFAULT,
    libc::EHOSTUNREACH,
    libc::EINVAL,
    libc::EMSGSIZE,
    libc::ENOBUFS,
    libc::ENOSPC,
    libc::ENOTCONN,
    libc::ENOTTY,
    libc::EPROTONOSUPPORT,
    libc::EBADF,
];

/// Has the threads make calls for so long.
pub fn run(seed: u64, time: Duration, findings: &mut Findings) -> Result<()> {
    let files: Vec<AtomicI32> = (0..FILES).map(|_| AtomicI32::new(open())).collect();
    let end = Instant::now() + time;
    let found: Vec<Result<Findings>> = std::thread::scope(|scope| {
        let one = |n| {
            let files = &files;
            scope.spawn(move || thread(Dice::new(seed ^ (n << 32)), files, end))
        };
        let threads: Vec<_> = (1..=THREADS).map(one).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Findings>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    for one in found {
        let one = one?;
        findings.calls += one.calls;
        findings.differences.extend(one.differences);
    }
    for file in files {
        let _ = sys::close(file.into_inner());
    }
    Ok(())
}

/// A new file, or a number that is none: others may have taken all.
fn open() -> i32 {
    sys::open(O_RDWR | O_NONBLOCK).map_or(-1, |fd| fd as i32)
}

fn thread(mut dice: Dice, files: &[AtomicI32], end: Instant) -> Result<Findings> {
    let mut findings = Findings::default();
    let memory = Memory::new(ROOM)?;
    let name = |n| AppId::new(format!("Fuzz-wild-{n}").as_bytes()).map_err(|e| anyhow!("{e:?}"));
    let names = [name(0)?, name(1)?, name(2)?];
    while Instant::now() < end && !findings.is_enough() {
        let file = &files[dice.below(FILES)];
        let fd = file.load(Relaxed);
        let app = dice.choose(&names);
        let send = |message: Vec<u8>| sys::write(fd, memory.put(&message), message.len());
        let (what, got) = match dice.below(12) {
            0 => ("close", sys::close(file.swap(open(), Relaxed))),
            1..=2 => {
                let argument = [
                    app.as_encoded().to_vec(),
                    vec![dice.below(2) as u8],
                    vec![0; 31],
                ]
                .concat();
                ("bind", sys::ioctl(fd, ioctls::BIND, memory.put(&argument)))
            }
            3..=4 => ("a message", send(messages::to_self(&mut dice, app, 5000).1)),
            5 => (
                "a broadcast",
                send(messages::broadcast(&mut dice, app, 5000)),
            ),
            6 => ("a watch", send(messages::watch(&mut dice, app))),
            7 => ("a wrong message", send(messages::wrong(&mut dice, app).0)),
            8..=9 => ("a read", sys::read(fd, memory.buffer(ROOM), ROOM)),
            10 => {
                let (request, argument, _) = ioctls::no_memory(&mut dice, &memory);
                // Without the right, that comes first.
                let got = sys::ioctl(fd, request, argument);
                (
                    "an ioctl",
                    got.or_else(|errno| {
                        if errno == libc::EPERM {
                            Ok(0)
                        } else {
                            Err(errno)
                        }
                    }),
                )
            }
            _ => ("poll", sys::poll(fd).map(|events| events as usize)),
        };
        findings.expect(what, got, DOCUMENTED);
    }
    Ok(findings)
}
