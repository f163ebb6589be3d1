// SPDX-License-Identifier: MIT OR Apache-2.0

//! Leases on actuators: what has to go back to its safe default when its holder is gone, the
//! daemon's own death in between included.

use crate::{Entry, Error, Result, State, audit, read};
use mgmt_control::{Lease, encode};
use redb::{ReadableTable, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

const LEASES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("leases");
/// The boot that the leases are of: what actuators were set to does not outlive it.
const BOOT: TableDefinition<'_, (), &str> = TableDefinition::new("boot");
/// Leases of all holders together.
pub const MAX_LEASES: u64 = 8192;

pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    txn.open_table(LEASES)?;
    txn.open_table(BOOT)?;
    Ok(())
}

impl State {
    /// The leases, by actuator and target.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(LEASES)?;
        let stored = table.iter()?;
        let leases = stored.map(|stored| read(stored?.1.value(), "a lease"));
        leases.collect()
    }

    /// Forgets the leases of another boot, and says how many these were.
    pub fn keep_leases_of(&self, boot: &str) -> Result<u64> {
        self.write(|txn| {
            let mut of = txn.open_table(BOOT)?;
            let same = of.get(())?.is_some_and(|id| id.value() == boot);
            let mut table = txn.open_table(LEASES)?;
            let before = table.len()?;
            if same {
                return Ok(0);
            }
            of.insert((), boot)?;
            table.retain(|_, _| false)?;
            Ok(before)
        })
    }

    /// Writes leases, new ones or in place of those with the same actuator and target.
    pub fn put_leases(&self, leases: &[Lease], entry: Option<Entry<'_>>) -> Result<()> {
        self.write(|txn| {
            let mut table = txn.open_table(LEASES)?;
            for lease in leases {
                let key = (lease.actuator.as_str(), lease.target.as_str());
                table.insert(key, encode(lease).as_slice())?;
            }
            if table.len()? > MAX_LEASES {
                return Err(Error::Limit(format!(
                    "there are {MAX_LEASES} leases already"
                )));
            }
            match entry {
                Some(entry) => audit::append(txn, &self.limits, entry),
                None => Ok(()),
            }
        })
    }

    /// Removes one.
    pub fn remove_lease(&self, actuator: &str, target: &str, entry: Entry<'_>) -> Result<()> {
        self.write(|txn| {
            txn.open_table(LEASES)?.remove((actuator, target))?;
            audit::append(txn, &self.limits, entry)
        })
    }
}
