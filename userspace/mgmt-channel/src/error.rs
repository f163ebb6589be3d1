// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong on an M-channel: each errno of `docs/uapi.md` with its meaning.

use crate::{Message, Reason, WireError};
use rustix::io::Errno;
use std::path::PathBuf;

/// Why an M-channel call failed. A failed send has sent nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device could not be opened.
    #[error("cannot open {}: {}", path.display(), open_cause(*errno))]
    Open {
        /// The device file.
        path: PathBuf,
        /// What `open` said.
        errno: Errno,
    },
    /// The channel has no App_ID bound yet (`EBADFD`).
    #[error("no App_ID is bound to this channel")]
    NotBound,
    /// Another file in this domain has bound the App_ID (`EADDRINUSE`).
    #[error("App_ID {0:?} is taken in this domain: another program has bound it")]
    NameTaken(String),
    /// The kernel refused the message or the name as malformed (`EINVAL`).
    #[error("{0}: refused as malformed (EINVAL)")]
    Malformed(&'static str),
    /// The kernel speaks another version of the wire format (`EPROTONOSUPPORT`).
    #[error("the kernel does not know this version of the message header")]
    Version,
    /// The payload is larger than the channel takes, or the ABI differs (`EMSGSIZE`).
    #[error("message of {payload} bytes is larger than the channel takes ({max} bytes)")]
    TooLarge {
        /// Bytes of the payload.
        payload: usize,
        /// The largest payload, bytes.
        max: usize,
    },
    /// No such component, or no route to it (`EHOSTUNREACH`).
    #[error("no such component, or no route to it")]
    NoComponent,
    /// The component is there, nobody has bound the App_ID (`ECONNREFUSED`).
    #[error("nobody has bound the App_ID there")]
    NobodyBound,
    /// This domain's channel to Dom-M is not connected (`ENOTCONN`).
    #[error("this domain's channel to Dom-M is not connected")]
    NotConnected,
    /// The share of the receiver's queue is used up, or there is no message (`EAGAIN`).
    #[error("it would have to wait")]
    WouldBlock,
    /// The kernel can't do this yet (`EOPNOTSUPP`), or does not know the request (`ENOTTY`).
    #[error("{0}: the kernel does not support it")]
    Unsupported(&'static str),
    /// Not allowed (`EPERM`).
    #[error("{0}: not permitted (CAP_SYS_ADMIN is needed)")]
    NotPermitted(&'static str),
    /// A rule of this domain's policy forbids it (`EACCES`).
    #[error("{0}: denied by a rule")]
    Denied(&'static str),
    /// The module was removed under the open file (`ENODEV`, hangup).
    #[error("the M-channel device is gone")]
    Gone,
    /// Time ran out here or in the kernel (`ETIMEDOUT`): the message was not sent, or no answer
    /// came.
    #[error("timed out")]
    TimedOut,
    /// The request came back.
    #[error("undeliverable: {}", reason_text(*.0))]
    Undeliverable(Reason),
    /// The device went while the answer was awaited: the request may have arrived, or not.
    #[error("the M-channel device went away; whether the message arrived is not known")]
    Lost,
    /// The receiver of the request refused it, or ended the conversation: its message.
    #[error("refused by the receiver")]
    Terminated(Box<Message>),
    /// The payload is not of the type that is expected.
    #[error("the payload is not of the expected type")]
    Content,
    /// More messages came while a reply was awaited than this library keeps.
    #[error("too many other messages while waiting for a reply")]
    Backlog,
    /// What the kernel handed over is not a message of the wire format.
    #[error("malformed message or name: {}", wire_text(*.0))]
    Wire(WireError),
    /// The kernel module's ABI version is not the one this was built for.
    #[error("the kernel module has ABI version {found}, this program {expected}")]
    Abi {
        /// The module's.
        found: u32,
        /// This library's.
        expected: u32,
    },
    /// A line of the rules is none, or one that the bridge cannot keep.
    #[error("line {line}, column {column} of the rules is refused")]
    Rule {
        /// The line, from 1.
        line: u32,
        /// The column, from 1.
        column: u32,
    },
    /// Any other errno.
    #[error("{call}: {errno}")]
    Os {
        /// The system call.
        call: &'static str,
        /// Its errno.
        errno: Errno,
    },
}

impl Error {
    /// The meaning of `errno` from `call` (`"read"`, `"write"`, …).
    pub(crate) fn from_errno(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::BADFD => Self::NotBound,
            Errno::INVAL => Self::Malformed(call),
            Errno::PROTONOSUPPORT => Self::Version,
            Errno::HOSTUNREACH => Self::NoComponent,
            Errno::CONNREFUSED => Self::NobodyBound,
            Errno::NOTCONN => Self::NotConnected,
            Errno::AGAIN => Self::WouldBlock,
            Errno::OPNOTSUPP | Errno::NOTTY => Self::Unsupported(call),
            Errno::PERM => Self::NotPermitted(call),
            Errno::ACCESS => Self::Denied(call),
            Errno::TIMEDOUT => Self::TimedOut,
            Errno::NODEV => Self::Gone,
            _ => Self::Os { call, errno },
        }
    }

    /// Whether the same call may succeed later without anybody changing it: the peer, the channel
    /// or room in a queue may come.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NoComponent
                | Self::NobodyBound
                | Self::NotConnected
                | Self::WouldBlock
                | Self::TimedOut
                | Self::Undeliverable(_)
        )
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

fn open_cause(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such device (is mgmt.ko loaded?)".into(),
        Errno::ACCESS | Errno::PERM => "permission denied (it is root's by default)".into(),
        other => other.to_string(),
    }
}

/// A reason in words.
pub(crate) fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::None => "no reason given",
        Reason::NoComponent => "no such component, or no route to it",
        Reason::NoEndpoint => "nobody has bound the App_ID there",
        Reason::Denied => "denied by a rule",
        Reason::Quota => "the receiver's share for this sender is used up",
        Reason::PeerGone => "the receiver went away before reading it",
        Reason::Deadline => "the deadline passed",
        Reason::TooLarge => "too large for a channel on the way",
        Reason::Hops => "passed too many bridges",
    }
}

/// A wire error in words.
pub(crate) fn wire_text(error: WireError) -> &'static str {
    match error {
        WireError::Length => "wrong length",
        WireError::Version => "unknown version",
        WireError::Kind => "unknown kind",
        WireError::Flags => "unknown flag",
        WireError::Reason => "reason where none belongs, or unknown",
        WireError::Reserved => "a reserved byte is not zero",
        WireError::Component => "malformed component",
        WireError::AppId => "an App_ID is 1 to 31 of A-Z a-z 0-9 . _ -",
    }
}
