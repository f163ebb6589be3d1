// SPDX-License-Identifier: MIT OR Apache-2.0

//! The goals of applications: what an administrator wants of each broker.

use crate::{Entry, Error, Result, State, audit, read};
use mgmt_control::{Goal, encode};
use redb::{ReadableTable, ReadableTableMetadata as _, TableDefinition, WriteTransaction};

const GOALS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("goals");
/// Goals of all applications together.
pub const MAX_GOALS: u64 = 4096;
/// Bytes of the name of an application or goal.
pub const MAX_KEY: usize = 64;
/// Bytes of a goal's value.
pub const MAX_VALUE: usize = 4096;

pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    txn.open_table(GOALS)?;
    Ok(())
}

impl State {
    /// The goals of an application, or of all, by application and name.
    pub fn goals(&self, app: Option<&str>) -> Result<Vec<Goal>> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(GOALS)?;
        let mut found = Vec::new();
        for stored in table.iter()? {
            let (key, value) = stored?;
            let (of, key) = key.value();
            if app.is_none_or(|app| app == of) {
                found.push(Goal {
                    app: of.to_owned(),
                    key: key.to_owned(),
                    value: read(value.value(), "a goal")?,
                });
            }
        }
        Ok(found)
    }

    /// Sets a goal, or removes it. False if there was nothing to remove.
    pub fn set_goal(
        &self,
        app: &str,
        key: &str,
        value: Option<&str>,
        entry: Entry<'_>,
    ) -> Result<bool> {
        let good = |name: &str| !name.is_empty() && name.len() <= MAX_KEY;
        if !good(app) || !good(key) {
            let limit = format!("the name of a goal has 1 to {MAX_KEY} bytes");
            return Err(Error::Limit(limit));
        }
        if value.is_some_and(|value| value.len() > MAX_VALUE) {
            return Err(Error::Limit(format!(
                "a goal's value has at most {MAX_VALUE} bytes"
            )));
        }
        self.write(|txn| {
            let mut table = txn.open_table(GOALS)?;
            match value {
                Some(value) => {
                    if table.len()? >= MAX_GOALS && table.get((app, key))?.is_none() {
                        return Err(Error::Limit(format!("there are {MAX_GOALS} goals already")));
                    }
                    table.insert((app, key), encode(&value).as_slice())?;
                }
                None if table.remove((app, key))?.is_none() => return Ok(false),
                None => {}
            }
            audit::append(txn, &self.limits, entry)?;
            Ok(true)
        })
    }
}
