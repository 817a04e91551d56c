//! A simulated isolation.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;

use super::files::FileTree;
use super::handle::FakeSandbox;
use super::process::lost;
use super::program::Program;
use super::sandbox::{SandboxCore, SandboxTree};
use super::{Faults, builtin, lock};
use crate::contract::{
    Clock, Isolation, IsolationCapability, Sandbox, SandboxSpec, SandboxVolume, VolumeSource,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;

/// What all sandboxes of a simulated isolation share.
pub(super) struct World {
    pub(super) clock: Arc<dyn Clock>,
    faults: Faults,
    programs: Mutex<BTreeMap<String, Arc<dyn Program>>>,
    sandboxes: Mutex<BTreeMap<SandboxId, Arc<SandboxCore>>>,
    /// What stands for directories of the host, by path.
    directories: Mutex<BTreeMap<PathBuf, FileTree>>,
}

impl World {
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        resource: impl fmt::Display + Send,
        body: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.faults
            .run(&*self.clock, operation, resource, body)
            .await
    }

    pub(super) fn program(&self, name: &str) -> Option<Arc<dyn Program>> {
        lock(&self.programs).get(name).cloned()
    }

    /// Ends a sandbox and takes it off the list; with `core`, only if it is that very one.
    pub(super) fn forget(&self, id: &SandboxId, core: Option<&Arc<SandboxCore>>) {
        let mut sandboxes = lock(&self.sandboxes);
        let same = match (sandboxes.get(id), core) {
            (Some(known), Some(core)) => Arc::ptr_eq(known, core),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let known = if same { sandboxes.remove(id) } else { None };
        drop(sandboxes);
        if let Some(known) = known {
            known.die();
        }
    }

    fn volume(&self, volume: &SandboxVolume) -> Result<SandboxTree> {
        let mut read_only = volume.read_only;
        let tree = match &volume.source {
            VolumeSource::Directory(path) => lock(&self.directories)
                .entry(path.clone())
                .or_insert_with(|| FileTree::new(None))
                .clone(),
            VolumeSource::Memory { size } => FileTree::new(*size),
            VolumeSource::Secret(_) | VolumeSource::Files(_) => {
                read_only = true;
                let tree = FileTree::new(None);
                tree.replace(contents("isolation.create", &volume.name, &volume.source)?);
                tree
            }
        };
        Ok(SandboxTree {
            tree,
            read_only,
            of_files: matches!(
                volume.source,
                VolumeSource::Secret(_) | VolumeSource::Files(_)
            ),
        })
    }
}

/// The names and contents of a volume of files.
pub(super) fn contents(
    operation: &'static str,
    volume: &str,
    source: &VolumeSource,
) -> Result<BTreeMap<String, Bytes>> {
    let invalid = |message: String| Error::new(ErrorKind::Invalid, operation, message).on(volume);
    let files: Vec<(String, Bytes)> = match source {
        VolumeSource::Files(files) => files.clone(),
        VolumeSource::Secret(files) => files
            .iter()
            .map(|file| {
                let content = base64::engine::general_purpose::STANDARD
                    .decode(file.base64.expose())
                    .map_err(|_| {
                        let name = &file.name;
                        invalid(format!(
                            "the file '{name}' of a secret volume is not base64"
                        ))
                    })?;
                Ok((file.name.clone(), Bytes::from(content)))
            })
            .collect::<Result<_>>()?,
        _ => return Err(invalid("these are no files".to_owned())),
    };
    for (name, _) in &files {
        if name.is_empty() || name == "." || name.starts_with("..") || name.contains('/') {
            return Err(invalid(format!("'{name}' is not a file name")));
        }
    }
    Ok(files.into_iter().collect())
}

/// Sandboxes in memory that run scripted programs.
///
/// Clones share everything, and everything lives as long as one clone (or one running program)
/// does: to simulate the crash of a host program, drop its engine and give another clone to the
/// next one, which adopts the sandboxes.
///
/// A container's `argv[0]`, without its directory, picks a [`Program`]; see
/// [`builtin`](super::builtin) for those that are there from the start. A program without a handler
/// for it dies by a signal even if it is a container's first process (on Linux such a process
/// ignores it). What a container writes outside its volumes is gone with its attempt. Directories
/// of the host are simulated, too: the same path is the same directory for all sandboxes.
///
/// It must be used inside a tokio runtime. If that is dropped, the programs die.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::sync::Arc;
/// use aci_core::fake::{FakeIsolation, FakeProcess, ManualClock};
///
/// let isolation = FakeIsolation::new(Arc::new(ManualClock::new()))
///     .with_program("greet", |mut process: FakeProcess| async move {
///         let name = process.arg(1).unwrap_or("world").to_owned();
///         i32::from(process.print(&format!("hello {name}")).await.is_err())
///     });
/// assert!(isolation.is_empty());
/// # }
/// ```
#[derive(Clone)]
pub struct FakeIsolation {
    world: Arc<World>,
    capability: IsolationCapability,
}

impl fmt::Debug for FakeIsolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeIsolation")
            .field("sandboxes", &self.sandboxes())
            .finish_non_exhaustive()
    }
}

impl FakeIsolation {
    /// An empty isolation with the built-in programs, without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// An empty isolation with the built-in programs under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            world: Arc::new(World {
                clock,
                faults,
                programs: Mutex::new(builtin::programs()),
                sandboxes: Mutex::default(),
                directories: Mutex::default(),
            }),
            capability: IsolationCapability {
                name: "fake".to_owned(),
                boundary: false,
                limits: true,
                survives_host: true,
                freeze: true,
                many_users: true,
                confidential: true,
                windows: false,
                gpus: Vec::new(),
                missing: vec![
                    "This is a simulation: it runs scripted programs, not images.".to_owned(),
                ],
            },
        }
    }

    /// Adds a program, or replaces the one of this name.
    #[must_use]
    pub fn with_program(self, name: &str, program: impl Program + 'static) -> Self {
        self.add_program(name, program);
        self
    }

    /// Claims other abilities, to see how an engine deals with their lack.
    #[must_use]
    pub fn with_capability(mut self, change: impl FnOnce(&mut IsolationCapability)) -> Self {
        change(&mut self.capability);
        self
    }

    /// Adds a program, or replaces the one of this name; for all clones, from now on.
    pub fn add_program(&self, name: &str, program: impl Program + 'static) {
        lock(&self.world.programs).insert(name.to_owned(), Arc::new(program));
    }

    /// Lets a sandbox's supervisor die: all its processes are gone, its handles answer
    /// [`Lost`](ErrorKind::Lost), and `list` shows it until it is removed. Unknown ids are ignored.
    pub fn kill_agent(&self, id: &SandboxId) {
        let known = lock(&self.world.sandboxes).get(id).cloned();
        if let Some(known) = known {
            known.die();
        }
    }

    /// The sandboxes of which anything is left.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        lock(&self.world.sandboxes).keys().cloned().collect()
    }

    /// Whether no sandbox is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.world.sandboxes).is_empty()
    }

    /// The content of a file in a simulated directory of the host.
    #[must_use]
    pub fn host_file(&self, directory: impl Into<PathBuf>, name: &str) -> Option<Bytes> {
        lock(&self.world.directories)
            .get(&directory.into())
            .and_then(|tree| tree.get(name))
    }

    /// Puts a file into a simulated directory of the host.
    pub fn put_host_file(
        &self,
        directory: impl Into<PathBuf>,
        name: &str,
        content: impl Into<Bytes>,
    ) {
        lock(&self.world.directories)
            .entry(directory.into())
            .or_insert_with(|| FileTree::new(None))
            .put(name, content.into());
    }
}

#[async_trait]
impl Isolation for FakeIsolation {
    fn capability(&self) -> IsolationCapability {
        self.capability.clone()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        let id = spec.id.clone();
        let body = async {
            let mut volumes = BTreeMap::new();
            for volume in &spec.volumes {
                volumes.insert(volume.name.clone(), self.world.volume(volume)?);
            }
            let mut sandboxes = lock(&self.world.sandboxes);
            if sandboxes.contains_key(&spec.id) {
                let message = "a sandbox of this id exists";
                return Err(
                    Error::new(ErrorKind::AlreadyExists, "isolation.create", message).on(&spec.id),
                );
            }
            let core = SandboxCore::new(
                spec.id.clone(),
                spec.hostname,
                spec.limits,
                volumes,
                Arc::clone(&self.world),
            );
            sandboxes.insert(spec.id, Arc::clone(&core));
            Ok(Arc::new(FakeSandbox(core)) as Arc<dyn Sandbox>)
        };
        self.world.run("isolation.create", id, body).await
    }

    async fn adopt(&self, id: &SandboxId) -> Result<Arc<dyn Sandbox>> {
        let body = async {
            let core = lock(&self.world.sandboxes).get(id).cloned();
            match core {
                None => {
                    let message = "nothing of this sandbox exists";
                    Err(Error::new(ErrorKind::NotFound, "isolation.adopt", message).on(id))
                }
                Some(core) if core.is_gone() => Err(lost("isolation.adopt", id)
                    .hint("its supervisor is dead; remove it and create it anew")),
                Some(core) => Ok(Arc::new(FakeSandbox(core)) as Arc<dyn Sandbox>),
            }
        };
        self.world.run("isolation.adopt", id, body).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>> {
        let body = async { Ok(self.sandboxes()) };
        self.world.run("isolation.list", "all", body).await
    }

    async fn remove(&self, id: &SandboxId) -> Result<()> {
        let body = async {
            self.world.forget(id, None);
            Ok(())
        };
        self.world.run("isolation.remove", id, body).await
    }
}
