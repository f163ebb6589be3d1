// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong with xenstore.

use rustix::io::Errno;

/// Why a xenstore operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No way to reach xenstored.
    #[error("cannot reach xenstored: {0}")]
    Connect(String),
    /// xenstored refused the operation; the code is its name for the errno.
    #[error("xenstore: {operation} {path}: {code}")]
    Refused {
        /// The operation, such as `read`.
        operation: &'static str,
        /// What it was about.
        path: String,
        /// Such as `ENOENT`.
        code: String,
    },
    /// The connection broke.
    #[error("xenstore: connection: {0}")]
    Io(Errno),
    /// xenstored closed the connection.
    #[error("xenstore: connection closed")]
    Closed,
    /// No answer in time.
    #[error("xenstore: no answer in time")]
    TimedOut,
    /// xenstored said something that the protocol does not allow.
    #[error("xenstore: protocol: {0}")]
    Protocol(&'static str),
    /// A request is larger than the protocol allows, or holds a NUL.
    #[error("xenstore: {0:?} is too long, or holds a NUL")]
    BadRequest(String),
    /// A transaction met others again and again.
    #[error("xenstore: too many conflicting transactions")]
    Conflict,
    /// There is no such domain.
    #[error("there is no domain {0}")]
    NoDomain(u32),
    /// A domain cannot be attached to itself.
    #[error("domain {0} is the management VM itself")]
    OwnDomain(u32),
    /// The guest has the nodes already.
    #[error("domain {0} is already attached")]
    AlreadyAttached(u32),
    /// The guest has no nodes to remove.
    #[error("domain {0} is not attached")]
    NotAttached(u32),
}

impl Error {
    /// Whether xenstored refused the operation with this code, such as `ENOENT`.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Io(errno)
    }
}
