// SPDX-License-Identifier: MIT OR Apache-2.0

//! The policies: the one that holds, and those before it.
//!
//! The bridge and the database cannot change in one step. So a policy is written first, as *begun*;
//! then the bridge loads it; then it is *active*. Who finds one begun after a crash asks the bridge
//! which of the two it has ([`State::unfinished`]).

use crate::{Entry, META, Result, State, audit, read};
use mgmt_control::{PolicyInfo, Who, encode};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

const INFOS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policies");
const TEXTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policy_texts");
const ACTIVE: &str = "policy_active";
const BEGUN: &str = "policy_begun";
/// 1 if what was begun is a new policy, not a former one again.
const FRESH: &str = "policy_fresh";
const LAST: &str = "policy_last";
/// A hash of the file that was loaded last, valid if it is not 0.
const FILE: &str = "policy_file";
/// Policies that are kept, the active one included.
pub const HISTORY: usize = 16;

/// What was begun and not finished when the daemon died.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The policy that was to become active.
    pub version: u64,
    /// Its rules.
    pub text: Vec<u8>,
}

pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    txn.open_table(INFOS)?;
    txn.open_table(TEXTS)?;
    Ok(())
}

impl State {
    /// The version that is active.
    pub fn active(&self) -> Result<Option<u64>> {
        self.number(ACTIVE)
    }

    /// The policies that are kept, oldest first.
    pub fn policies(&self) -> Result<Vec<PolicyInfo>> {
        let active = self.active()?;
        // One that never was active is none yet.
        let fresh = self.number(FRESH)? == Some(1);
        let hidden = if fresh { self.number(BEGUN)? } else { None };
        let txn = self.database.begin_read()?;
        let table = txn.open_table(INFOS)?;
        let mut found = Vec::new();
        for stored in table.iter()? {
            let (version, info) = stored?;
            let mut info: PolicyInfo = read(info.value(), "a policy")?;
            info.active = active == Some(version.value());
            if hidden != Some(version.value()) {
                found.push(info);
            }
        }
        Ok(found)
    }

    /// The rules of a version.
    pub fn policy_text(&self, version: u64) -> Result<Option<Vec<u8>>> {
        let txn = self.database.begin_read()?;
        let text = txn.open_table(TEXTS)?.get(version)?;
        Ok(text.map(|text| text.value().to_vec()))
    }

    /// Writes a new policy, which is begun, and returns its version.
    pub fn begin_policy(&self, text: &[u8], who: &Who, origin: &str, rules: u32) -> Result<u64> {
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let version = meta.get(LAST)?.map_or(0, |n| n.value()) + 1;
            let info = PolicyInfo {
                version,
                time_ms: audit::now_ms(),
                who: who.clone(),
                origin: origin.to_owned(),
                rules,
                bytes: text.len() as u32,
                active: false,
            };
            meta.insert(BEGUN, version)?;
            meta.insert(FRESH, 1)?;
            meta.insert(LAST, version)?;
            txn.open_table(INFOS)?
                .insert(version, encode(&info).as_slice())?;
            txn.open_table(TEXTS)?.insert(version, text)?;
            Ok(version)
        })
    }

    /// Begins to go back to a version that is kept.
    pub fn begin_rollback(&self, version: u64) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            meta.insert(BEGUN, version)?;
            meta.insert(FRESH, 0)?;
            Ok(())
        })
    }

    /// What was begun and not finished.
    pub fn unfinished(&self) -> Result<Option<Unfinished>> {
        let Some(version) = self.number(BEGUN)? else {
            return Ok(None);
        };
        let text = self.policy_text(version)?.unwrap_or_default();
        Ok(Some(Unfinished { version, text }))
    }

    /// What was begun is active. `file` is a hash of the file that it is from.
    pub fn finish_policy(&self, file: Option<u64>, entry: Entry<'_>) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let begun = meta.remove(BEGUN)?.map(|n| n.value());
            if let Some(version) = begun {
                meta.insert(ACTIVE, version)?;
            }
            if let Some(hash) = file {
                meta.insert(FILE, hash)?;
            }
            drop(meta);
            forget_old(txn, begun)?;
            audit::append(txn, &self.limits, entry)
        })
    }

    /// What was begun is not to be: a new policy goes, the active one stays.
    pub fn abandon_policy(&self, entry: Entry<'_>) -> Result<()> {
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let begun = meta.remove(BEGUN)?.map(|n| n.value());
            let fresh = meta.get(FRESH)?.is_some_and(|n| n.value() == 1);
            // A former one that was to be loaded again is kept.
            if let Some(version) = begun.filter(|_| fresh) {
                txn.open_table(INFOS)?.remove(version)?;
                txn.open_table(TEXTS)?.remove(version)?;
            }
            drop(meta);
            audit::append(txn, &self.limits, entry)
        })
    }

    /// The hash of the file that was loaded last.
    pub fn policy_file(&self) -> Result<Option<u64>> {
        self.number(FILE)
    }
}

/// Keeps the active policy and the latest others.
fn forget_old(txn: &WriteTransaction, active: Option<u64>) -> Result<()> {
    let mut infos = txn.open_table(INFOS)?;
    let mut texts = txn.open_table(TEXTS)?;
    let mut versions = Vec::new();
    for stored in infos.iter()? {
        versions.push(stored?.0.value());
    }
    let more = versions.len().saturating_sub(HISTORY);
    for version in versions
        .into_iter()
        .filter(|&v| Some(v) != active)
        .take(more)
    {
        infos.remove(version)?;
        texts.remove(version)?;
    }
    Ok(())
}
