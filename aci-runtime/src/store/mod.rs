//! The journal on disk: group records in a redb database, encrypted.
//!
//! Records hold the documents of groups with their secrets, so every record is encrypted as a whole
//! before it reaches the database; see [`KeySource`] for what that protects against. What stays
//! readable in the file are the names of subscriptions, resource groups and groups, and how long
//! the records are.

mod key;
mod seal;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aci_core::contract::{GroupRecord, GroupStore, ResourceStore, ResourceWrite};
use aci_core::error::{Applied, Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use async_trait::async_trait;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError,
};
use zeroize::Zeroizing;

pub use self::key::{JournalKey, KeySource};
use self::seal::Sealer;
use self::writer::{Queue, Write};

/// Subscription, resource group and name to sealed record. Sorted as [`GroupRef`] sorts.
const RECORDS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("records");
/// Name to sealed record of what stands beside the groups.
const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
/// What is known of the journal as a whole.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// In [`META`]: a text that was sealed with the journal's key, to tell a wrong key from damage.
const PROOF: &str = "key-proof";

/// Bytes of memory that the database may use as a cache.
const CACHE: usize = 8 << 20;

const CHANGED_FROM_OUTSIDE: &str =
    "restore the journal from a backup; the file or its key was changed from outside";

/// Opens the database, again and again: after an error of its disk redb wants to be opened anew.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// A [`GroupStore`] in a directory: `journal.redb` and, by default, `journal.key`.
///
/// A finished `put` or `remove` has been synced to the disk. After a crash of the program or the
/// machine the journal holds every finished write and, of one that was on its way, all or nothing.
/// Writes that come while the disk is busy share the next sync, so a crowd of writers does not
/// stand in line for one sync each.
/// One program at a time has it open; clones share it. The directory is made with mode 0700 if it
/// is missing, the files have mode 0600.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> aci_core::error::Result<()> {
/// use aci_core::contract::GroupStore;
/// use aci_runtime::store::RedbStore;
///
/// # let dir = tempfile::tempdir().unwrap();
/// let store = RedbStore::open(dir.path())?;
/// assert!(store.list().await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedbStore {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    opener: Opener,
    sealer: Sealer,
    /// `None` after an error until it is opened again.
    database: RwLock<Option<Database>>,
    queue: Mutex<Queue>,
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("journal", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the journal in a directory, with its key beside it ([`KeySource::File`]); makes both
    /// if there are none. It reads and writes files and so may block for some milliseconds.
    ///
    /// # Errors
    /// As [`RedbStore::open_with`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(directory, KeySource::File)
    }

    /// Opens the journal in a directory with a key from elsewhere; makes it if there is none.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if another program has it open;
    /// [`Corrupt`](ErrorKind::Corrupt) if the file is damaged or the key is missing or not the one
    /// it was written with; [`PermissionDenied`](ErrorKind::PermissionDenied) if the key file is
    /// open to other users or the files may not be read; [`Internal`](ErrorKind::Internal) if they
    /// cannot be read or made.
    pub fn open_with(directory: impl AsRef<Path>, key: KeySource) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |what: &str, path: &Path, e: io::Error| io_error("store.open", what, path, e);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| failed("the directory cannot be made", directory, e))?;
        let path = directory.join("journal.redb");
        let opener = {
            let path = path.clone();
            Box::new(move || {
                let file = open_private(&path)?;
                redb::Builder::new().set_cache_size(CACHE).create_file(file)
            })
        };
        let key_path = key.path(directory);
        let store = Self::build(path.display().to_string(), opener, |new| match key_path {
            None => key.given(),
            Some(key_path) => key::load(&key_path, new),
        })?;
        // The names of new files survive a crash only when their directory is synced.
        File::open(directory)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| failed("the directory cannot be synced", directory, e))?;
        Ok(store)
    }

    /// A store over an opener. `key` is asked with whether the journal is new.
    fn build(
        name: String,
        opener: Opener,
        key: impl FnOnce(bool) -> Result<JournalKey>,
    ) -> Result<Self> {
        let database = open_database(&opener, &name)?;
        let failed = |e: redb::Error| storage_error("store.open", e).on(&name);
        let proof = (|| -> Result<_, redb::Error> {
            let read = database.begin_read()?;
            match read.open_table(META) {
                Ok(meta) => Ok(meta.get(PROOF)?.map(|proof| proof.value().to_vec())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(e) => Err(e.into()),
            }
        })()
        .map_err(failed)?;
        let sealer = Sealer::new(&key(proof.is_none())?);
        if let Some(proof) = proof {
            sealer.check_proof(&proof).map_err(|e| e.on(&name))?;
        } else {
            let proof = sealer.proof()?;
            (|| -> Result<_, redb::Error> {
                let write = database.begin_write()?;
                write.open_table(META)?.insert(PROOF, proof.as_slice())?;
                write.open_table(RECORDS)?;
                Ok(write.commit()?)
            })()
            .map_err(failed)?;
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                opener,
                sealer,
                database: RwLock::new(Some(database)),
                queue: Mutex::default(),
            }),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        joined(
            operation,
            tokio::task::spawn_blocking(move || read(&shared)).await,
        )
    }
}

impl Shared {
    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn database_mut(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the database. After an error of the disk it is closed, and the next call opens it
    /// again: a disk that was full, or away, may be well by then.
    fn with<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T> {
        if self.database().is_none() {
            let mut database = self.database_mut();
            if database.is_none() {
                *database = Some(open_database(&self.opener, &self.name)?);
            }
        }
        let result = match &*self.database() {
            Some(database) => work(database),
            // Closed by an error of another call in between.
            None => Err(redb::Error::PreviousIo),
        };
        result.map_err(|e| {
            if matches!(e, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *self.database_mut() = None;
            }
            storage_error(operation, e)
        })
    }

    fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>> {
        let sealed = self.with("store.get", |database| {
            let read = database.begin_read()?;
            let records = read.open_table(RECORDS)?;
            Ok(records.get(key_of(group))?.map(|v| v.value().to_vec()))
        })?;
        sealed
            .map(|sealed| self.unseal("store.get", group, &sealed))
            .transpose()
    }

    fn list(&self) -> Result<Vec<GroupRecord>> {
        let sealed = self.with("store.list", |database| {
            let read = database.begin_read()?;
            let records = read.open_table(RECORDS)?;
            let mut sealed = Vec::new();
            for entry in records.iter()? {
                let (key, value) = entry?;
                let (subscription, resource_group, name) = key.value();
                let group = GroupRef::new(subscription, resource_group, name);
                sealed.push((group, value.value().to_vec()));
            }
            Ok(sealed)
        })?;
        sealed
            .iter()
            .map(|(group, sealed)| self.unseal("store.list", group, sealed))
            .collect()
    }

    fn load(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        let sealed = self.with("store.load", |database| {
            let read = database.begin_read()?;
            // A journal of before has no such table.
            let table = match read.open_table(RESOURCES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut sealed = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                sealed.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(sealed)
        })?;
        let open = |(key, sealed): (String, Vec<u8>)| {
            let value = self.sealer.open_resource(&key, &sealed).map_err(|e| {
                let message = format!("the record cannot be read back: {}", e.message());
                Error::new(ErrorKind::Corrupt, "store.load", message)
                    .on(&key)
                    .hint(CHANGED_FROM_OUTSIDE)
            })?;
            Ok((key, value))
        };
        sealed.into_iter().map(open).collect()
    }

    fn unseal(
        &self,
        operation: &'static str,
        group: &GroupRef,
        sealed: &[u8],
    ) -> Result<GroupRecord> {
        let damaged = |e: Error| {
            let message = format!("the record cannot be read back: {}", e.message());
            Error::new(ErrorKind::Corrupt, operation, message)
                .on(group)
                .hint(CHANGED_FROM_OUTSIDE)
        };
        let bytes = self.sealer.open(group, sealed).map_err(damaged)?;
        let record = GroupRecord::decode(&bytes).map_err(damaged)?;
        if record.group != *group {
            let message = "it is the record of another group";
            return Err(damaged(Error::new(ErrorKind::Corrupt, operation, message)));
        }
        Ok(record)
    }
}

#[async_trait]
impl GroupStore for RedbStore {
    async fn put(&self, record: &GroupRecord) -> Result<()> {
        let record = Box::new(record.clone());
        self.shared.write(Write::Put(record)).await
    }

    async fn get(&self, group: &GroupRef) -> Result<Option<GroupRecord>> {
        let group = group.clone();
        self.read("store.get", move |shared| shared.get(&group))
            .await
    }

    async fn list(&self) -> Result<Vec<GroupRecord>> {
        self.read("store.list", Shared::list).await
    }

    async fn remove(&self, group: &GroupRef) -> Result<()> {
        self.shared.write(Write::Remove(group.clone())).await
    }
}

#[async_trait]
impl ResourceStore for RedbStore {
    async fn apply(&self, writes: &[ResourceWrite]) -> Result<()> {
        self.shared.write(Write::Apply(writes.to_vec())).await
    }

    async fn load(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        self.read("store.load", Shared::load).await
    }
}

fn key_of(group: &GroupRef) -> (&str, &str, &str) {
    (group.subscription(), group.resource_group(), group.name())
}

/// Opens or makes a file that only its owner reads and writes.
fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // It may have been made by other means, such as a restore.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn open_database(opener: &Opener, name: &str) -> Result<Database> {
    let open = std::panic::AssertUnwindSafe(opener);
    // Some damage of the file lets redb panic instead of failing.
    let opened = std::panic::catch_unwind(open).unwrap_or_else(|_| {
        let damaged = StorageError::Corrupted("the file's structure is broken".to_owned());
        Err(damaged.into())
    });
    opened.map_err(|e| {
        let error = match e {
            DatabaseError::DatabaseAlreadyOpen => {
                let message = "another program has it open";
                Error::new(ErrorKind::Conflict, "store.open", message)
                    .hint("stop that program, or give this one a directory of its own")
            }
            e => storage_error("store.open", e.into()),
        };
        error.on(name)
    })
}

/// The error for what went wrong in the database or below it.
fn storage_error(operation: &'static str, error: redb::Error) -> Error {
    let new = |kind, message: &str| Error::new(kind, operation, message);
    let said = match &error {
        redb::Error::Io(e) => match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                new(ErrorKind::Exhausted, "the disk of the journal is full")
                    .hint("make room on it; what was written before is safe")
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(operation),
            io::ErrorKind::PermissionDenied => new(
                ErrorKind::Internal,
                "the journal may not be read or written",
            )
            .hint("run the program as the owner of the directory"),
            // It may have failed after the data was written.
            _ => new(ErrorKind::Internal, "the journal cannot be read or written")
                .applied(Applied::Unknown),
        },
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => damaged(operation),
        redb::Error::UpgradeRequired(_) => new(
            ErrorKind::Corrupt,
            "the journal's file was written by another version of the database",
        ),
        _ => new(ErrorKind::Internal, "the journal's database failed"),
    };
    said.because(error)
}

fn damaged(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        operation,
        "the journal's file is damaged",
    )
    .hint("restore it from a backup, or move it away to begin with an empty one")
}

fn io_error(operation: &'static str, what: &str, path: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, operation, what)
        .on(path.display())
        .because(e)
}

/// The result of work in the background.
fn joined<T>(
    operation: &'static str,
    result: Result<Result<T>, tokio::task::JoinError>,
) -> Result<T> {
    result.unwrap_or_else(|e| {
        let error = if e.is_cancelled() {
            let message = "the program is shutting down";
            Error::new(ErrorKind::Cancelled, operation, message)
        } else {
            Error::new(
                ErrorKind::Internal,
                operation,
                "the journal's database failed",
            )
        };
        Err(error.applied(Applied::Unknown).because(e))
    })
}
