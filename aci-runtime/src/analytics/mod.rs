//! Log Analytics: logs and events of groups with `diagnostics.logAnalytics` go to a workspace, in
//! the signed format of the HTTP Data Collector API.
//!
//! Records are collected for a few seconds, written to disk and sent from there, the oldest first,
//! until they have arrived; what arrives twice after a crash has the same content. A workspace that
//! cannot be reached costs disk up to a bound, then the oldest records. A container never waits: its
//! output is kept by its supervisor, and is read from there as far as it is still kept.
//!
//! The workspace key stays in the journal and in memory; nothing on this side of the signature
//! reaches disk, logs or errors.

mod post;
mod record;
mod sign;
mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::{LogAnalytics as Settings, Secret};
use aci_core::time::Timestamp;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::rustls::ClientConfig;

use crate::{ContainerHandle, Engine, Group, Notice};
use post::Next;
use spool::{Address, Batch, Spool};

/// Records that wait in memory.
const WAITING: usize = 4_096;
/// Records of one request; a record is a line of at most 16 KiB, and a request may have 30 MB.
const MOST_RECORDS: usize = 500;
/// How often groups are looked at besides when something happens to them.
const LOOK: Duration = Duration::from_secs(2);
/// Time for one request.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of [`start`].
#[derive(Clone)]
pub struct LogAnalyticsOptions {
    /// Where records wait; made if it is missing.
    pub dir: PathBuf,
    /// Where they are sent, with `{workspaceId}` in the place of the workspace. Default:
    /// `https://{workspaceId}.ods.opinsights.azure.com`.
    pub endpoint: String,
    /// What the endpoint's certificate is judged by.
    pub tls: Arc<ClientConfig>,
    /// Bytes on disk of one workspace; beyond them the oldest records go. Default: 64 MiB.
    pub most_bytes: u64,
    /// How long records are collected before they are written and sent. Default: 5 s.
    pub collect: Duration,
}

impl LogAnalyticsOptions {
    /// The defaults with a directory and a judgement of certificates.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, tls: Arc<ClientConfig>) -> Self {
        Self {
            dir: dir.into(),
            endpoint: "https://{workspaceId}.ods.opinsights.azure.com".to_owned(),
            tls,
            most_bytes: 64 << 20,
            collect: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for LogAnalyticsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogAnalyticsOptions")
            .field("dir", &self.dir)
            .field("endpoint", &self.endpoint)
            .field("most_bytes", &self.most_bytes)
            .field("collect", &self.collect)
            .finish_non_exhaustive()
    }
}

/// One workspace: its queue and its key.
#[derive(Debug)]
struct Lane {
    spool: Mutex<Spool>,
    key: Mutex<Secret>,
    news: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Lanes = Arc<Mutex<BTreeMap<String, Arc<Lane>>>>;
/// Up to which time the log of a container in a sandbox is on disk.
type Cursors = BTreeMap<String, u64>;

/// A record on its way to disk.
struct Item {
    address: Address,
    record: Value,
    /// Whose log it is of, and the line's time.
    line: Option<(String, Timestamp)>,
}

/// Begins to send what groups log. It ends with the engine; what is not sent then waits on disk for
/// the next start.
///
/// # Errors
/// [`Internal`](ErrorKind::Internal) if the directory cannot be used.
pub fn start(engine: &Engine, options: LogAnalyticsOptions) -> Result<()> {
    std::fs::create_dir_all(&options.dir).map_err(|error| {
        let message = format!("{}: {error}", options.dir.display());
        Error::new(ErrorKind::Internal, "analytics.start", message)
    })?;
    engine.accompany(|engine| Box::pin(Shipping::new(engine, options).run()));
    Ok(())
}

struct Shipping {
    engine: Engine,
    options: Arc<LogAnalyticsOptions>,
    lanes: Lanes,
    cursors: Arc<Mutex<Cursors>>,
    /// Attempts whose log is or was followed: sandbox, container, restarts.
    followed: BTreeSet<(String, String, u32)>,
    tasks: JoinSet<()>,
}

impl Shipping {
    fn new(engine: Engine, options: LogAnalyticsOptions) -> Self {
        let path = options.dir.join("cursors.json");
        let read = std::fs::read(path).ok();
        let cursors = read.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            engine,
            options: Arc::new(options),
            lanes: Lanes::default(),
            cursors: Arc::new(Mutex::new(cursors.unwrap_or_default())),
            followed: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self) {
        let (send, receive) = mpsc::channel(WAITING);
        let writer = Writer {
            engine: self.engine.clone(),
            options: Arc::clone(&self.options),
            lanes: Arc::clone(&self.lanes),
            cursors: Arc::clone(&self.cursors),
        };
        self.tasks.spawn(writer.run(receive));
        let mut notices = self.engine.watch();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = notices.next() => match notice {
                    Some(notice) => self.notice(notice, &send),
                    None => return,
                },
                _ = look.tick() => {}
            }
            self.look(&send);
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn notice(&self, notice: Notice, send: &mpsc::Sender<Item>) {
        let Notice::Event {
            group,
            container,
            event,
        } = notice
        else {
            return;
        };
        let Ok(handle) = self.engine.get(&group) else {
            return;
        };
        let journaled = handle.journaled();
        let Some(settings) = settings(&journaled.document) else {
            return;
        };
        let container = container.as_deref();
        let (document, now) = (&journaled.document, self.engine.clock().now());
        let item = Item {
            address: address(&group, settings, record::EVENTS),
            record: record::event(&group, document, &settings.metadata, container, &event, now),
            line: None,
        };
        if send.try_send(item).is_err() {
            dropped(1);
        }
    }

    /// Follows what runs and is not yet followed.
    fn look(&mut self, send: &mpsc::Sender<Item>) {
        let mut there = BTreeSet::new();
        for group in self.engine.list() {
            let journaled = group.journaled();
            let document = &journaled.document;
            let Some(settings) = settings(document) else {
                continue;
            };
            let Some(key) = &settings.workspace_key else {
                continue;
            };
            if !self.lane(&settings.workspace_id, key) {
                continue;
            }
            let sandbox = journaled.sandbox.to_string();
            there.insert(sandbox.clone());
            let inits = document.properties.init_containers.iter().map(|c| &c.name);
            for name in inits.chain(document.properties.containers.iter().map(|c| &c.name)) {
                let Ok(container) = group.container(name) else {
                    continue;
                };
                let view = container.view();
                let state = view.current_state.and_then(|s| s.state);
                if !matches!(state.as_deref(), Some("Running" | "Terminated")) {
                    continue;
                }
                let attempt = view.restart_count.unwrap_or_default();
                if self
                    .followed
                    .insert((sandbox.clone(), name.clone(), attempt))
                {
                    let id = format!("{sandbox}/{name}");
                    let from = lock(&self.cursors).get(&id).copied();
                    let follow = Follow {
                        group: group.clone(),
                        container,
                        id,
                        from: from.map(|at| Timestamp::from_micros(at + 1)),
                        settings: settings.clone(),
                        send: send.clone(),
                    };
                    self.tasks.spawn(follow.run());
                }
            }
        }
        self.followed
            .retain(|(sandbox, ..)| there.contains(sandbox));
        lock(&self.cursors).retain(|id, _| {
            id.rsplit_once('/')
                .is_some_and(|(sandbox, _)| there.contains(sandbox))
        });
    }

    /// A workspace's queue, with its newest key; `false` if there can be none.
    fn lane(&mut self, workspace: &str, key: &Secret) -> bool {
        if let Some(lane) = lock(&self.lanes).get(workspace) {
            let mut own = lock(&lane.key);
            if *own != *key {
                *own = key.clone();
            }
            return true;
        }
        // It becomes a directory and a part of a host name.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if workspace.is_empty() || workspace.len() > 64 || !workspace.bytes().all(fits) {
            return false;
        }
        let spool = match Spool::open(&self.options.dir.join(workspace), self.options.most_bytes) {
            Ok(spool) => spool,
            Err(error) => {
                tracing::error!(workspace, %error, "nothing can be kept for the workspace");
                return false;
            }
        };
        let lane = Arc::new(Lane {
            spool: Mutex::new(spool),
            key: Mutex::new(key.clone()),
            news: Notify::new(),
        });
        lock(&self.lanes).insert(workspace.to_owned(), Arc::clone(&lane));
        let (engine, options) = (self.engine.clone(), Arc::clone(&self.options));
        self.tasks.spawn(send(engine, options, lane));
        true
    }
}

fn settings(document: &aci_core::model::ContainerGroup) -> Option<&Settings> {
    document
        .properties
        .diagnostics
        .as_ref()?
        .log_analytics
        .as_ref()
}

fn address(group: &aci_core::id::GroupRef, settings: &Settings, table: &str) -> Address {
    Address {
        workspace: settings.workspace_id.clone(),
        table: table.to_owned(),
        resource: group.resource_id(),
    }
}

fn dropped(records: usize) {
    let records = u64::try_from(records).unwrap_or(u64::MAX);
    metrics::counter!("aci_log_analytics_dropped_total").increment(records);
}

/// One container's log.
struct Follow {
    group: Group,
    container: ContainerHandle,
    id: String,
    from: Option<Timestamp>,
    settings: Settings,
    send: mpsc::Sender<Item>,
}

impl Follow {
    async fn run(self) {
        let Ok(mut lines) = self.container.since(self.from).await else {
            return;
        };
        let (name, container) = (self.group.name(), self.container.name());
        let document = &self.group.journaled().document.clone();
        while let Some(Ok(line)) = lines.next().await {
            let item = Item {
                address: address(name, &self.settings, record::LOGS),
                record: record::line(name, document, &self.settings.metadata, container, &line),
                line: Some((self.id.clone(), line.at)),
            };
            // Waiting here is waiting for the disk; the container writes on.
            if self.send.send(item).await.is_err() {
                return;
            }
        }
    }
}

/// Collects records and writes them to disk.
struct Writer {
    engine: Engine,
    options: Arc<LogAnalyticsOptions>,
    lanes: Lanes,
    cursors: Arc<Mutex<Cursors>>,
}

impl Writer {
    async fn run(self, mut items: mpsc::Receiver<Item>) {
        let mut batches: BTreeMap<Address, Vec<Value>> = BTreeMap::new();
        let mut lines: Vec<(String, Timestamp)> = Vec::new();
        loop {
            let Some(first) = items.recv().await else {
                return;
            };
            let clock = Arc::clone(self.engine.clock());
            let end = clock.now() + self.options.collect;
            let mut next = Some(first);
            let mut count = 0;
            while let Some(item) = next {
                batches.entry(item.address).or_default().push(item.record);
                lines.extend(item.line);
                count += 1;
                next = tokio::select! {
                    biased;
                    () = clock.sleep_until(end) => None,
                    item = items.recv(), if count < MOST_RECORDS => item,
                    else => None,
                };
                if count >= MOST_RECORDS {
                    break;
                }
            }
            let writing = Writing {
                batches: std::mem::take(&mut batches),
                lines: std::mem::take(&mut lines),
                lanes: Arc::clone(&self.lanes),
                cursors: Arc::clone(&self.cursors),
                path: self.options.dir.join("cursors.json"),
            };
            let _ = tokio::task::spawn_blocking(move || writing.run()).await;
        }
    }
}

/// One write to disk.
struct Writing {
    batches: BTreeMap<Address, Vec<Value>>,
    lines: Vec<(String, Timestamp)>,
    lanes: Lanes,
    cursors: Arc<Mutex<Cursors>>,
    path: PathBuf,
}

impl Writing {
    fn run(self) {
        for (address, records) in self.batches {
            let Some(lane) = lock(&self.lanes).get(&address.workspace).cloned() else {
                dropped(records.len());
                continue;
            };
            let count = records.len();
            let batch = Batch { address, records };
            match lock(&lane.spool).push(&batch) {
                Ok(0) => {}
                Ok(batches) => dropped(batches),
                Err(error) => {
                    tracing::error!(%error, "records cannot be kept and are lost");
                    dropped(count);
                }
            }
            lane.news.notify_one();
        }
        // After the records: what is written twice is better than what is written never.
        let mut cursors = lock(&self.cursors);
        for (id, at) in self.lines {
            let own = cursors.entry(id).or_default();
            *own = (*own).max(at.as_micros());
        }
        let beside = self.path.with_extension("new");
        let written = serde_json::to_vec(&*cursors)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::error!(%error, "how far logs are kept could not be written");
        }
    }
}

/// Sends what is in a workspace's queue.
async fn send(engine: Engine, options: Arc<LogAnalyticsOptions>, lane: Arc<Lane>) {
    let clock = Arc::clone(engine.clock());
    let mut failures = 0;
    loop {
        let taking = Arc::clone(&lane);
        let front = tokio::task::spawn_blocking(move || lock(&taking.spool).front()).await;
        let Ok(Some(batch)) = front else {
            lane.news.notified().await;
            continue;
        };
        let key = lock(&lane.key).clone();
        let posting = post::post(&options.endpoint, &options.tls, &key, &batch, clock.now());
        let (next, told) = match tokio::time::timeout(PATIENCE, posting).await {
            Ok(Ok(status)) => (post::judge(status), status.to_string()),
            Ok(Err(why)) => (Next::Retry, why),
            Err(_) => (Next::Retry, "no answer in time".to_owned()),
        };
        let outcome = match next {
            Next::Done => "ok",
            Next::Drop => "refused",
            Next::Retry => "retried",
        };
        metrics::counter!("aci_log_analytics_posts_total", "outcome" => outcome).increment(1);
        let workspace = &batch.address.workspace;
        match next {
            Next::Done => failures = 0,
            Next::Drop => {
                tracing::warn!(workspace, told, "records are refused and left out");
                dropped(batch.records.len());
            }
            Next::Retry => {
                failures += 1;
                let wait = post::wait(failures);
                tracing::warn!(
                    workspace,
                    told,
                    ?wait,
                    "records could not be sent; tried again"
                );
                clock.sleep_until(clock.now() + wait).await;
                continue;
            }
        }
        let taking = Arc::clone(&lane);
        // The queue may have lost its oldest batch meanwhile: only this very one is taken out.
        let taken = tokio::task::spawn_blocking(move || {
            let mut spool = lock(&taking.spool);
            match spool.front() {
                Some(front) if front == batch => spool.pop(),
                _ => Ok(()),
            }
        });
        if let Ok(Err(error)) = taken.await {
            tracing::error!(%error, "what was sent cannot be removed, and will be sent again");
            clock.sleep_until(clock.now() + post::wait(10)).await;
        }
    }
}
