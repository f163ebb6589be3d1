// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system calls, with addresses as numbers: not all of them are good ones.

use std::time::{Duration, Instant};

/// What a call returned, or its errno.
pub type Outcome = Result<usize, i32>;

/// Where a buffer is, or is not.
#[derive(Clone, Copy)]
pub struct Address(pub usize);

fn call(number: libc::c_long, args: [usize; 4]) -> Outcome {
    // SAFETY: Every call that reads or writes memory is given an address of `memory::Memory`, which
    // no Rust reference points into, or one where nothing is.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3]) };
    if result >= 0 {
        return Ok(result as usize);
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1))
}

pub fn open(flags: i32) -> Outcome {
    let path = c"/dev/mgmt".as_ptr() as usize;
    call(
        libc::SYS_openat,
        [libc::AT_FDCWD as usize, path, flags as usize, 0],
    )
}

pub fn close(fd: i32) -> Outcome {
    call(libc::SYS_close, [fd as usize, 0, 0, 0])
}

pub fn dup(fd: i32) -> Outcome {
    call(libc::SYS_dup, [fd as usize, 0, 0, 0])
}

pub fn read(fd: i32, to: Address, len: usize) -> Outcome {
    call(libc::SYS_read, [fd as usize, to.0, len, 0])
}

pub fn write(fd: i32, from: Address, len: usize) -> Outcome {
    call(libc::SYS_write, [fd as usize, from.0, len, 0])
}

pub fn pread(fd: i32, to: Address, len: usize) -> Outcome {
    call(libc::SYS_pread64, [fd as usize, to.0, len, 0])
}

/// Writes from a table of `count` addresses and lengths.
pub fn writev(fd: i32, table: Address, count: usize) -> Outcome {
    call(libc::SYS_writev, [fd as usize, table.0, count, 0])
}

pub fn ioctl(fd: i32, request: u32, argument: Address) -> Outcome {
    call(
        libc::SYS_ioctl,
        [fd as usize, request as usize, argument.0, 0],
    )
}

pub fn fsync(fd: i32) -> Outcome {
    call(libc::SYS_fsync, [fd as usize, 0, 0, 0])
}

pub fn truncate(fd: i32) -> Outcome {
    call(libc::SYS_ftruncate, [fd as usize, 0, 0, 0])
}

pub fn seek(fd: i32) -> Outcome {
    call(libc::SYS_lseek, [fd as usize, 0, 0, 0])
}

/// Tries to map a page of the file.
pub fn map(fd: i32) -> Outcome {
    // SAFETY: A new mapping, at an address of the kernel's choice, that nothing refers to.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1));
    }
    Ok(at as usize)
}

/// The events of the file, without waiting.
pub fn poll(fd: i32) -> Result<i16, i32> {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN | libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: `entry` is one entry, and lives for the call.
    let result = unsafe { libc::poll(&mut entry, 1, 0) };
    if result < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1));
    }
    Ok(entry.revents)
}

/// Takes another user's rights, for good.
pub fn become_user(uid: u32) -> Outcome {
    let id = uid as usize;
    call(libc::SYS_setresgid, [id, id, id, 0])?;
    call(libc::SYS_setresuid, [id, id, id, 0])
}

/// A process that does something and ends, whatever comes of it.
pub struct Child(libc::pid_t);

impl Child {
    /// Only while this process has one thread; `what` makes system calls and nothing else.
    pub fn start(what: impl FnOnce()) -> Self {
        // SAFETY: There is one thread, so no lock is held by another that is not there.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            what();
            // SAFETY: Ends the process without its destructors, which are the parent's.
            unsafe { libc::_exit(0) };
        }
        Self(pid)
    }

    /// Kills it where it is. Whether it ended within ten seconds.
    pub fn kill(self) -> bool {
        // SAFETY: It is our child, and has not been waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        self.ends()
    }

    /// Whether it ends within ten seconds.
    pub fn ends(self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            // SAFETY: It is our child; there is no place for its status.
            if unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::WNOHANG) } != 0 {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
