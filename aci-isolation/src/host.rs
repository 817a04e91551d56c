//! What this machine allows: rights, cgroups, user ranges, and where state is kept.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aci_core::contract::IsolationCapability;
use aci_core::error::{Error, ErrorKind, Result};

use crate::cgroup::{layout, tree};
use crate::devices::{self, Gate};
use crate::options::CgroupDriver;
use crate::protocol::{CgroupPlan, Driver, Users};

const PROBE: &str = "namespaces.new";

/// The outcome of looking at the machine.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) users: Users,
    pub(crate) cgroup: Option<CgroupPlan>,
    pub(crate) missing: Vec<String>,
}

impl Host {
    /// Looks at the machine.
    pub(crate) fn probe(parent: &str, driver: CgroupDriver) -> Result<Self> {
        let driver = self::driver(driver)?;
        let mut missing = Vec::new();
        if !Path::new("/proc/self/ns/pid").exists() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                PROBE,
                "/proc is not mounted or the kernel has no namespaces",
            )
            .hint("mount -t proc proc /proc"));
        }
        let root = rustix::process::geteuid().is_root();
        let users = if root {
            Users::Host
        } else {
            user_mapping(&mut missing)?
        };
        let mut cgroup = cgroups(parent, root, &mut missing)?;
        if let Some(plan) = &mut cgroup {
            plan.driver = driver;
        }
        Ok(Self {
            users,
            cgroup,
            missing,
        })
    }

    /// Whether io can be bounded.
    pub(crate) fn bounds_io(&self) -> bool {
        self.cgroup
            .as_ref()
            .is_some_and(|plan| layout::has(plan, "io") || layout::has(plan, "blkio"))
    }

    /// Adds a sentence on what is missing.
    pub(crate) fn miss(&mut self, sentence: String) {
        self.missing.push(sentence);
    }

    pub(crate) fn capability(&self) -> IsolationCapability {
        let has = |name| {
            self.cgroup
                .as_ref()
                .is_some_and(|plan| layout::has(plan, name))
        };
        IsolationCapability {
            name: "namespaces".to_owned(),
            boundary: true,
            limits: has("cpu") && has("memory"),
            survives_host: true,
            freeze: self.cgroup.as_ref().is_some_and(tree::can_freeze),
            many_users: !matches!(self.users, Users::Single { .. }),
            confidential: false,
            windows: false,
            gpus: Vec::new(),
            missing: self.missing.clone(),
        }
    }
}

/// The driver of cgroups, if it was built in.
fn driver(driver: CgroupDriver) -> Result<Driver> {
    let driver = match driver {
        CgroupDriver::Files => Driver::Files,
        CgroupDriver::CgroupsRs => Driver::CgroupsRs,
    };
    if tree::has_driver(driver) {
        return Ok(driver);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        PROBE,
        "this program was built without cgroups-rs",
    )
    .hint("build aci-isolation with the feature 'cgroups-rs', or leave NamespacesOptions::cgroup_driver out"))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// How an ordinary user's sandboxes see user ids.
fn user_mapping(missing: &mut Vec<String>) -> Result<Users> {
    let refuse = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::PermissionDenied, PROBE, message).hint(hint))
    };
    if !Path::new("/proc/self/ns/user").exists() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            PROBE,
            "without root, sandboxes need user namespaces, which this kernel lacks",
        )
        .hint("run as root, or use a kernel with CONFIG_USER_NS"));
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return refuse(
            "user namespaces are switched off",
            "sysctl user.max_user_namespaces=15000, or run as root",
        );
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return refuse(
            "user namespaces are only allowed to root",
            "sysctl kernel.unprivileged_userns_clone=1, or run as root",
        );
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return refuse(
            "AppArmor restricts user namespaces to programs with a profile",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
        );
    }
    missing.push("addresses that other machines reach need root: run as root".to_owned());
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let helpers = ["newuidmap", "newgidmap"]
        .iter()
        .all(|name| find_program(name));
    let name = user_name(uid);
    let range = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        sub_range(&text, name.as_deref(), uid)
    };
    if let (true, Some(uids), Some(gids)) = (helpers, range("/etc/subuid"), range("/etc/subgid")) {
        return Ok(Users::Ranges {
            uid,
            gid,
            uids,
            gids,
        });
    }
    missing.push(format!(
        "containers can only run as user 0 (which is user {uid} outside): install newuidmap and \
         newgidmap (Debian package uidmap) and give the user ranges: usermod --add-subuids \
         100000-165535 --add-subgids 100000-165535"
    ));
    Ok(Users::Single { uid, gid })
}

fn find_program(name: &str) -> bool {
    [
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
    ]
    .iter()
    .any(|directory| Path::new(directory).join(name).is_file())
}

fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The first range of a user in the text of `/etc/subuid` or `/etc/subgid` (subuid(5)).
fn sub_range(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    let number = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        if Some(who) != name && who != number {
            return None;
        }
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (count > 0).then_some((first, count))
    })
}

/// The hierarchies that sandboxes can be made in.
fn cgroups(parent: &str, root: bool, missing: &mut Vec<String>) -> Result<Option<CgroupPlan>> {
    let none = "CPU, memory and process limits are not enforced, and statistics are summed over \
                processes";
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| {
        Error::new(ErrorKind::Internal, PROBE, "reading /proc/self/mountinfo").because(error)
    })?;
    let mut plan = layout::parse(&mounts, parent);
    plan.disks = disks();
    if plan.parent.is_empty()
        || plan
            .parent
            .split('/')
            .any(|part| part == ".." || part.is_empty())
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            PROBE,
            format!("'{parent}' is not a cgroup path such as 'aci' or 'machine/aci'"),
        ));
    }
    if !root {
        return Ok(delegated(plan, parent, none, missing));
    }
    if let Some(point) = &plan.v2 {
        plan.v2_controllers = words(&Path::new(point).join("cgroup.controllers"));
    }
    // What is mounted read-only, as in an unprivileged container, cannot be used.
    plan.v1.retain(|(_, point)| writable(Path::new(point)));
    if plan
        .v2
        .as_ref()
        .is_some_and(|point| !writable(Path::new(point)))
    {
        plan.v2 = None;
        plan.v2_controllers.clear();
    }
    gate(&mut plan, missing);
    if plan.v2.is_none() && plan.v1.is_empty() {
        missing.push(format!(
            "{none}: no writable cgroup hierarchy is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)"
        ));
        return Ok(None);
    }
    for (name, what) in [
        ("cpu", "CPU limits are not enforced"),
        ("memory", "memory limits are not enforced"),
        ("pids", "process limits are not enforced"),
    ] {
        if !layout::has(&plan, name) {
            missing.push(format!(
                "{what}: the cgroup controller '{name}' is not available (kernel command line \
                 cgroup_enable={name})"
            ));
        }
    }
    Ok(Some(plan))
}

/// How devices are held back: by a program in the v2 hierarchy, which costs next to nothing, or
/// by the v1 controller.
fn gate(plan: &mut CgroupPlan, missing: &mut Vec<String>) {
    let program = plan.v2.as_ref().map(|_| devices::load(&devices::DEFAULT));
    let controller = plan.v1.iter().any(|(name, _)| name == "devices");
    plan.devices = match &program {
        Some(Ok(_)) => Gate::Program,
        _ if controller => Gate::Controller,
        _ => Gate::None,
    };
    if plan.devices != Gate::Controller {
        plan.v1.retain(|(name, _)| name != "devices");
    }
    if plan.devices == Gate::None {
        let why = match program {
            Some(Err(error)) => format!("the kernel takes no BPF program: {error}"),
            _ => "neither a v2 hierarchy nor the v1 controller 'devices' is mounted".to_owned(),
        };
        missing.push(format!(
            "devices are held back by mount flags and user namespaces alone, not by cgroups: \
             {why} (run with CAP_BPF and CAP_NET_ADMIN)"
        ));
    }
}

/// Without root: a cgroup v2 directory that systemd has delegated to this user.
fn delegated(
    mut plan: CgroupPlan,
    parent: &str,
    none: &str,
    missing: &mut Vec<String>,
) -> Option<CgroupPlan> {
    let advice = "run as root, or let systemd delegate a cgroup to this user (a service or scope \
                  with Delegate=yes)";
    let found = plan.v2.as_ref().and_then(|point| {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))?
            .to_owned();
        let top = delegated_top(Path::new(point), &path)?;
        Some((
            top.strip_prefix(point).ok()?.join(parent),
            words(&top.join("cgroup.controllers")),
        ))
    });
    plan.v1.clear();
    match found {
        Some((path, controllers)) => {
            plan.parent = path.to_string_lossy().into_owned();
            if !["cpu", "memory", "pids"]
                .iter()
                .all(|name| controllers.iter().any(|have| have == name))
            {
                missing.push(format!(
                    "{none}: the delegated cgroup lacks controllers; {advice}"
                ));
            }
            plan.v2_controllers = controllers;
            Some(plan)
        }
        None => {
            missing.push(format!("{none}: no cgroup is delegated; {advice}"));
            None
        }
    }
}

/// The disks of this machine: block devices with a request queue of their own, which bounds need.
fn disks() -> Vec<String> {
    let mut out: Vec<String> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            // What is memory, or lies on another disk, which is bounded itself.
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !["loop", "ram", "zram", "dm-", "md"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
        .filter_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())
        .map(|number| number.trim().to_owned())
        .collect();
    out.sort();
    out
}

/// The highest directory above (or at) a process's own cgroup that this user may use as a root of
/// his own: processes are moved between cgroups only below a common directory that he may write.
fn delegated_top(point: &Path, own: &str) -> Option<PathBuf> {
    let mut at = point.join(own.trim_start_matches('/'));
    let mut top = None;
    while at.starts_with(point) {
        if !(writable(&at) && writable(&at.join("cgroup.procs"))) {
            break;
        }
        top = Some(at.clone());
        if !at.pop() {
            break;
        }
    }
    // A directory that has processes of its own cannot hand controllers on (cgroup-v2.rst, "no
    // internal process constraint").
    top.filter(|top| {
        fs::read_to_string(top.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty())
    })
}

fn writable(path: &Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::WRITE_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}

fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Where sandboxes are recorded unless the caller says otherwise.
pub(crate) fn default_state_dir() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/aci");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() && writable(&directory) => directory.join("aci"),
        _ => std::env::temp_dir().join(format!("aci-{}", uid.as_raw())),
    }
}

/// Makes the state directory, for this user alone.
pub(crate) fn make_state_dir(directory: &Path) -> Result<()> {
    let internal =
        |message: String| Error::new(ErrorKind::Internal, PROBE, message).on(directory.display());
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(internal("the state directory cannot be made".to_owned())
            .hint("choose another with NamespacesOptions::state_dir")
            .because(error));
    }
    let data = fs::symlink_metadata(directory).map_err(|error| {
        internal("the state directory cannot be read".to_owned()).because(error)
    })?;
    if !data.is_dir() || data.uid() != rustix::process::geteuid().as_raw() {
        return Err(
            internal("the state directory is not a directory of this user".to_owned())
                .hint("remove it, or choose another with NamespacesOptions::state_dir"),
        );
    }
    if data.mode() & 0o077 != 0 {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(|error| {
            internal("the state directory cannot be closed to others".to_owned()).because(error)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver is there or refused in words; it is never another one in silence.
    #[test]
    fn a_driver_that_was_not_built_is_refused() {
        assert_eq!(driver(CgroupDriver::Files).unwrap(), Driver::Files);
        let outcome = driver(CgroupDriver::CgroupsRs);
        if cfg!(feature = "cgroups-rs") {
            assert_eq!(outcome.unwrap(), Driver::CgroupsRs);
        } else {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.chain().contains("cgroups-rs"), "{}", error.chain());
        }
    }

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let text = "root:100000:65536\nweb:200000:65536\n1001:300000:10\nempty:1:0\n";
        assert_eq!(sub_range(text, Some("web"), 7), Some((200_000, 65_536)));
        assert_eq!(sub_range(text, None, 1001), Some((300_000, 10)));
        assert_eq!(sub_range(text, Some("empty"), 5), None);
        assert_eq!(sub_range(text, Some("nobody"), 65_534), None);
    }
}
