// SPDX-License-Identifier: MIT OR Apache-2.0

//! What agents and the power broker say to each other, behind the M-channel header.
//!
//! Little-endian. The application header is 8 bytes: version (2), type (2), zero (4).
//!
//! | type | kind of message | direction | data |
//! |---|---|---|---|
//! | 1 [`Hello`] | establish | agent to broker | 40 bytes |
//! | 2 [`Report`] | data | agent to broker | 64 bytes |
//! | 3 [`Settings`] | data, and the reply to establish | broker to agent | 8 bytes |

use mgmt_channel::{Address, Kind, Message};

/// The version of these layouts.
pub const VERSION: u16 = 1;
/// Bytes of the application header.
pub const APP_HEADER: usize = 8;

const HELLO: u16 = 1;
const REPORT: u16 = 2;
const SETTINGS: u16 = 3;

/// Why content is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// Not this version, or not this type.
    #[error("unknown version or type of application message")]
    Header,
    /// Too short, too long, or a field out of its range.
    #[error("malformed application message")]
    Content,
}

/// An agent introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// What it watches; up to 31 bytes are sent.
    pub name: String,
    /// Processor time of one request on the unrestricted CPU, microseconds; 0 if unknown.
    pub service_us: u32,
    /// The response time that it holds its server to, microseconds.
    pub sla_us: u32,
}

/// What happened in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// How long it really was, milliseconds.
    pub epoch_ms: u32,
    /// Requests answered or turned away.
    pub requests: u32,
    /// Those of them that took longer than the SLA, or were turned away.
    pub violations: u32,
    /// Those of them that were turned away, as the server's queue was full.
    pub rejected: u32,
    /// The share of the epoch in which the VM had work to do, per mille: of its *allotted* CPU.
    pub utilization: u32,
    /// Median response time, microseconds.
    pub p50_us: u32,
    /// 95th percentile of the response time, microseconds.
    pub p95_us: u32,
    /// The longest response time, microseconds.
    pub max_us: u32,
    /// The SLA in force, microseconds.
    pub sla_us: u32,
    /// Requests waiting at the end of the epoch.
    pub queued: u32,
    /// The paper's SLA violation notification: the share of violations was above the threshold.
    pub notification: bool,
}

/// What an agent shall hold its server to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The longest response time that is no violation, microseconds; 0: as it is.
    pub sla_us: u32,
    /// Violations above this share of the requests of an epoch are notified, per mille; 0: as it
    /// is.
    pub threshold_permille: u32,
}

/// A message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// From an agent.
    Hello(Hello),
    /// From an agent.
    Report(Report),
    /// To an agent.
    Settings(Settings),
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Content {
    fn encode(&self) -> (u16, Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                let mut data = words(&[hello.service_us, hello.sla_us]);
                let mut end = hello.name.len().min(31);
                while !hello.name.is_char_boundary(end) {
                    end -= 1;
                }
                data.extend_from_slice(&hello.name.as_bytes()[..end]);
                data.resize(40, 0);
                (HELLO, data)
            }
            Self::Report(r) => {
                let mut data = r.epoch.to_le_bytes().to_vec();
                data.extend(words(&[
                    r.epoch_ms,
                    r.requests,
                    r.violations,
                    r.rejected,
                    r.utilization,
                    r.p50_us,
                    r.p95_us,
                    r.max_us,
                    r.sla_us,
                    r.queued,
                    r.notification.into(),
                    0,
                    0,
                    0,
                ]));
                (REPORT, data)
            }
            Self::Settings(s) => (SETTINGS, words(&[s.sla_us, s.threshold_permille])),
        }
    }

    fn app_header(kind: u16) -> Vec<u8> {
        let words = [VERSION, kind, 0, 0];
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// As a message of `kind` to `destination`.
    pub fn message(&self, kind: Kind, destination: Address) -> Message {
        let (code, data) = self.encode();
        Message::with_app_header(kind, destination, &Self::app_header(code), &data)
    }

    /// As the payload of a reply, whose application header stands in front.
    pub fn payload(&self) -> Vec<u8> {
        let (code, data) = self.encode();
        [Self::app_header(code), data].concat()
    }

    /// Reads a payload. Everything in it is the sender's word and is checked for its range; that
    /// it is true is not known.
    pub fn read(payload: &[u8]) -> Result<Self, ProtoError> {
        let (head, data) = payload
            .split_at_checked(APP_HEADER)
            .ok_or(ProtoError::Header)?;
        let half = |i: usize| u16::from_le_bytes([head[2 * i], head[2 * i + 1]]);
        if half(0) != VERSION || half(2) != 0 || half(3) != 0 {
            return Err(ProtoError::Header);
        }
        let length = |expected| {
            if data.len() == expected {
                Ok(())
            } else {
                Err(ProtoError::Content)
            }
        };
        let word = |at: usize| {
            let bytes = [data[at], data[at + 1], data[at + 2], data[at + 3]];
            u32::from_le_bytes(bytes)
        };
        match half(1) {
            HELLO => {
                length(40)?;
                let name = data[8..].split(|&b| b == 0).next().unwrap_or(&[]);
                let printable = |c: char| if c.is_control() { '?' } else { c };
                Ok(Self::Hello(Hello {
                    service_us: word(0),
                    sla_us: word(4),
                    name: String::from_utf8_lossy(name)
                        .chars()
                        .map(printable)
                        .collect(),
                }))
            }
            REPORT => {
                length(64)?;
                let report = Report {
                    epoch: (u64::from(word(4)) << 32) | u64::from(word(0)),
                    epoch_ms: word(8),
                    requests: word(12),
                    violations: word(16),
                    rejected: word(20),
                    utilization: word(24),
                    p50_us: word(28),
                    p95_us: word(32),
                    max_us: word(36),
                    sla_us: word(40),
                    queued: word(44),
                    notification: word(48) != 0,
                };
                let sound = word(48) <= 1
                    && data[52..].iter().all(|&b| b == 0)
                    && report.utilization <= 1000
                    && report.violations <= report.requests
                    && report.rejected <= report.violations;
                sound
                    .then_some(Self::Report(report))
                    .ok_or(ProtoError::Content)
            }
            SETTINGS => {
                length(8)?;
                Ok(Self::Settings(Settings {
                    sla_us: word(0),
                    threshold_permille: word(4),
                }))
            }
            _ => Err(ProtoError::Header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> Report {
        Report {
            epoch: 1 << 40,
            epoch_ms: 501,
            requests: 30,
            violations: 2,
            rejected: 1,
            utilization: 1000,
            p50_us: 5,
            p95_us: 6,
            max_us: 7,
            sla_us: 8,
            queued: 9,
            notification: true,
        }
    }

    #[test]
    fn everything_reads_back() {
        let settings = Settings {
            sla_us: 90_000,
            threshold_permille: 10,
        };
        for content in [
            Content::Hello(Hello {
                name: "web".into(),
                service_us: 8000,
                sla_us: 80_000,
            }),
            Content::Report(report()),
            Content::Settings(settings),
        ] {
            assert_eq!(Content::read(&content.payload()), Ok(content));
        }
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let hello = Hello {
            name: "ä".repeat(20),
            ..Hello::default()
        };
        let Ok(Content::Hello(read)) = Content::read(&Content::Hello(hello).payload()) else {
            panic!("not a hello");
        };
        assert_eq!(read.name, "ä".repeat(15));
    }

    #[test]
    fn a_report_that_cannot_be_is_refused() {
        let wrong: [fn(&mut Report); 3] = [
            |r| r.violations = r.requests + 1,
            |r| r.rejected = r.violations + 1,
            |r| r.utilization = 1001,
        ];
        for change in wrong {
            let mut bad = report();
            change(&mut bad);
            let read = Content::read(&Content::Report(bad).payload());
            assert_eq!(read, Err(ProtoError::Content), "{bad:?}");
        }
    }

    proptest! {
        /// A guest may send anything.
        #[test]
        fn nonsense_does_not_panic(
            kind in 0u16..6,
            data in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = Content::read(&data);
            let _ = Content::read(&[Content::app_header(kind), data].concat());
        }
    }
}
