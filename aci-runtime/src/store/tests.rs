use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex as StdMutex;

use aci_core::conformance::store::{self as suite, SECRET};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use redb::StorageBackend;

use super::*;

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => {
            assert!(!error.chain().contains(SECRET));
            error.kind()
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    suite::all(&store).await;
    aci_core::conformance::resource::all(&store).await;
    let store = Arc::new(store);
    suite::all(&store).await;
    aci_core::conformance::resource::all(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_on_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    suite::all(&RedbStore::open(dir.path()).unwrap()).await;
}

#[tokio::test]
async fn records_survive_and_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("made/here");
    let record = suite::record(&"web".into(), 5000);
    let store = RedbStore::open(&home).unwrap();
    store.put(&record).await.unwrap();
    drop(store);
    assert_eq!(mode(&home), 0o700);
    for file in ["journal.redb", "journal.key"] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
        let bytes = fs::read(home.join(file)).unwrap();
        let secret = SECRET.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{file}");
    }
    let store = RedbStore::open(&home).unwrap();
    assert_eq!(store.list().await.unwrap(), [record]);
}

#[tokio::test]
async fn one_program_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = RedbStore::open(dir.path()).unwrap();
    let error = RedbStore::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("another program has it open"));
    let clone = first.clone();
    drop(first);
    assert_eq!(kind(RedbStore::open(dir.path())), ErrorKind::Conflict);
    drop(clone);
    RedbStore::open(dir.path()).unwrap();
}

#[tokio::test]
async fn wrong_and_missing_keys_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeySource::Given(JournalKey::from_bytes([7; 32]));
    let other = KeySource::Given(JournalKey::from_bytes([8; 32]));
    assert!(!format!("{key:?}").contains('7'));
    let record = suite::record(&"web".into(), 0);
    let store = RedbStore::open_with(dir.path(), key.clone()).unwrap();
    store.put(&record).await.unwrap();
    drop(store);
    assert!(!dir.path().join("journal.key").exists());
    let error = RedbStore::open_with(dir.path(), other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.next_step().is_some(), "{error}");
    // No key file is made for a journal that has another key.
    assert_eq!(kind(RedbStore::open(dir.path())), ErrorKind::Corrupt);
    assert!(!dir.path().join("journal.key").exists());
    let store = RedbStore::open_with(dir.path(), key).unwrap();
    assert_eq!(store.get(&record.group).await.unwrap(), Some(record));
}

#[test]
fn bad_key_files_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere.key");
    let open = || RedbStore::open_with(dir.path(), KeySource::Path(elsewhere.clone()));
    drop(open().unwrap());
    assert_eq!(mode(&elsewhere), 0o600);
    let key = fs::read(&elsewhere).unwrap();
    for bytes in [&key[..31], &[], &[&key[..], b"\n"].concat()] {
        fs::write(&elsewhere, bytes).unwrap();
        assert_eq!(kind(open()), ErrorKind::Corrupt);
    }
    fs::write(&elsewhere, &key).unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(kind(open()), ErrorKind::PermissionDenied);
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o600)).unwrap();
    open().unwrap();
}

#[tokio::test]
async fn truncated_and_overwritten_files_are_corrupt_or_complete() {
    let dir = tempfile::tempdir().unwrap();
    let group = GroupRef::from("web");
    let record = suite::record(&group, 20_000);
    let store = RedbStore::open(dir.path()).unwrap();
    store.put(&record).await.unwrap();
    drop(store);
    let path = dir.path().join("journal.redb");
    let whole = fs::read(&path).unwrap();
    let mut corrupt = 0;
    let cut = (1..40).map(|n| whole[..whole.len() * n / 40].to_vec());
    let broken = (0..40).map(|n| {
        let mut bytes = whole.clone();
        let at = whole.len() * n / 40;
        bytes[at..(at + 4096).min(whole.len())].fill(0xA5);
        bytes
    });
    for (index, bytes) in cut.chain(broken).enumerate() {
        fs::write(&path, bytes).unwrap();
        let read = match RedbStore::open(dir.path()) {
            Ok(store) => store.get(&group).await,
            Err(error) => Err(error),
        };
        match read {
            // The damage was in a place that nothing uses.
            Ok(Some(read)) => assert!(read == record, "case {index}: half a record"),
            Ok(None) => panic!("case {index}: the record is silently gone"),
            Err(error) => {
                assert_eq!(
                    error.kind(),
                    ErrorKind::Corrupt,
                    "{index}: {}",
                    error.chain()
                );
                assert!(error.next_step().is_some(), "{error}");
                corrupt += 1;
            }
        }
    }
    assert!(corrupt > 0);
}

#[tokio::test]
async fn records_cannot_be_moved_to_another_group() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (GroupRef::from("a"), GroupRef::from("b"));
    let store = RedbStore::open(dir.path()).unwrap();
    store.put(&suite::record(&a, 0)).await.unwrap();
    let change = |work: &dyn Fn(&mut Vec<u8>), target: &GroupRef| {
        store
            .shared
            .with("test", |database| {
                let write = database.begin_write()?;
                {
                    let mut records = write.open_table(RECORDS)?;
                    let mut sealed = records.get(key_of(&a))?.unwrap().value().to_vec();
                    work(&mut sealed);
                    records.insert(key_of(target), sealed.as_slice())?;
                }
                Ok(write.commit()?)
            })
            .unwrap();
    };
    change(&|_| {}, &b);
    assert_eq!(kind(store.get(&b).await), ErrorKind::Corrupt);
    assert_eq!(kind(store.list().await), ErrorKind::Corrupt);
    store.remove(&b).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
    for at in [0, 5, 60] {
        change(&|sealed| sealed[at] ^= 1, &b);
        assert_eq!(kind(store.get(&b).await), ErrorKind::Corrupt, "byte {at}");
    }
    change(&|sealed| sealed.truncate(10), &b);
    assert_eq!(kind(store.get(&b).await), ErrorKind::Corrupt);
}

/// A disk that keeps what was synced, and of the rest what a crash leaves.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<StdMutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// As programs see it.
    seen: Vec<u8>,
    /// As it is after a crash that loses all that was not synced.
    synced: Vec<u8>,
    /// What changed since the last sync.
    pending: Vec<Change>,
    operations: u64,
    /// Every operation from this one on fails, as nothing works on a dead machine.
    dies_at: Option<u64>,
    full: bool,
    /// Bytes beyond which it does not grow.
    room: Option<u64>,
    syncs: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
            Self::Write(at, data) => {
                let at = usize::try_from(*at).unwrap();
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.alive()?;
        let too_long = |room| matches!(change, Change::Length(length) if length > room);
        if disk.full || disk.room.is_some_and(too_long) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut disk.seen);
        disk.pending.push(change);
        Ok(())
    }

    /// The disk after a crash; `keep` says of each change since the last sync whether it got there.
    fn after_crash(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let disk = self.0.lock().unwrap();
        let mut bytes = disk.synced.clone();
        for (index, change) in disk.pending.iter().enumerate() {
            // The length of a file is kept in order by its file system.
            if matches!(change, Change::Length(_)) || keep(index) {
                change.apply(&mut bytes);
            }
        }
        Self(Arc::new(StdMutex::new(Platter {
            seen: bytes.clone(),
            synced: bytes,
            ..Platter::default()
        })))
    }

    fn store(&self) -> Result<RedbStore> {
        let disk = self.clone();
        let opener = Box::new(move || {
            redb::Builder::new()
                .set_cache_size(CACHE)
                .create_with_backend(disk.clone())
        });
        RedbStore::build("disk".to_owned(), opener, |_| {
            Ok(JournalKey::from_bytes([1; 32]))
        })
    }
}

impl Platter {
    fn alive(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.dies_at.is_some_and(|at| self.operations > at) {
            return Err(io::Error::other("the machine is dead"));
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let bytes = disk.seen.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.alive()?;
        disk.syncs += 1;
        disk.synced = disk.seen.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}

/// What the journal may hold of each group: the last finished write, or one that was on its way.
type Expected = std::collections::BTreeMap<GroupRef, Vec<Option<GroupRecord>>>;

/// Writes until the disk dies; what may be there afterwards.
async fn work(store: &RedbStore) -> Expected {
    let mut expected = Expected::new();
    for round in 0..8_usize {
        let group = GroupRef::from(["a", "b", "c"][round % 3]);
        let next = (round % 4 != 3).then(|| suite::record(&group, round * 700));
        let done = match &next {
            Some(record) => store.put(record).await,
            None => store.remove(&group).await,
        };
        let may = expected.entry(group).or_insert_with(|| vec![None]);
        match done {
            Ok(()) => *may = vec![next],
            Err(_) => {
                may.push(next);
                break;
            }
        }
    }
    expected
}

/// As [`work`], by several at once, so that writes share transactions.
async fn crowd(store: &RedbStore) -> Expected {
    let mut expected = Expected::new();
    for round in 0..4_usize {
        let records = ["a", "b", "c", "d", "e"].map(|g| suite::record(&g.into(), round * 700));
        let done = join_all(records.iter().map(|r| store.put(r))).await;
        let died = done.iter().any(Result::is_err);
        for (record, done) in records.into_iter().zip(done) {
            let may = expected
                .entry(record.group.clone())
                .or_insert_with(|| vec![None]);
            match done {
                Ok(()) => *may = vec![Some(record)],
                Err(_) => may.push(Some(record)),
            }
        }
        if died {
            break;
        }
    }
    expected
}

/// The fault: the machine dies at the n-th operation on the disk. Of what was not synced then,
/// nothing, everything, a first part, or any part has reached the disk.
#[tokio::test]
async fn every_finished_write_survives_a_crash_at_every_operation() {
    survives(work).await;
}

#[tokio::test]
async fn every_finished_write_of_a_crowd_survives_a_crash_at_every_operation() {
    survives(crowd).await;
}

async fn survives(work: impl AsyncFn(&RedbStore) -> Expected) {
    let whole = Disk::default();
    let store = whole.store().unwrap();
    let made = whole.0.lock().unwrap().operations;
    work(&store).await;
    let end = whole.0.lock().unwrap().operations;
    drop(store);
    assert!(
        end > made + 20,
        "{made} to {end} operations are too few to cut"
    );
    let mut random = 1_u64;
    for at in made..=end {
        let disk = Disk::default();
        let store = disk.store().unwrap();
        disk.0.lock().unwrap().dies_at = Some(at);
        let expected = work(&store).await;
        let pending = disk.0.lock().unwrap().pending.len();
        for way in 0..5 {
            let after = disk.after_crash(|index| match way {
                0 => false,
                1 => true,
                2 => index < pending / 2,
                _ => {
                    // A linear congruential generator is random enough to choose writes.
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    random >> 63 == 1
                }
            });
            let again = after.store().unwrap();
            for (group, may) in &expected {
                let found = again.get(group).await.unwrap();
                assert!(
                    may.contains(&found),
                    "{group} after a crash at operation {at}, way {way}: {:?}",
                    found.map(|r| r.saved_logs["web"].len())
                );
            }
            again.put(&suite::record(&"z".into(), 10)).await.unwrap();
        }
        drop(store);
    }
}

/// The fault: of 2,000 clients that wrote at once each waited for all syncs of those before it, so
/// the last one waited for half a minute.
#[tokio::test]
async fn a_crowd_of_writers_shares_syncs() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    let before = disk.0.lock().unwrap().syncs;
    let records: Vec<_> = (0..500)
        .map(|n| suite::record(&GroupRef::from(&format!("g{n}")), 100))
        .collect();
    for done in while_busy(&disk, records.iter().map(|r| store.put(r))).await {
        done.unwrap();
    }
    let syncs = disk.0.lock().unwrap().syncs - before;
    assert!(syncs < 50, "{syncs} syncs for 500 writes");
    assert_eq!(store.list().await.unwrap().len(), 500);
}

/// Writes that all ask before the disk does anything.
async fn while_busy<T>(disk: &Disk, writes: impl Iterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut writes = Box::pin(join_all(writes));
    {
        let _busy = disk.0.lock().unwrap();
        assert!(writes.as_mut().now_or_never().is_none());
    }
    writes.await
}

/// The fault: a record that does not fit on the disk fails the writes that share its transaction.
#[tokio::test]
async fn a_write_that_does_not_fit_fails_alone() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    // Leaves room within the file.
    let [first, room] = ["first", "room"].map(GroupRef::from);
    store.put(&suite::record(&room, 300_000)).await.unwrap();
    store.put(&suite::record(&room, 0)).await.unwrap();
    store.put(&suite::record(&first, 0)).await.unwrap();
    {
        let mut platter = disk.0.lock().unwrap();
        platter.room = Some(platter.seen.len() as u64);
    }
    let records = [("a", 10), ("b", 4 << 20), ("c", 10)];
    let records = records.map(|(name, length)| suite::record(&name.into(), length));
    let done = while_busy(&disk, records.iter().map(|r| store.put(r))).await;
    let done: Vec<_> = done.into_iter().map(|d| d.map_err(|e| e.kind())).collect();
    assert_eq!(done, [Ok(()), Err(ErrorKind::Exhausted), Ok(())]);
    let kept = store.list().await.unwrap();
    let names: Vec<&str> = kept.iter().map(|r| r.group.name()).collect();
    assert_eq!(names, ["a", "c", "first", "room"]);
}

/// The fault: the disk is full for a while. The old record stays, and the store works again when
/// there is room, without being opened anew.
#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let disk = Disk::default();
    let store = disk.store().unwrap();
    let group = GroupRef::from("web");
    let first = suite::record(&group, 10);
    store.put(&first).await.unwrap();
    disk.0.lock().unwrap().full = true;
    let large = suite::record(&group, 1 << 20);
    assert_eq!(kind(store.put(&large).await), ErrorKind::Exhausted);
    disk.0.lock().unwrap().full = false;
    assert_eq!(store.get(&group).await.unwrap(), Some(first));
    store.put(&large).await.unwrap();
    assert_eq!(store.get(&group).await.unwrap(), Some(large));
}
