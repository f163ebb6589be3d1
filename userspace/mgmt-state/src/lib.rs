// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the daemon must not forget, in an embedded database (redb).
//!
//! Every call that changes something is one transaction, with its record in the audit log, and is on
//! the disk (fsync) when it returns. Killed or without power at any moment, the database opens again
//! with all that had returned, and of what had not either all or nothing.

mod audit;
mod goals;
mod leases;
mod policies;

pub use audit::{Entry, Limits};
pub use goals::{MAX_GOALS, MAX_KEY, MAX_VALUE};
pub use leases::MAX_LEASES;
pub use policies::{HISTORY, Unfinished};
use redb::{Database, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The layout of the tables. A database of a later one is not touched.
const SCHEMA: u64 = 1;
/// Numbers by name.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database failed: nothing of the call was done.
    #[error("state database: {0}")]
    Database(#[source] Box<redb::Error>),
    /// Its directory or file cannot be made.
    #[error("state database: {0}")]
    File(#[from] std::io::Error),
    /// Another daemon has it open.
    #[error("the state is in use: another mgmtd runs")]
    InUse,
    /// A later version has written it.
    #[error("the state is of schema {0}, and this program knows {SCHEMA}")]
    Schema(u64),
    /// What is in it is not what this version writes.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// A limit.
    #[error("{0}")]
    Limit(String),
}

/// redb has an error type for each kind of call; all end up here.
impl<E: Into<redb::Error>> From<E> for Error
where
    E: RedbError,
{
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            other => Self::Database(Box::new(other)),
        }
    }
}

/// Keeps the conversion above from touching other errors.
trait RedbError {}
impl RedbError for redb::DatabaseError {}
impl RedbError for redb::TransactionError {}
impl RedbError for redb::TableError {}
impl RedbError for redb::StorageError {}
impl RedbError for redb::CommitError {}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// The state. Threads may share it.
#[derive(Debug)]
pub struct State {
    database: Database,
    limits: Limits,
    failed: AtomicBool,
}

impl State {
    /// Opens the database in this directory, or makes both.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join("state.redb"))?;
        // The file's name must not be lost with the power either.
        File::open(directory)?.sync_all()?;
        let mut builder = Database::builder();
        builder.create_with_file_format_v3(true);
        Self::with(builder.create_file(file)?, limits)
    }

    /// On anything that holds bytes.
    pub fn open_on(backend: impl StorageBackend, limits: Limits) -> Result<Self> {
        let mut builder = Database::builder();
        builder.create_with_file_format_v3(true);
        Self::with(builder.create_with_backend(backend)?, limits)
    }

    fn with(database: Database, limits: Limits) -> Result<Self> {
        let failed = AtomicBool::new(false);
        let state = Self {
            database,
            limits,
            failed,
        };
        state.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let found = meta.get("schema")?.map(|schema| schema.value());
            match found {
                None => _ = meta.insert("schema", SCHEMA)?,
                Some(schema) if schema > SCHEMA => return Err(Error::Schema(schema)),
                Some(_) => {}
            }
            // A table that is not there cannot be read.
            policies::create(txn)?;
            goals::create(txn)?;
            leases::create(txn)?;
            audit::create(txn)
        })?;
        Ok(state)
    }

    /// One transaction; durable when it returns without an error, else nothing.
    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let done = self.try_write(change);
        if matches!(done, Err(Error::Database(_))) {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    fn try_write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let txn = self.database.begin_write()?;
        match change(&txn) {
            Ok(done) => {
                txn.commit()?;
                Ok(done)
            }
            Err(error) => {
                txn.abort()?;
                Err(error)
            }
        }
    }

    /// Whether writing has failed, as when the disk is full: it must be opened anew.
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let txn = self.database.begin_read()?;
        let found = txn.open_table(META)?.get(name)?.map(|n| n.value());
        Ok(found)
    }

    /// Whether the platform is only observed. It is not, before anybody says so.
    pub fn observe(&self) -> Result<bool> {
        Ok(self.number("observe")? == Some(1))
    }

    /// Switches that.
    pub fn set_observe(&self, on: bool, entry: Entry<'_>) -> Result<()> {
        self.write(|txn| {
            txn.open_table(META)?.insert("observe", u64::from(on))?;
            audit::append(txn, &self.limits, entry)
        })
    }
}

/// Reads a stored value.
fn read<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T> {
    mgmt_control::decode(bytes).ok_or(Error::Damaged(what))
}
