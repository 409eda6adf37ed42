//! redb, with its errors and panics turned into [`Fault`].

use super::super::keyspace::{Batch, Operation, SCAN_BYTES_MAX};
use super::{Entries, codec};
use redb::{ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition, TableError, TableHandle};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Why redb gave no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The disk failed.
    Io(io::Error),
    /// redb says, or by its panic shows, that the file is damaged.
    Engine(String),
    /// A value is not what was written.
    Value { table: String, key: Vec<u8> },
}

/// An open redb database. Its drop closes it, and does not panic either.
pub(super) struct Database(Option<redb::Database>);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let database = self.0.take();
        let closed = guarded(move || {
            drop(database);
            Ok(())
        });
        if let Err(fault) = closed {
            tracing::warn!(target: "weft::store", ?fault, "closing the state failed; the next start repairs it");
        }
    }
}

impl Database {
    pub(super) fn open(backend: impl StorageBackend, cache_bytes: usize, check: bool) -> Result<Database, Fault> {
        guarded(|| {
            let mut builder = redb::Builder::new();
            builder.set_cache_size(cache_bytes).set_check_integrity_on_open(check);
            Ok(Database(Some(builder.create_with_backend(backend)?)))
        })
    }

    pub(super) fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        guarded(|| {
            let Some(table) = self.table(name)? else {
                return Ok(None);
            };
            match table.get(key)? {
                None => Ok(None),
                Some(stored) => checked(name, key, stored.value()).map(|value| Some(value.to_vec())),
            }
        })
    }

    pub(super) fn scan(&self, name: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Entries, Fault> {
        guarded(|| {
            let Some(table) = self.table(name)? else {
                return Ok(Vec::new());
            };
            let start = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix),
            };
            let mut entries = Vec::new();
            let mut bytes = 0;
            for entry in table.range::<&[u8]>((start, Bound::Unbounded))?.take(limit) {
                let (key, stored) = entry?;
                let key = key.value();
                if !key.starts_with(prefix) {
                    break;
                }
                let value = checked(name, key, stored.value())?;
                bytes += key.len() + value.len();
                if bytes > SCAN_BYTES_MAX && !entries.is_empty() {
                    break;
                }
                entries.push((key.to_vec(), value.to_vec()));
            }
            Ok(entries)
        })
    }

    /// The names of all tables.
    pub(super) fn tables(&self) -> Result<Vec<String>, Fault> {
        guarded(|| {
            let transaction = self.engine().begin_read()?;
            Ok(transaction
                .list_tables()?
                .map(|table| table.name().to_string())
                .collect())
        })
    }

    /// Reads every value of every table; gives their number.
    pub(super) fn check_values(&self) -> Result<u64, Fault> {
        let mut count = 0;
        for name in self.tables()? {
            guarded(|| {
                let Some(table) = self.table(&name)? else { return Ok(()) };
                for entry in table.iter()? {
                    let (key, stored) = entry?;
                    checked(&name, key.value(), stored.value())?;
                    count += 1;
                }
                Ok(())
            })?;
        }
        Ok(count)
    }

    /// Applies the batches whose preconditions hold, in one durable transaction. Gives for each batch the index of its
    /// first precondition that did not hold.
    pub(super) fn commit(&self, batches: &[(&'static str, Batch)]) -> Result<Vec<Option<usize>>, Fault> {
        guarded(|| {
            let transaction = self.engine().begin_write()?;
            let mut verdicts = Vec::with_capacity(batches.len());
            let mut changed = false;
            {
                let mut tables = BTreeMap::new();
                for (name, batch) in batches {
                    let table = match tables.entry(*name) {
                        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert(transaction.open_table(definition(name))?)
                        }
                    };
                    let failed = first_unmet(name, table, batch)?;
                    verdicts.push(failed);
                    if failed.is_some() {
                        continue;
                    }
                    for operation in batch.operations() {
                        changed = true;
                        match operation {
                            Operation::Put(key, value) => {
                                table.insert(&key[..], &codec::encode(name, key, value)[..])?;
                            }
                            Operation::Delete(key) => {
                                table.remove(&key[..])?;
                            }
                        }
                    }
                }
            }
            if changed {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(verdicts)
        })
    }

    fn engine(&self) -> &redb::Database {
        self.0.as_ref().expect("invariant: only the drop takes it")
    }

    fn table(&self, name: &str) -> Result<Option<Table>, Fault> {
        match self.engine().begin_read()?.open_table(definition(name)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn definition(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

fn first_unmet(
    name: &str,
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    batch: &Batch,
) -> Result<Option<usize>, Fault> {
    for (index, (key, expected)) in batch.requirements().iter().enumerate() {
        let stored = table.get(&key[..])?;
        let found = stored
            .as_ref()
            .map(|stored| checked(name, key, stored.value()))
            .transpose()?;
        if found != expected.as_deref() {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn checked<'a>(name: &str, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Fault> {
    codec::decode(name, key, stored).ok_or_else(|| Fault::Value {
        table: name.to_string(),
        key: key.to_vec(),
    })
}

/// Runs redb's code. It asserts where a damaged file contradicts itself; that is an answer to us, not the node's end.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(Fault::Engine(format!("the engine gave up: {text}")))
        }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Fault {
        match error {
            redb::Error::Io(error) => match error.kind() {
                // How redb says that the file is not its own, or ends too early.
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Fault::Engine(error.to_string()),
                _ => Fault::Io(error),
            },
            error => Fault::Engine(error.to_string()),
        }
    }
}

macro_rules! faults_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                redb::Error::from(error).into()
            }
        })*
    };
}

faults_from!(
    StorageError,
    TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);
