//! How the isolation is set up.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use aci_core::model::GpuSku;

use crate::ranges;

/// Who makes cgroups. All make the same ones, so that sandboxes of one can be adopted with another.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// This crate itself, by the kernel's files.
    #[default]
    Files,
    /// The crate `cgroups-rs`, if the feature of this name is on. Slower to read statistics; see the
    /// crate's documentation.
    CgroupsRs,
}

/// How [`Namespaces`](crate::Namespaces) are set up; `Default` fits most hosts.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct NamespacesOptions {
    /// Where sandboxes are recorded: one directory each with the agent's socket, its log files and
    /// its diagnostics. It should not outlive a restart of the machine. `None` chooses `/run/aci`
    /// as root, otherwise `$XDG_RUNTIME_DIR/aci`, or `/tmp/aci-<uid>` if that is not set.
    pub state_dir: Option<PathBuf>,
    /// The cgroup below which sandboxes are made, relative to the root of each hierarchy; `aci` by
    /// default.
    pub cgroup_parent: String,
    /// Who makes cgroups; this crate itself by default.
    pub cgroup_driver: CgroupDriver,
    /// As root, the host's user ids that user namespaces of sandboxes are made of, `user_count` for
    /// each sandbox. By default 524288 to 1878982655, which systemd sets aside for containers. `None`
    /// makes no user namespaces: user 0 inside is then user 0 outside. Without root this is of no
    /// meaning; `/etc/subuid` decides.
    pub user_ids: Option<Range<u32>>,
    /// How many user and group ids exist in a user namespace of root's, from 0 on; 65,536 by default
    /// and at least. Images with files or users of higher ids (numbers of a directory service) need
    /// more: a container that is to run as one that does not exist is refused, and files of such
    /// belong to nobody.
    pub user_count: u32,
    /// How many empty sandboxes are kept ready for groups to come; 0 by default. One saves a new
    /// group the time of making its namespaces (about 2 ms), costs about 250 KiB, is used once and
    /// ends with this value. They are made by a thread of their own while nobody asks for a
    /// sandbox; when none is ready, the sandbox is made as it is asked for.
    pub spares: usize,
    /// Deliberate holes, for tests of escapes.
    #[cfg(feature = "weaken")]
    #[doc(hidden)]
    pub holes: crate::weaken::Hole,
    /// Where GPUs are described (Container Device Interface); `/etc/cdi` and `/var/run/cdi` by
    /// default. Devices of the class `gpu` are given to containers that ask for `resources.gpu`.
    pub cdi_dirs: Vec<PathBuf>,
    /// Whether GPUs are given although their description wants programs of the host run for them,
    /// which is not done. By default such containers are refused.
    pub cdi_skip_hooks: bool,
    /// What the GPUs count as; V100 by default, the one that ACI has.
    pub gpu_sku: GpuSku,
    /// How many bytes a second each container may read from, and as many write to, each disk of the
    /// host; no bound by default. On cgroup v1 the kernel bounds only what passes by the page cache
    /// and what is read; version 2 counts all.
    pub io_max: Option<u64>,
    /// How long a sandbox may take to end its containers before its agent is killed; 10 seconds by
    /// default.
    pub patience: Duration,
}

impl Default for NamespacesOptions {
    fn default() -> Self {
        Self {
            state_dir: None,
            cgroup_parent: "aci".to_owned(),
            cgroup_driver: CgroupDriver::default(),
            // https://systemd.io/UIDS-GIDS: "Container UID ranges".
            user_ids: Some(0x0008_0000..0x6FFF_0000),
            user_count: ranges::COUNT,
            spares: 0,
            #[cfg(feature = "weaken")]
            holes: crate::weaken::Hole::default(),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            cdi_skip_hooks: false,
            gpu_sku: GpuSku::V100,
            io_max: None,
            patience: Duration::from_secs(10),
        }
    }
}

impl NamespacesOptions {
    /// With another state directory. Sandboxes of one directory are unknown in another.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// Below another cgroup.
    #[must_use]
    pub fn cgroup_parent(mut self, parent: impl Into<String>) -> Self {
        self.cgroup_parent = parent.into();
        self
    }

    /// With cgroups made by another implementation.
    #[must_use]
    pub const fn cgroup_driver(mut self, driver: CgroupDriver) -> Self {
        self.cgroup_driver = driver;
        self
    }

    /// With user namespaces of other ids, or (`None`) without user namespaces.
    #[must_use]
    pub const fn user_ids(mut self, ids: Option<Range<u32>>) -> Self {
        self.user_ids = ids;
        self
    }

    /// With so many user ids in each sandbox.
    #[must_use]
    pub const fn user_count(mut self, count: u32) -> Self {
        self.user_count = count;
        self
    }

    /// With so many sandboxes ready ahead of need.
    #[must_use]
    pub const fn spares(mut self, spares: usize) -> Self {
        self.spares = spares;
        self
    }

    /// With deliberate holes.
    #[cfg(feature = "weaken")]
    #[doc(hidden)]
    #[must_use]
    pub const fn holes(mut self, holes: crate::weaken::Hole) -> Self {
        self.holes = holes;
        self
    }

    /// With descriptions of GPUs elsewhere.
    #[must_use]
    pub fn cdi_dirs(mut self, directories: impl IntoIterator<Item = PathBuf>) -> Self {
        self.cdi_dirs = directories.into_iter().collect();
        self
    }

    /// With GPUs whose hooks are skipped, or not.
    #[must_use]
    pub const fn cdi_skip_hooks(mut self, skip: bool) -> Self {
        self.cdi_skip_hooks = skip;
        self
    }

    /// With GPUs that count as another kind.
    #[must_use]
    pub fn gpu_sku(mut self, sku: GpuSku) -> Self {
        self.gpu_sku = sku;
        self
    }

    /// With a bound of io, in bytes a second.
    #[must_use]
    pub const fn io_max(mut self, bytes: Option<u64>) -> Self {
        self.io_max = bytes;
        self
    }

    /// With another patience.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
