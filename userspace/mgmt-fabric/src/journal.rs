// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a daemon must know of the one before it: which messages of each peer were taken, and which
//! peer a message to a stable name was sent to.
//!
//! It is true for one lineage of the bridge's link, and belongs where that does not outlive the
//! kernel (`/run`). Written with single small writes, which a killed process has done or not.

use crate::Host;
use crate::incoming::Incoming;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const RECORD: usize = 64;
const ROUTE: usize = 24;
/// Bytes of routes after which those that are settled are forgotten.
const MAX_ROUTES: u64 = 1 << 20;

/// The journal of one daemon.
#[derive(Debug)]
pub struct Journal {
    file: File,
    slots: BTreeMap<Host, (u64, Incoming)>,
    routes: Routes,
}

/// A message that is about to be handed to the bridge.
#[derive(Clone, Copy, Debug)]
struct Pending {
    slot: u64,
    number: u64,
    accepted: u64,
}

fn word(record: &[u8], at: usize) -> u64 {
    let bytes = record
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

fn host(record: &[u8], at: usize) -> Host {
    let bytes = record
        .get(at..at + 16)
        .and_then(|bytes| bytes.try_into().ok());
    Host(bytes.unwrap_or_default())
}

impl Journal {
    /// Opens the journal in this directory, which is made. `accepted` is how many messages the
    /// bridge's link of this lineage has taken: of another one, nothing is known.
    pub fn open(directory: &Path, lineage: u64, accepted: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join("taken");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let is_same = bytes.len() >= RECORD && word(&bytes, 0) == lineage;
        let mut journal = Self {
            file,
            slots: BTreeMap::new(),
            routes: Routes::open(directory.join("routes"), is_same)?,
        };
        if !is_same {
            journal.file.set_len(0)?;
            journal.write_record(0, lineage, &[])?;
            return Ok(journal);
        }
        let pending = Pending {
            slot: word(&bytes, 8),
            number: word(&bytes, 16),
            accepted: word(&bytes, 24),
        };
        for (slot, record) in (1..).zip(bytes[RECORD..].chunks_exact(RECORD)) {
            let mut incoming = Incoming {
                lineage: word(record, 16),
                received: word(record, 24),
            };
            // It was taken, and its daemon killed before it noted that.
            if pending.slot == slot && accepted > pending.accepted {
                incoming.took(pending.number);
            }
            journal.slots.insert(host(record, 0), (slot, incoming));
        }
        Ok(journal)
    }

    fn write_record(&self, slot: u64, first: u64, words: &[u64]) -> io::Result<()> {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&first.to_le_bytes());
        for (to, word) in record[8..].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.file.write_all_at(&record, slot * RECORD as u64)
    }

    /// What was taken of a peer.
    pub fn incoming(&self, peer: Host) -> Incoming {
        self.slots
            .get(&peer)
            .map_or_else(Incoming::default, |(_, incoming)| *incoming)
    }

    /// Notes what was taken of a peer.
    pub fn set_incoming(&mut self, peer: Host, incoming: Incoming) -> io::Result<()> {
        let next = self.slots.len() as u64 + 1;
        let (slot, known) = self.slots.entry(peer).or_insert((next, incoming));
        *known = incoming;
        let mut record = [0; RECORD];
        record[..16].copy_from_slice(&peer.0);
        record[16..24].copy_from_slice(&incoming.lineage.to_le_bytes());
        record[24..32].copy_from_slice(&incoming.received.to_le_bytes());
        self.file.write_all_at(&record, *slot * RECORD as u64)
    }

    /// A message of a peer is about to be handed to the bridge's link, which has taken so many.
    pub fn begin(&mut self, peer: Host, number: u64, accepted: u64) -> io::Result<()> {
        let slot = self.slots.get(&peer).map_or(0, |(slot, _)| *slot);
        let words = [slot, number, accepted].map(u64::to_le_bytes);
        self.file.write_all_at(words.as_flattened(), 8)
    }

    /// The peer that a message was sent to, if it was sent by a stable name.
    pub fn route(&self, number: u64) -> Option<Host> {
        self.routes.known.get(&number).copied()
    }

    /// Notes that a message is sent to a peer by a stable name.
    pub fn set_route(&mut self, number: u64, peer: Host) -> io::Result<()> {
        self.routes.add(number, peer)
    }

    /// A message is settled.
    pub fn settled(&mut self, number: u64) {
        self.routes.known.remove(&number);
    }
}

/// Which peers messages to stable names were sent to, as long as they are not settled.
#[derive(Debug)]
struct Routes {
    path: PathBuf,
    file: File,
    length: u64,
    known: BTreeMap<u64, Host>,
}

impl Routes {
    fn open(path: PathBuf, keep: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(!keep)
            .read(true)
            .write(true)
            .open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let records = bytes.chunks_exact(ROUTE);
        Ok(Self {
            path,
            length: (bytes.len() / ROUTE * ROUTE) as u64,
            known: records
                .map(|record| (word(record, 0), host(record, 8)))
                .collect(),
            file,
        })
    }

    fn add(&mut self, number: u64, peer: Host) -> io::Result<()> {
        self.known.insert(number, peer);
        if self.length >= MAX_ROUTES {
            return self.rewrite();
        }
        self.file
            .write_all_at(&Self::record(number, peer), self.length)?;
        self.length += ROUTE as u64;
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let known = self
            .known
            .iter()
            .map(|(&number, &peer)| Self::record(number, peer));
        let bytes: Vec<u8> = known.flatten().collect();
        fs::write(&new, &bytes)?;
        fs::rename(&new, &self.path)?;
        self.file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        self.length = bytes.len() as u64;
        Ok(())
    }

    fn record(number: u64, peer: Host) -> [u8; ROUTE] {
        let mut record = [0; ROUTE];
        record[..8].copy_from_slice(&number.to_le_bytes());
        record[8..].copy_from_slice(&peer.0);
        record
    }
}
