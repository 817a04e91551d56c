//! From an OCI `config.json` to the contracts of `aci-core`: what they cannot say is refused.

use std::path::Path;

use aci_core::contract::{
    FileEntry, Layer, MountSpec, ProcessSpec, RootFs, SandboxVolume, SeccompPolicy, SecurityPolicy,
    TerminalSize, UserSpec, VolumeSource,
};
use aci_core::model::Secret;
use aci_core::size::Limits;
use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Mount, Process, Spec};

/// Files above this size are not copied into a container.
const MOST: u64 = 1 << 20;

/// Made by the isolation itself, whatever the configuration asks for.
const OWN: [&str; 7] = [
    "/proc",
    "/dev",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/sys",
    "/sys/fs/cgroup",
];
/// Masked by the isolation itself.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Made read-only by the isolation itself.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Set by the isolation itself.
const SYSCTLS: [&str; 2] = [
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
];
/// The devices that every container has.
const DEVICES: [&str; 8] = [
    "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
];
/// How many capabilities Linux has (`CAP_LAST_CAP` + 1, capabilities(7)).
const CAPABILITIES: usize = 41;

/// What a bundle asks for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) hostname: String,
    pub(crate) limits: Limits,
    pub(crate) volumes: Vec<SandboxVolume>,
    pub(crate) rootfs: RootFs,
    pub(crate) mounts: Vec<MountSpec>,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) security: SecurityPolicy,
    pub(crate) process: ProcessSpec,
}

/// Reads a bundle's configuration.
pub(crate) fn load(path: &Path) -> Result<Spec> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Turns a configuration into what the contracts say.
///
/// # Errors
/// For everything that is asked for and cannot be said.
pub(crate) fn plan(spec: &Spec, bundle: &Path) -> Result<Plan> {
    let process = spec
        .process()
        .as_ref()
        .context("config.json has no 'process'")?;
    if let Some(hooks) = spec.hooks() {
        let value = serde_json::to_value(hooks)?;
        let asked = value.as_object().is_some_and(|kinds| {
            kinds
                .values()
                .any(|list| list.as_array().is_some_and(|list| !list.is_empty()))
        });
        ensure!(
            !asked,
            "'hooks' are not run: programs of the host have no place in a sandbox"
        );
    }
    refuse_linux(spec)?;
    let root = spec.root().as_ref().context("config.json has no 'root'")?;
    let path = bundle.join(root.path());
    let path = path
        .canonicalize()
        .with_context(|| format!("root.path {}", path.display()))?;
    let rootfs = if root.readonly().unwrap_or(false) {
        RootFs {
            layers: vec![Layer::Directory(path)],
            upper: None,
        }
    } else {
        RootFs {
            layers: Vec::new(),
            upper: Some((path.clone(), path)),
        }
    };
    let mut plan = Plan {
        hostname: spec
            .hostname()
            .clone()
            .unwrap_or_else(|| "container".to_owned()),
        limits: Limits::default(),
        volumes: Vec::new(),
        rootfs,
        mounts: Vec::new(),
        files: Vec::new(),
        security: security(spec, process)?,
        process: self::process(process)?,
    };
    for mount in spec.mounts().iter().flatten() {
        plan.mount(mount, bundle)
            .with_context(|| format!("mount {}", mount.destination().display()))?;
    }
    let linux = spec.linux().as_ref();
    for path in linux
        .and_then(|linux| linux.masked_paths().as_ref())
        .into_iter()
        .flatten()
    {
        plan.mask(path)?;
    }
    for path in linux
        .and_then(|linux| linux.readonly_paths().as_ref())
        .into_iter()
        .flatten()
    {
        let there = Path::new(path).exists();
        ensure!(
            READ_ONLY.contains(&path.as_str()) || MASKED.contains(&path.as_str()) || !there,
            "linux.readonlyPaths: '{path}' cannot be made read-only; known are {}",
            READ_ONLY.join(", ")
        );
    }
    if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
        plan.limits = limits(resources)?;
    }
    Ok(plan)
}

impl Plan {
    fn volume(&mut self, source: VolumeSource, path: &str, read_only: bool) {
        let name = format!("mount{}", self.volumes.len());
        self.mounts.push(MountSpec {
            volume: name.clone(),
            path: path.to_owned(),
            read_only,
        });
        self.volumes.push(SandboxVolume {
            name,
            source,
            read_only,
        });
    }

    fn mount(&mut self, mount: &Mount, bundle: &Path) -> Result<()> {
        let path = utf8(mount.destination())?;
        if OWN.contains(&path) {
            return Ok(());
        }
        let empty = Vec::new();
        let options = mount.options().as_ref().unwrap_or(&empty);
        let has = |name: &str| options.iter().any(|option| option == name);
        let read_only = has("ro");
        for refused in [
            "noexec",
            "shared",
            "rshared",
            "tmpcopyup",
            "idmap",
            "ridmap",
        ] {
            let tmpfs = mount.typ().as_deref() == Some("tmpfs") && refused == "noexec";
            ensure!(
                !has(refused) || tmpfs,
                "the option '{refused}' cannot be met"
            );
        }
        match mount.typ().as_deref() {
            Some("tmpfs") => {
                let size = options
                    .iter()
                    .find_map(|option| option.strip_prefix("size="));
                let size = size.map(bytes).transpose()?;
                self.volume(VolumeSource::Memory { size }, path, read_only);
            }
            Some("bind" | "none") | None if has("bind") || has("rbind") => {
                let source = mount.source().as_ref().context("no source")?;
                let source = bundle.join(source);
                let data = std::fs::metadata(&source)
                    .with_context(|| format!("source {}", source.display()))?;
                if data.is_dir() {
                    self.volume(VolumeSource::Directory(source), path, read_only);
                } else {
                    ensure!(
                        data.is_file() && data.len() <= MOST,
                        "the source {} is neither a directory nor a file of at most {MOST} bytes",
                        source.display()
                    );
                    self.files.push(FileEntry {
                        path: path.to_owned(),
                        content: std::fs::read(&source)?.into(),
                        mode: std::os::unix::fs::MetadataExt::mode(&data) & 0o777,
                    });
                }
            }
            other => bail!("mounts of type {other:?} cannot be made"),
        }
        Ok(())
    }

    /// Hides a path that the isolation does not hide by itself: a directory under an empty one.
    fn mask(&mut self, path: &str) -> Result<()> {
        if MASKED.contains(&path) {
            return Ok(());
        }
        match std::fs::symlink_metadata(path) {
            Err(_) => Ok(()),
            Ok(data) if data.is_dir() => {
                self.volume(VolumeSource::Memory { size: Some(4096) }, path, true);
                Ok(())
            }
            Ok(_) => bail!("linux.maskedPaths: the file '{path}' cannot be masked"),
        }
    }
}

/// What of `linux` has no place in the contracts.
fn refuse_linux(spec: &Spec) -> Result<()> {
    let linux = spec
        .linux()
        .as_ref()
        .context("config.json has no 'linux'")?;
    let namespaces = linux.namespaces().as_ref().map_or(&[][..], Vec::as_slice);
    for namespace in namespaces {
        let kind = namespace.typ();
        ensure!(
            !matches!(kind, LinuxNamespaceType::User | LinuxNamespaceType::Time),
            "linux.namespaces: a namespace of type '{kind}' cannot be asked for"
        );
        ensure!(
            namespace.path().is_none(),
            "linux.namespaces: '{kind}' with a path: a sandbox makes its own namespaces and joins \
             none (podman: --network=none, and no pods)"
        );
    }
    for needed in [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
    ] {
        ensure!(
            namespaces.iter().any(|have| have.typ() == needed),
            "linux.namespaces: '{needed}' is missing: a sandbox never shares the host's"
        );
    }
    for (name, present) in [
        (
            "uidMappings",
            linux
                .uid_mappings()
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
        ),
        (
            "gidMappings",
            linux
                .gid_mappings()
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
        ),
        ("intelRdt", linux.intel_rdt().is_some()),
        (
            "mountLabel",
            linux
                .mount_label()
                .as_ref()
                .is_some_and(|label| !label.is_empty()),
        ),
        ("personality", linux.personality().is_some()),
        (
            "netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
        ),
        (
            "timeOffsets",
            linux
                .time_offsets()
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
        ),
        ("memoryPolicy", linux.memory_policy().is_some()),
    ] {
        ensure!(!present, "linux.{name} cannot be met");
    }
    for name in linux.sysctl().iter().flat_map(|map| map.keys()) {
        ensure!(
            SYSCTLS.contains(&name.as_str()),
            "linux.sysctl: '{name}' cannot be set"
        );
    }
    for device in linux.devices().iter().flatten() {
        let path = utf8(device.path())?;
        let known = path
            .strip_prefix("/dev/")
            .is_some_and(|name| DEVICES.contains(&name));
        ensure!(known, "linux.devices: '{path}' cannot be given");
    }
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    ensure!(
        !propagation.ends_with("shared"),
        "linux.rootfsPropagation '{propagation}': mounts never leave a sandbox"
    );
    Ok(())
}

fn limits(resources: &LinuxResources) -> Result<Limits> {
    let present = |value: serde_json::Value| match value {
        serde_json::Value::Object(map) => map.values().any(|v| !v.is_null()),
        serde_json::Value::Array(list) => !list.is_empty(),
        other => !other.is_null(),
    };
    for (name, value) in [
        ("blockIO", serde_json::to_value(resources.block_io())?),
        (
            "hugepageLimits",
            serde_json::to_value(resources.hugepage_limits())?,
        ),
        ("network", serde_json::to_value(resources.network())?),
        ("rdma", serde_json::to_value(resources.rdma())?),
        ("unified", serde_json::to_value(resources.unified())?),
    ] {
        ensure!(!present(value), "linux.resources.{name} cannot be met");
    }
    let positive =
        |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    let mut limits = Limits::default();
    if let Some(memory) = resources.memory() {
        limits.memory_max = positive(memory.limit());
        limits.memory_request = positive(memory.reservation());
        ensure!(
            !memory.disable_oom_killer().unwrap_or(false),
            "linux.resources.memory.disableOOMKiller cannot be met"
        );
    }
    if let Some(cpu) = resources.cpu() {
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        ensure!(
            empty(cpu.cpus()) && empty(cpu.mems()),
            "linux.resources.cpu.cpus and mems cannot be met"
        );
        ensure!(
            cpu.realtime_runtime().unwrap_or(0) == 0,
            "linux.resources.cpu.realtimeRuntime cannot be met"
        );
        if let Some(quota) = positive(cpu.quota()) {
            let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
            let hundredths = quota.saturating_mul(100).div_ceil(period);
            limits.cpu_max = Some(u32::try_from(hundredths).context("linux.resources.cpu.quota")?);
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            let hundredths = (shares.saturating_mul(100) / 1024).max(1);
            limits.cpu_request =
                Some(u32::try_from(hundredths).context("linux.resources.cpu.shares")?);
        }
    }
    if let Some(pids) = resources.pids() {
        limits.pids_max = positive(Some(pids.limit()))
            .map(u32::try_from)
            .transpose()?;
    }
    Ok(limits)
}

fn security(spec: &Spec, process: &Process) -> Result<SecurityPolicy> {
    for (name, value) in [
        ("apparmorProfile", process.apparmor_profile()),
        ("selinuxLabel", process.selinux_label()),
    ] {
        let value = value.as_deref().unwrap_or_default();
        ensure!(
            value.is_empty() || value == "unconfined",
            "process.{name} '{value}' cannot be met"
        );
    }
    let empty = std::collections::HashSet::new();
    let sets = process.capabilities().as_ref();
    let ambient = sets
        .and_then(|sets| sets.ambient().as_ref())
        .unwrap_or(&empty);
    ensure!(
        ambient.is_empty(),
        "process.capabilities.ambient: ambient capabilities are never given"
    );
    let bounding = sets
        .and_then(|sets| sets.bounding().as_ref())
        .unwrap_or(&empty);
    let names: Result<Vec<String>> = bounding
        .iter()
        .map(|capability| Ok(serde_json::from_value(serde_json::to_value(capability)?)?))
        .collect();
    let mut names = names?;
    names.sort();
    let linux = spec.linux().as_ref();
    let none = |paths: Option<&Option<Vec<String>>>| {
        paths.and_then(Option::as_ref).is_none_or(Vec::is_empty)
    };
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    Ok(SecurityPolicy {
        privileged: names.len() == CAPABILITIES
            && seccomp.is_none()
            && none(linux.map(|linux| linux.masked_paths()))
            && none(linux.map(|linux| linux.readonly_paths())),
        allow_privilege_escalation: !process.no_new_privileges().unwrap_or(false),
        add_capabilities: names,
        drop_capabilities: vec!["ALL".to_owned()],
        seccomp: match seccomp {
            Some(seccomp) => {
                ensure!(
                    seccomp.listener_path().is_none(),
                    "linux.seccomp.listenerPath cannot be met"
                );
                SeccompPolicy::Profile(serde_json::to_string(seccomp)?)
            }
            None => SeccompPolicy::Unconfined,
        },
    })
}

/// A process of a configuration or of an `exec`.
pub(crate) fn process(process: &Process) -> Result<ProcessSpec> {
    let argv = process.args().clone().unwrap_or_default();
    ensure!(
        argv.first().is_some_and(|program| !program.is_empty()),
        "process.args is empty"
    );
    ensure!(
        process.user().umask().is_none_or(|umask| umask == 0o022),
        "process.user.umask cannot be met"
    );
    let size = process.console_size().and_then(|size| {
        let rows = u16::try_from(size.height()).ok().filter(|rows| *rows > 0)?;
        let cols = u16::try_from(size.width()).ok().filter(|cols| *cols > 0)?;
        Some(TerminalSize { rows, cols })
    });
    let env = process.env().iter().flatten().map(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((entry.as_str(), ""));
        (name.to_owned(), Secret::new(value))
    });
    Ok(ProcessSpec {
        argv,
        env: env.collect(),
        cwd: utf8(process.cwd())?.to_owned(),
        user: UserSpec {
            image: None,
            uid: Some(process.user().uid()),
            gid: Some(process.user().gid()),
        },
        terminal: process
            .terminal()
            .unwrap_or(false)
            .then(|| size.unwrap_or_default()),
    })
}

/// A size of tmpfs(5): a number with `k`, `m` or `g`.
fn bytes(text: &str) -> Result<u64> {
    let (digits, unit) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => 0,
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("the size '{text}'"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("the size '{text}'"))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("the path {} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Result<Plan> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join("rootfs"))?;
        let mut value = serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ]},
        });
        change(&mut value);
        plan(&serde_json::from_value(value)?, root.path())
    }

    fn refused(change: impl FnOnce(&mut serde_json::Value)) -> String {
        match spec(change) {
            Ok(_) => "it is taken".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_cannot_be_said_is_refused_by_name() {
        let cases: [(&str, &str, serde_json::Value); 9] = [
            (
                "/linux/namespaces/1/path",
                "joins none",
                "/run/netns/x".into(),
            ),
            (
                "/linux/uidMappings",
                "uidMappings",
                serde_json::json!([{"containerID": 0, "hostID": 1, "size": 1}]),
            ),
            (
                "/linux/sysctl",
                "kernel.msgmax",
                serde_json::json!({"kernel.msgmax": "1"}),
            ),
            (
                "/linux/resources",
                "cpus",
                serde_json::json!({"cpu": {"cpus": "0"}}),
            ),
            (
                "/linux/devices",
                "/dev/fuse",
                serde_json::json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]),
            ),
            (
                "/hooks",
                "hooks",
                serde_json::json!({"prestart": [{"path": "/bin/true"}]}),
            ),
            (
                "/process/apparmorProfile",
                "apparmorProfile",
                "docker-default".into(),
            ),
            (
                "/process/capabilities",
                "ambient",
                serde_json::json!({"ambient": ["CAP_KILL"]}),
            ),
            (
                "/mounts",
                "ext4",
                serde_json::json!([{"destination": "/x", "type": "ext4", "source": "/dev/sda"}]),
            ),
        ];
        for (place, word, value) in cases {
            let said = refused(|spec| {
                let (parent, name) = place.rsplit_once('/').unwrap_or(("", place));
                if let Some(object) = spec.pointer_mut(parent).and_then(|v| v.as_object_mut()) {
                    object.insert(name.to_owned(), value);
                }
            });
            assert!(said.contains(word), "{place}: {said}");
        }
        let said = refused(|spec| {
            if let Some(list) = spec
                .pointer_mut("/linux/namespaces")
                .and_then(|v| v.as_array_mut())
            {
                list.remove(1);
            }
        });
        assert!(said.contains("never shares"), "{said}");
    }

    #[test]
    fn limits_and_rights_are_kept() -> Result<()> {
        let plan = spec(|spec| {
            spec["linux"]["resources"] = serde_json::json!({
                "memory": {"limit": 67_108_864}, "pids": {"limit": 20},
                "cpu": {"quota": 25_000, "period": 100_000, "shares": 512},
            });
            spec["process"]["capabilities"] =
                serde_json::json!({"bounding": ["CAP_KILL", "CAP_CHOWN"]});
            spec["process"]["noNewPrivileges"] = true.into();
            spec["mounts"] = serde_json::json!([
                {"destination": "/run", "type": "tmpfs", "options": ["size=65536k"]},
                {"destination": "/proc", "type": "proc"},
            ]);
        })?;
        assert_eq!(plan.limits.memory_max, Some(64 << 20));
        assert_eq!(plan.limits.pids_max, Some(20));
        assert_eq!(
            (plan.limits.cpu_max, plan.limits.cpu_request),
            (Some(25), Some(50))
        );
        assert_eq!(plan.security.add_capabilities, ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(plan.security.drop_capabilities, ["ALL"]);
        assert!(!plan.security.privileged && !plan.security.allow_privilege_escalation);
        assert_eq!(plan.volumes.len(), 1);
        Ok(())
    }
}
