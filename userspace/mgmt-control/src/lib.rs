// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control interface of `mgmtd`, over the M-channel itself: what is asked, what is answered, and
//! the records that both sides know.
//!
//! The daemon has bound [`APP`] in the management VM. A request is a message of kind data with the
//! flag *request*, its application header is [`HEADER`], its data a [`Request`] in postcard; the
//! reply has the same header and a [`Reply`]. Within a [`VERSION`] what is there does not change;
//! commands and answers are added at the end.

mod client;
mod records;

pub use client::{Client, ClientError};
pub use records::{
    AuditRecord, Class, Goal, Intent, Lease, Outcome, Plan, PolicyInfo, Status, Verdict, Who,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The daemon's App_ID.
pub const APP: &str = "Mgmtd";
/// The version of this interface.
pub const VERSION: u8 = 1;
/// The application header of each message: magic bytes and [`VERSION`].
pub const HEADER: [u8; 4] = [b'M', b'C', b'T', VERSION];
/// Bytes of rules in one request; longer ones come in parts.
pub const PART: usize = 512 << 10;
/// Bytes of the longest text of rules: the bridge takes no more.
pub const MAX_POLICY: usize = 4 << 20;
/// Records of the audit log in one answer.
pub const MAX_RECORDS: u32 = 1000;

/// A command, and who gives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// On whose behalf, for the audit log.
    pub who: Who,
    /// What.
    pub command: Command,
}

/// What the daemon can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// How the daemon is.
    Status,
    /// Rules to load, or a part of them: `total` bytes in all; the parts in order.
    PolicyLoad {
        /// At which byte this part begins; 0 begins anew.
        offset: u32,
        /// At most [`PART`] bytes.
        part: Vec<u8>,
        /// At most [`MAX_POLICY`].
        total: u32,
        /// Where they are from, for people.
        origin: String,
    },
    /// The policies that are kept.
    PolicyHistory,
    /// The rules of a version, from a byte on.
    PolicyText {
        /// Which.
        version: u64,
        /// From where.
        offset: u32,
    },
    /// Loads a former policy again.
    PolicyRollback {
        /// Which; the one before the active one if none is said.
        to: Option<u64>,
    },
    /// The goals of an application, or of all.
    Goals {
        /// Which.
        app: Option<String>,
    },
    /// Sets a goal, or removes it.
    SetGoal {
        /// Of which application.
        app: String,
        /// Its name.
        key: String,
        /// Its value; none removes it.
        value: Option<String>,
    },
    /// Whether the whole platform is only observed.
    Observe(bool),
    /// What would be actuated now, and why.
    Plan,
    /// Who holds which actuator.
    Leases,
    /// The latest records of the audit log, oldest first.
    Audit {
        /// Only records with a greater number.
        after: u64,
        /// At most so many, and at most [`MAX_RECORDS`].
        limit: u32,
        /// Only of this class.
        class: Option<Class>,
        /// Only with this text in who, action, subject or detail.
        text: Option<String>,
    },
    /// Sets an actuator, and takes or renews its lease.
    Actuate {
        /// Which kind.
        actuator: String,
        /// Of what.
        target: String,
        /// To what, in the actuator's unit.
        value: i64,
        /// How long the lease lasts without being renewed, milliseconds.
        ttl_ms: u32,
        /// The cause, for the audit log.
        why: String,
    },
    /// Renews all leases that the sender holds.
    Renew,
    /// Gives an actuator back: it returns to its safe default.
    Release {
        /// Which kind.
        actuator: String,
        /// Of what.
        target: String,
    },
}

/// What the daemon says: an answer, or why there is none.
pub type Reply = Result<Answer, Refusal>;

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, and durable.
    Done,
    /// The next part is expected.
    More,
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// The policy that holds now.
    Policy(PolicyInfo),
    /// To [`Command::PolicyHistory`], oldest first.
    Policies(Vec<PolicyInfo>),
    /// A part of the rules; empty at the end.
    Text(Vec<u8>),
    /// To [`Command::Goals`].
    Goals(Vec<Goal>),
    /// To [`Command::Plan`].
    Plan(Plan),
    /// To [`Command::Leases`], and how many were renewed.
    Leases(Vec<Lease>),
    /// To [`Command::Audit`].
    Audit(Vec<AuditRecord>),
}

/// Why a request was not carried out: nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// The reason in words.
    pub text: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The daemon speaks another version of this interface.
    Version,
    /// It does not know the command.
    Unknown,
    /// The sender may not.
    Forbidden,
    /// The request is wrong.
    Invalid,
    /// A line of the rules is wrong.
    Rule {
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
    },
    /// There is no such thing.
    Missing,
    /// A limit, an interval, another's lease, or the observe-only switch.
    Withheld,
    /// It was tried and failed.
    Failed,
}

impl Refusal {
    /// A reason of this kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

/// The bytes of a request or reply.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    // Fails only for types that postcard cannot write, and these are none.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// Reads a request or reply: all of the bytes, and nothing behind.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout is part of the interface: a change of it needs another version.
    #[test]
    fn the_encoding_of_this_version_stays() {
        let who = Who {
            uid: 0,
            login: Some("ann".into()),
            program: "mgmtctl".into(),
        };
        for (command, expected) in [
            (Command::Status, &[0][..]),
            (Command::PolicyRollback { to: Some(300) }, &[4, 1, 0xac, 2]),
            (Command::Observe(true), &[7, 1]),
            (Command::Renew, &[12]),
        ] {
            let who = who.clone();
            let bytes = encode(&Request {
                who,
                command: command.clone(),
            });
            let head = b"\x00\x01\x03ann\x07mgmtctl";
            assert_eq!(bytes, [&head[..], expected].concat(), "{command:?}");
            assert_eq!(decode::<Request>(&bytes).unwrap().command, command);
        }
        let refusal: Reply = Err(Refusal::new(RefusalKind::Missing, "x"));
        assert_eq!(encode(&refusal), [1, 5, 1, b'x']);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let good = encode(&Request {
            who: Who::default(),
            command: Command::Plan,
        });
        assert!(decode::<Request>(&good).is_some());
        assert!(decode::<Request>(&[&good[..], &[0]].concat()).is_none());
        for length in 0..good.len() {
            assert!(decode::<Request>(&good[..length]).is_none());
        }
        // A length that lies costs no memory.
        assert!(decode::<Request>(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_none());
    }
}
