// SPDX-License-Identifier: MIT OR Apache-2.0

//! The audit log: who changed what, what each broker did, and why.
//!
//! Records are only added. Each [`Class`] has bounds of its own: with each record that is added, the
//! oldest go that are too old or too many ([`Limits`]).

use crate::{META, Result, State, read};
use mgmt_control::{AuditRecord, Class, Outcome, encode};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::time::{SystemTime, UNIX_EPOCH};

const ADMINISTRATION: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const ACTUATION: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit_actuation");
/// Bytes of each text of a record; the rest is cut off.
const MAX_TEXT: usize = 1024;
/// Old records that go with one that comes, at most: a change takes bounded time.
const PRUNE: usize = 256;
/// Bytes of records in one answer, so that it fits into a message.
const MAX_ANSWER: usize = 512 << 10;

/// How much is kept of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its records, without the database's own overhead.
    pub bytes: u64,
    /// Milliseconds.
    pub age_ms: u64,
}

impl Default for Limits {
    /// 16 MiB and 400 days.
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            age_ms: 400 * 24 * 3600 * 1000,
        }
    }
}

/// What a new record says; its number and time are added.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Of which kind.
    pub class: Class,
    /// Who did it.
    pub who: &'a str,
    /// What.
    pub action: &'a str,
    /// With what.
    pub subject: &'a str,
    /// How, and why.
    pub detail: &'a str,
    /// How it went.
    pub outcome: Outcome,
}

impl<'a> Entry<'a> {
    /// Of an administrator's change that is done.
    pub fn done(who: &'a str, action: &'a str, subject: &'a str, detail: &'a str) -> Self {
        Self {
            class: Class::Administration,
            who,
            action,
            subject,
            detail,
            outcome: Outcome::Done,
        }
    }
}

fn table(class: Class) -> TableDefinition<'static, u64, &'static [u8]> {
    match class {
        Class::Administration => ADMINISTRATION,
        Class::Actuation => ACTUATION,
    }
}

fn size(class: Class) -> &'static str {
    match class {
        Class::Administration => "audit_bytes",
        Class::Actuation => "audit_actuation_bytes",
    }
}

pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    for class in Class::ALL {
        txn.open_table(table(class))?;
    }
    Ok(())
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn next(txn: &WriteTransaction, name: &str) -> Result<u64> {
    let mut meta = txn.open_table(META)?;
    let next = meta.get(name)?.map_or(0, |n| n.value()) + 1;
    meta.insert(name, next)?;
    Ok(next)
}

/// Adds a record to a transaction.
pub(crate) fn append(txn: &WriteTransaction, limits: &Limits, entry: Entry<'_>) -> Result<()> {
    let record = AuditRecord {
        number: next(txn, "audit_number")?,
        time_ms: now_ms(),
        class: entry.class,
        who: cut(entry.who),
        action: cut(entry.action),
        subject: cut(entry.subject),
        detail: cut(entry.detail),
        outcome: match entry.outcome {
            Outcome::Done => Outcome::Done,
            Outcome::Refused(why) => Outcome::Refused(cut(&why)),
            Outcome::Failed(why) => Outcome::Failed(cut(&why)),
        },
    };
    let bytes = encode(&record);
    let added = bytes.len() as u64;
    txn.open_table(table(entry.class))?
        .insert(record.number, bytes.as_slice())?;
    prune(txn, limits, entry.class, added, record.time_ms)
}

/// Removes what is beyond the limits, oldest first.
fn prune(
    txn: &WriteTransaction,
    limits: &Limits,
    class: Class,
    added: u64,
    now: u64,
) -> Result<()> {
    let mut meta = txn.open_table(META)?;
    let mut records = txn.open_table(table(class))?;
    let mut held = meta.get(size(class))?.map_or(0, |n| n.value()) + added;
    for _ in 0..PRUNE {
        let Some(oldest) = records.first()? else {
            break;
        };
        let bytes = oldest.1.value();
        let record: AuditRecord = read(bytes, "a record of the audit log")?;
        let old = record.time_ms.saturating_add(limits.age_ms) < now;
        if held <= limits.bytes && !old {
            break;
        }
        held = held.saturating_sub(bytes.len() as u64);
        let number = oldest.0.value();
        drop(oldest);
        records.remove(number)?;
    }
    meta.insert(size(class), held)?;
    Ok(())
}

impl State {
    /// Adds a record.
    pub fn audit(&self, entry: Entry<'_>) -> Result<()> {
        self.write(|txn| append(txn, &self.limits, entry))
    }

    /// Removes records that are too old. Also done, in part, with each record that is added.
    pub fn prune(&self) -> Result<()> {
        self.write(|txn| {
            let each = |class| prune(txn, &self.limits, class, 0, now_ms());
            Class::ALL.into_iter().try_for_each(each)
        })
    }

    /// How many records there are, and their bytes.
    pub fn audit_size(&self) -> Result<(u64, u64)> {
        use redb::ReadableTableMetadata as _;
        let txn = self.database.begin_read()?;
        let mut sum = (0, 0);
        for class in Class::ALL {
            sum.0 += txn.open_table(table(class))?.len()?;
            sum.1 += self.number(size(class))?.unwrap_or(0);
        }
        Ok(sum)
    }

    /// The latest records that `wanted` says yes to, with a number greater than `after`: at most
    /// `limit`, and no more than fit into an answer. Oldest first.
    pub fn records(
        &self,
        after: u64,
        limit: usize,
        wanted: impl Fn(&AuditRecord) -> bool,
    ) -> Result<Vec<AuditRecord>> {
        let txn = self.database.begin_read()?;
        let mut found = Vec::new();
        for class in Class::ALL {
            let records = txn.open_table(table(class))?;
            let (mut count, mut bytes) = (0, 0);
            for stored in records.range(after.saturating_add(1)..)?.rev() {
                let stored = stored?;
                let record = read(stored.1.value(), "a record of the audit log")?;
                if !wanted(&record) {
                    continue;
                }
                bytes += stored.1.value().len();
                count += 1;
                if count > limit || bytes > MAX_ANSWER {
                    break;
                }
                found.push(record);
            }
        }
        found.sort_unstable_by_key(|record| record.number);
        // The latest of both.
        let mut room = MAX_ANSWER;
        let fits = found.iter().rev().take(limit).take_while(|record| {
            let bytes = encode(record).len();
            room = room.saturating_sub(bytes);
            room > 0
        });
        let first = found.len() - fits.count();
        Ok(found.split_off(first))
    }
}
