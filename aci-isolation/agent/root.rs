//! A container's file system, built by its init inside its own mount namespace.
//!
//! Nothing of the container runs yet and no other process is in the namespace, so nobody can swap
//! a path while it is used. Still every place that an image can shape is reached by openat2 with
//! RESOLVE_IN_ROOT or RESOLVE_NO_SYMLINKS, and `/proc` and `/sys` are covered through their own
//! descriptors.
//!
//! All file systems that a container can write to are mounted `nodev`; the nodes of `/dev` are
//! single bind mounts. A device made with CAP_MKNOD is therefore of no use, on every cgroup
//! version.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::pty::OpenptFlags;

use crate::protocol::{Device, Failure, Kind, Layer, Start, Users};
use crate::{holes, sys, users, weak};

/// Paths that show or change the host (`/proc`), as Docker and containerd mask them.
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Name, major, minor of the nodes of `/dev`.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// What the agent hands to the init of a container.
pub(crate) struct Recipe<'a> {
    pub(crate) start: &'a Start,
    /// An empty directory to mount scratch space on; it disappears with the old root.
    pub(crate) scratch: &'a str,
    /// Detached copies of volumes, where they go, and whether they are read-only there.
    pub(crate) mounts: &'a [(OwnedFd, String, bool)],
    /// The group's shared memory.
    pub(crate) shm: &'a OwnedFd,
    /// Whether the agent is in a user namespace.
    pub(crate) rootless: bool,
    /// How the sandbox's ids are chosen.
    pub(crate) users: &'a Users,
    /// The sandbox's user namespace, if the agent is outside of it.
    pub(crate) inside: Option<&'a OwnedFd>,
    /// Whether group 5 (tty) exists inside.
    pub(crate) tty_group: bool,
    /// Whether the v2 hierarchy has the controllers, so that `/sys/fs/cgroup` is it.
    pub(crate) cgroup2: bool,
}

type Result<T> = std::result::Result<T, Failure>;

/// Adds to an error of the kernel what was being done.
pub(crate) fn failed(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Failure {
    move |errno| {
        let kind = if errno == Errno::PERM {
            Kind::PermissionDenied
        } else {
            Kind::Internal
        };
        Failure::new(
            kind,
            format!(
                "{what}: {}",
                io::Error::from_raw_os_error(errno.raw_os_error())
            ),
        )
    }
}

fn failed_io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Kind::Internal, format!("{what}: {error}"))
}

const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A new mount of a file system kind that needs no device, not attached yet. An option without a
/// value is a flag.
pub(crate) fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts a detached mount over the file or directory that a descriptor stands for.
pub(crate) fn attach(mount: impl AsFd, onto: impl AsFd) -> std::result::Result<(), Errno> {
    rustix::mount::move_mount(
        mount,
        "",
        onto,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// A detached copy of a mount, with everything mounted below it if `deep`.
pub(crate) fn copy_of(
    at: impl AsFd,
    path: &str,
    deep: bool,
) -> std::result::Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if deep {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(at, path, flags)
}

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = PATH_ONLY.union(OFlags::DIRECTORY);
const MODE_755: Mode = Mode::from_raw_mode(0o755);

/// A child of a directory that must be there and be no symlink.
fn strict(at: impl AsFd, path: &str) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        at,
        path,
        PATH_ONLY,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH,
    )
}

/// Makes (if missing) and opens a directory of our own making.
fn own_directory(at: impl AsFd, name: &str, mode: Mode) -> std::result::Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(&at, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    strict(&at, name)
}

/// A device that the container was given, as a node of its own bound to its place.
fn add_device(
    recipe: &Recipe<'_>,
    root: BorrowedFd<'_>,
    nodes: &OwnedFd,
    index: usize,
    device: &Device,
) -> Result<()> {
    let what = || failed(format!("making the device {}", device.path));
    let (Some(major), Some(minor)) = (device.rule.major, device.rule.minor) else {
        return Err(Failure::new(
            Kind::Invalid,
            format!("the device {} has no number", device.path),
        ));
    };
    if recipe.rootless {
        return Err(Failure::new(
            Kind::PermissionDenied,
            format!("the device {} can only be given to containers of root's", device.path),
        ));
    }
    let name = format!("given{index}");
    let kind = if device.rule.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let mode = Mode::from_raw_mode(device.mode & 0o777);
    rustix::fs::mknodat(nodes, &name, kind, mode, rustix::fs::makedev(major, minor))
        .and_then(|()| {
            rustix::fs::chownat(
                nodes,
                &name,
                Some(rustix::process::Uid::from_raw(recipe.users.outside(device.uid))),
                Some(rustix::process::Gid::from_raw(recipe.users.outside(device.gid))),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })
        .map_err(what())?;
    let node = copy_of(nodes, &name, false).map_err(what())?;
    let place = make_file(root, &device.path, "device path")?;
    attach(&node, &place).map_err(what())
}

/// Opens a file inside the root to mount something on it, making it if it is missing.
fn make_file(root: BorrowedFd<'_>, path: &str, what: &str) -> Result<OwnedFd> {
    let mut parts = components(path, what)?;
    let name = parts.pop().ok_or_else(|| {
        Failure::new(Kind::Invalid, format!("{what} '{path}' has no name"))
    })?;
    let directory = make_directories(root, &format!("/{}", parts.join("/")), what)?;
    match rustix::fs::openat(
        &directory,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    ) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(format!("{what} '{path}'"))(errno)),
    }
    strict(&directory, name).map_err(failed(format!("{what} '{path}'")))
}

/// A file or directory of the host at a place of the container.
fn add_bind(recipe: &Recipe<'_>, root: BorrowedFd<'_>, bind: &(String, String, bool)) -> Result<()> {
    let (from, path, read_only) = bind;
    let source = rustix::fs::open(from.as_str(), PATH_ONLY, Mode::empty())
        .map_err(failed(format!("the host's {from}")))?;
    let kind = rustix::fs::fstat(&source).map_err(failed(format!("the host's {from}")))?;
    let tree = copy_of(&source, "", true).map_err(failed(format!("the host's {from}")))?;
    if let Some(users) = recipe.inside {
        // What cannot be mapped can still be read, if its mode lets everybody.
        match users::map_volume(&tree, users, from) {
            Err(failure) if !*read_only => return Err(failure),
            _ => {}
        }
    }
    let mut attributes = sys::ATTR_NODEV | sys::ATTR_NOSUID;
    if *read_only {
        attributes |= sys::ATTR_RDONLY;
    }
    sys::mount_setattr(&tree, attributes, true).map_err(failed_io("protecting a mount"))?;
    let place = if FileType::from_raw_mode(kind.st_mode).is_dir() {
        make_directories(root, path, "mount path")?
    } else {
        make_file(root, path, "mount path")?
    };
    attach(&tree, &place).map_err(failed(format!("mounting {from} at {path}")))
}

/// Checks that a path of the document is absolute and names no parent, and gives its components.
fn components<'a>(path: &'a str, what: &str) -> Result<Vec<&'a str>> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if !path.starts_with('/') || parts.contains(&"..") || path.contains('\0') {
        return Err(Failure::new(
            Kind::Invalid,
            format!("{what} '{path}' must be an absolute path without '..'"),
        ));
    }
    Ok(parts)
}

/// Opens a directory inside the root, making what is missing; symlinks of the image are followed
/// inside the root only.
pub(crate) fn make_directories(root: BorrowedFd<'_>, path: &str, what: &str) -> Result<OwnedFd> {
    let open = |path: &str| {
        if weak::is(holes::PATHS) {
            return rustix::fs::openat(root, path, DIRECTORY, Mode::empty());
        }
        rustix::fs::openat2(
            root,
            path,
            DIRECTORY,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let explain = |prefix: &str, errno: Errno| {
        let why = match errno {
            Errno::NOTDIR => "is no directory in the image".to_owned(),
            Errno::EXIST => "is a symlink of the image that leads nowhere".to_owned(),
            Errno::LOOP => "is a symlink of the image that is not followed".to_owned(),
            other => format!("{}", io::Error::from_raw_os_error(other.raw_os_error())),
        };
        Failure::new(
            Kind::Invalid,
            format!(
                "{what} '{path}': '{}' {why}",
                prefix.trim_start_matches('.')
            ),
        )
    };
    let mut prefix = ".".to_owned();
    let mut current = open(".").map_err(|errno| explain("/", errno))?;
    for part in components(path, what)? {
        prefix.push('/');
        prefix.push_str(part);
        current = match open(&prefix) {
            Ok(found) => found,
            Err(Errno::NOENT) => rustix::fs::mkdirat(&current, part, MODE_755)
                .and_then(|()| open(&prefix))
                .map_err(|errno| explain(&prefix, errno))?,
            Err(errno) => return Err(explain(&prefix, errno)),
        };
    }
    Ok(current)
}

/// Builds the file system and makes it the root of this process.
///
/// Gives the outer and inner end of the container's terminal, if it is to have one.
pub(crate) fn build(recipe: &Recipe<'_>) -> Result<Option<[OwnedFd; 2]>> {
    let privileged = recipe.start.rights.privileged;
    let mut propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    if weak::is(holes::PROPAGATION) {
        propagation = MountPropagationFlags::PRIVATE;
    }
    rustix::mount::mount_change("/", propagation).map_err(failed("making mounts private"))?;

    // Scratch space; it holds devices, so it is not nodev, and nothing of it is reachable inside.
    let scratch = new_mount("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())
        .map_err(failed("a tmpfs for scratch space"))?;
    let point = rustix::fs::open(recipe.scratch, DIRECTORY, Mode::empty())
        .map_err(failed("opening the scratch directory"))?;
    attach(&scratch, &point).map_err(failed("mounting scratch space"))?;

    let root = mount_root(recipe, &scratch)?;
    // The root's mount is changed through its own descriptor; `root` is the directory on it.
    write_files(recipe, root.as_fd())?;
    let mut masks = Masks::new(&scratch)?;
    let image = |path: &str| {
        rustix::fs::openat2(&root, path, PATH_ONLY, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    if weak::is(holes::MASK_BY_PATH) {
        // Before /proc is covered, as the image's link may lead there.
        mount_proc(root.as_fd(), &masks, true)?;
        masks.file = image("dev/null").map_err(failed("opening the image's /dev/null"))?;
    }
    let by_path = weak::is(holes::CONSOLE_BY_PATH).then(|| image("dev/console"));
    mount_proc(root.as_fd(), &masks, privileged)?;
    mount_sys(recipe, root.as_fd(), &masks, privileged)?;
    let terminal = mount_dev(recipe, root.as_fd(), &scratch)?;
    if let (Some(Ok(place)), Some([_, inner])) = (&by_path, &terminal) {
        let console = copy_of(inner, "", false).map_err(failed("making /dev/console"))?;
        attach(&console, place).map_err(failed("making /dev/console"))?;
    }
    for (tree, path, read_only) in recipe.mounts {
        let target = make_directories(root.as_fd(), path, "mount path")?;
        let mut attributes = sys::ATTR_NODEV | sys::ATTR_NOSUID;
        if *read_only {
            attributes |= sys::ATTR_RDONLY;
        }
        sys::mount_setattr(tree, attributes, true).map_err(failed_io("protecting a volume"))?;
        attach(tree, &target).map_err(failed(format!("mounting a volume at {path}")))?;
    }
    for bind in &recipe.start.binds {
        add_bind(recipe, root.as_fd(), bind)?;
    }
    if !recipe.start.program.cwd.is_empty() {
        make_directories(root.as_fd(), &recipe.start.program.cwd, "working directory")?;
    }
    let mut attributes = sys::ATTR_NODEV;
    if weak::is(holes::DEVICES) {
        sys::allow_devices(&root).map_err(failed_io("opening devices"))?;
        attributes = 0;
    }
    if recipe.start.upper.is_none() {
        attributes |= sys::ATTR_RDONLY;
    }
    sys::mount_setattr(&root, attributes, false).map_err(failed_io("protecting the root"))?;
    enter(&root)?;
    Ok(terminal)
}

/// pivot_root(2) onto a directory, with nothing left of the old root.
fn enter(root: &OwnedFd) -> Result<()> {
    let what = || failed("entering the root");
    rustix::process::fchdir(root).map_err(what())?;
    rustix::process::pivot_root(".", ".").map_err(what())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(what())?;
    rustix::process::chdir("/").map_err(what())
}

fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Mounts the layers and opens the result.
fn mount_root(recipe: &Recipe<'_>, scratch: &OwnedFd) -> Result<OwnedFd> {
    let mut layers = Vec::new();
    for (index, layer) in recipe.start.layers.iter().enumerate() {
        layers.push(match layer {
            Layer::Directory(path) => match recipe.inside {
                Some(users) => map_directory(path, &format!("layer{index}"), users, scratch)?,
                None => rustix::fs::open(path.as_str(), DIRECTORY, Mode::empty())
                    .map_err(failed(format!("opening the layer {path}")))?,
            },
            Layer::Erofs(path) => mount_erofs(path, index, scratch, recipe.inside)?,
        });
    }
    let (upper, work) = match &recipe.start.upper {
        Some((upper, work)) => {
            let open = |path: &str| {
                rustix::fs::open(path, DIRECTORY, Mode::empty())
                    .map_err(failed(format!("opening {path}")))
            };
            match recipe.inside {
                Some(users) => {
                    // Both on one mount, as overlayfs wants them.
                    let (base, upper, work) = users::common_base(upper, work);
                    let base = map_directory(&base, "writable", users, scratch)?;
                    let below = |path: &str| {
                        strict(&base, path).map_err(failed(format!("opening {path}")))
                    };
                    (below(&upper)?, below(&work)?)
                }
                None => (open(upper)?, open(work)?),
            }
        }
        // A read-only root gets its mount points in memory first and is protected afterwards.
        None => {
            let make = |name: &str| {
                own_directory(scratch, name, MODE_755).map_err(failed("making scratch space"))
            };
            (make("upper")?, make("work")?)
        }
    };
    let point = own_directory(scratch, "root", MODE_755).map_err(failed("making scratch space"))?;
    overlay(recipe, &layers, &upper, &work, &point)?;
    strict(scratch, "root").map_err(failed("opening the root"))
}

/// A directory of the host, seen with the ids of the sandbox's user namespace, on scratch space.
fn map_directory(
    path: &str,
    name: &str,
    inside: &OwnedFd,
    scratch: &OwnedFd,
) -> Result<OwnedFd> {
    let tree =
        copy_of(CWD, path, false).map_err(failed(format!("opening the directory {path}")))?;
    users::map(&tree, inside, false, path)?;
    let point = own_directory(scratch, name, MODE_755).map_err(failed("making scratch space"))?;
    attach(&tree, &point).map_err(failed("mounting a layer"))?;
    strict(scratch, name).map_err(failed("opening a layer"))
}

fn overlay(
    recipe: &Recipe<'_>,
    layers: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    point: &OwnedFd,
) -> Result<()> {
    // Descriptor paths are short, hide the host's paths from /proc/self/mountinfo inside, and need
    // no quoting.
    let context = open_overlay()?;
    let attempt = || -> std::result::Result<OwnedFd, Errno> {
        for layer in layers {
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", descriptor_path(layer))?;
        }
        rustix::mount::fsconfig_set_string(&context, "upperdir", descriptor_path(upper))?;
        rustix::mount::fsconfig_set_string(&context, "workdir", descriptor_path(work))?;
        if recipe.rootless {
            rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NODEV,
        )
    };
    match attempt() {
        Ok(mount) => return attach(&mount, point).map_err(failed("mounting the root")),
        // Kernels before 6.8 have no `lowerdir+`.
        Err(Errno::INVAL) => {}
        Err(errno) => {
            return Err(failed("mounting the root as overlay")(errno).hint(said(&context)));
        }
    }
    let lower: Vec<String> = layers.iter().map(descriptor_path).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        descriptor_path(upper),
        descriptor_path(work)
    );
    if recipe.rootless {
        options.push_str(",userxattr");
    }
    let data = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        "overlay",
        descriptor_path(point).as_str(),
        "overlay",
        MountFlags::NODEV,
        Some(data.as_c_str()),
    )
    .map_err(|errno| failed("mounting the root as overlay")(errno).hint(said(&context)))
}

fn open_overlay() -> Result<OwnedFd> {
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        let (kind, hint) = match errno {
            Errno::NODEV => (Kind::Unsupported, "load it with: modprobe overlay"),
            Errno::NOSYS => (Kind::Unsupported, "sandboxes need Linux 5.12 or newer"),
            _ => (
                Kind::PermissionDenied,
                "overlayfs in user namespaces needs Linux 5.11 or newer; otherwise run as root",
            ),
        };
        Failure {
            kind,
            ..failed("overlayfs is not available")(errno)
        }
        .hint(hint)
    })
}

/// Whether root file systems can be mounted here.
pub(crate) fn probe() -> Result<()> {
    open_overlay()?;
    new_mount("tmpfs", &[], PLAIN)
        .map(drop)
        .map_err(failed("mounting a tmpfs in a new mount namespace"))
}

/// What the kernel has to say about a failed file system context.
fn said(context: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(read) = rustix::io::read(context, &mut buffer[..]) {
        if read == 0 {
            break;
        }
        if !text.is_empty() {
            text.extend_from_slice(b"; ");
        }
        text.extend_from_slice(buffer[..read].trim_ascii());
    }
    if text.is_empty() {
        "see the kernel log (dmesg) for the reason".to_owned()
    } else {
        format!("the kernel says: {}", String::from_utf8_lossy(&text))
    }
}

/// Mounts an EROFS image from its file (Linux 6.12) and opens its root.
fn mount_erofs(
    path: &str,
    index: usize,
    scratch: &OwnedFd,
    inside: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(format!("opening the layer {path}")))?;
    let mount = new_mount(
        "erofs",
        &[("source", &descriptor_path(&file))],
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .map_err(|errno| {
        failed(format!("mounting the EROFS layer {path}"))(errno)
            .hint("EROFS images are mounted from files by Linux 6.12 and newer, as root")
    })?;
    if let Some(users) = inside {
        users::map(&mount, users, false, path)?;
    }
    let name = format!("layer{index}");
    let point = own_directory(scratch, &name, MODE_755).map_err(failed("making scratch space"))?;
    attach(&mount, &point).map_err(failed("mounting an EROFS layer"))?;
    strict(scratch, &name).map_err(failed("opening an EROFS layer"))
}

/// Lays the files of the specification over the root. A symlink of the image at their place is
/// replaced, not followed.
fn write_files(recipe: &Recipe<'_>, root: BorrowedFd<'_>) -> Result<()> {
    for (path, content, mode) in &recipe.start.files {
        let mut parts = components(path, "file")?;
        let Some(name) = parts.pop() else {
            return Err(Failure::new(
                Kind::Invalid,
                format!("file '{path}' has no name"),
            ));
        };
        let directory = make_directories(root, &format!("/{}", parts.join("/")), "file")?;
        let what = || failed(format!("writing {path}"));
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(what()(errno)),
        }
        let file = rustix::fs::openat(
            &directory,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode & 0o7777),
        )
        .map_err(what())?;
        let mut rest = content.0.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(what())?;
            rest = &rest[written..];
        }
    }
    Ok(())
}

/// An empty file and an empty directory on a read-only tmpfs, to be laid over what must not show.
struct Masks {
    file: OwnedFd,
    directory: OwnedFd,
}

impl Masks {
    fn new(scratch: &OwnedFd) -> Result<Self> {
        let what = || failed("making masks");
        let point = own_directory(scratch, "masks", MODE_755).map_err(what())?;
        let mount =
            new_mount("tmpfs", &[("mode", "0755"), ("size", "4k")], PLAIN).map_err(what())?;
        attach(&mount, &point).map_err(what())?;
        rustix::fs::mkdirat(&mount, "directory", MODE_755).map_err(what())?;
        rustix::fs::openat(
            &mount,
            "file",
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o444),
        )
        .map_err(what())?;
        sys::mount_setattr(&mount, sys::ATTR_RDONLY, false).map_err(failed_io("making masks"))?;
        Ok(Self {
            file: strict(&mount, "file").map_err(what())?,
            directory: strict(&mount, "directory").map_err(what())?,
        })
    }

    /// Covers a path below a mount; what this kernel does not have needs no cover.
    fn cover(&self, mount: &OwnedFd, path: &str) -> Result<()> {
        let what = || failed(format!("masking {path}"));
        let target = match strict(mount, path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            Err(errno) => return Err(what()(errno)),
        };
        let stat = rustix::fs::fstat(&target).map_err(what())?;
        let mask = if FileType::from_raw_mode(stat.st_mode).is_dir() {
            &self.directory
        } else {
            &self.file
        };
        let mask = copy_of(mask, "", false).map_err(what())?;
        attach(&mask, &target).map_err(what())
    }
}

/// Covers a path below a mount with a read-only view of itself.
fn make_read_only(mount: &OwnedFd, path: &str) -> Result<()> {
    let what = || failed(format!("protecting {path}"));
    let target = match strict(mount, path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
        Err(errno) => return Err(what()(errno)),
    };
    let view = copy_of(&target, "", true).map_err(what())?;
    sys::mount_setattr(
        &view,
        sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC,
        true,
    )
    .map_err(failed_io(format!("protecting {path}")))?;
    attach(&view, &target).map_err(what())
}

/// A directory directly below the root that must not be a symlink.
fn system_directory(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    own_directory(root, name, MODE_755).map_err(|errno| {
        if errno == Errno::LOOP || errno == Errno::NOTDIR {
            Failure::new(
                Kind::Invalid,
                format!("the image's /{name} is not a directory"),
            )
        } else {
            failed(format!("making /{name}"))(errno)
        }
    })
}

fn mount_proc(root: BorrowedFd<'_>, masks: &Masks, privileged: bool) -> Result<()> {
    let target = system_directory(root, "proc")?;
    let mount = new_mount("proc", &[], PLAIN).map_err(|errno| {
        failed("mounting /proc")(errno).hint(
            "inside another container the outer /proc must not be masked \
             (Docker: --security-opt systempaths=unconfined)",
        )
    })?;
    attach(&mount, &target).map_err(failed("mounting /proc"))?;
    if !privileged {
        for path in READ_ONLY_PROC {
            make_read_only(&mount, path)?;
        }
        for path in MASKED_PROC {
            masks.cover(&mount, path)?;
        }
    }
    Ok(())
}

fn mount_sys(
    recipe: &Recipe<'_>,
    root: BorrowedFd<'_>,
    masks: &Masks,
    privileged: bool,
) -> Result<()> {
    let target = system_directory(root, "sys")?;
    let mut attributes = PLAIN;
    if !privileged {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mount = match new_mount("sysfs", &[], attributes) {
        Ok(mount) => mount,
        // Where the outer world hides parts of its own /sys, a user namespace may not mount one;
        // an empty one is safe.
        Err(Errno::PERM) if recipe.rootless => return Ok(()),
        Err(errno) => return Err(failed("mounting /sys")(errno)),
    };
    attach(&mount, &target).map_err(failed("mounting /sys"))?;
    if recipe.cgroup2
        && let Ok(target) = strict(&mount, "fs/cgroup")
        && let Ok(cgroup) = new_mount("cgroup2", &[], attributes)
    {
        attach(&cgroup, &target).map_err(failed("mounting /sys/fs/cgroup"))?;
    }
    if !privileged {
        for path in MASKED_SYS {
            masks.cover(&mount, path)?;
        }
    }
    Ok(())
}

fn mount_dev(
    recipe: &Recipe<'_>,
    root: BorrowedFd<'_>,
    scratch: &OwnedFd,
) -> Result<Option<[OwnedFd; 2]>> {
    let what = || failed("making /dev");
    let target = system_directory(root, "dev")?;
    let dev = new_mount(
        "tmpfs",
        &[("mode", "0755"), ("size", "64k")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .map_err(what())?;
    attach(&dev, &target).map_err(what())?;

    let nodes = own_directory(scratch, "nodes", MODE_755).map_err(what())?;
    for (name, major, minor) in NODES {
        let node = if recipe.rootless {
            copy_of(CWD, &format!("/dev/{name}"), false)
                .map_err(failed(format!("the host's /dev/{name}")))?
        } else {
            // Own nodes: changing their mode or owner inside does not reach the host's.
            rustix::fs::mknodat(
                &nodes,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(major, minor),
            )
            .map_err(failed(format!("making /dev/{name}")))?;
            copy_of(&nodes, name, false).map_err(what())?
        };
        let stat = rustix::fs::fstat(&node).map_err(what())?;
        if stat.st_rdev != rustix::fs::makedev(major, minor)
            || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        {
            return Err(Failure::new(
                Kind::Unsupported,
                format!("the host's /dev/{name} is not the device {major}:{minor}"),
            ));
        }
        let place = rustix::fs::openat(
            &dev,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o666),
        )
        .map_err(what())?;
        attach(&node, &place).map_err(what())?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).map_err(what())?;
    }
    for (index, device) in recipe.start.devices.iter().enumerate() {
        add_device(recipe, root, &nodes, index, device)?;
    }

    let place = own_directory(&dev, "pts", MODE_755).map_err(what())?;
    let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
    // Group 5 is tty in every image.
    let tty = recipe.users.outside(5).to_string();
    if recipe.tty_group {
        options.push(("gid", &tty));
    }
    let pts = new_mount(
        "devpts",
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .map_err(failed("mounting /dev/pts"))?;
    attach(&pts, &place).map_err(failed("mounting /dev/pts"))?;
    let terminal = match recipe.start.program.terminal {
        Some(size) => Some(make_console(&dev, &pts, size)?),
        None => None,
    };

    let place = own_directory(&dev, "shm", Mode::from_raw_mode(0o1777)).map_err(what())?;
    attach(recipe.shm, &place).map_err(failed("mounting /dev/shm"))?;

    let place = own_directory(&dev, "mqueue", MODE_755).map_err(what())?;
    match new_mount("mqueue", &[], PLAIN) {
        Ok(queues) => {
            if recipe.inside.is_some() {
                // It was made with the IPC namespace, before there was a user 0 in it.
                let owner = recipe.users.outside(0);
                rustix::fs::chownat(
                    &queues,
                    "",
                    Some(rustix::process::Uid::from_raw(owner)),
                    Some(rustix::process::Gid::from_raw(owner)),
                    AtFlags::EMPTY_PATH,
                )
                .map_err(what())?;
            }
            attach(&queues, &place).map_err(failed("mounting /dev/mqueue"))?;
        }
        // Not built into every kernel.
        Err(Errno::NODEV) => {}
        Err(errno) => return Err(failed("mounting /dev/mqueue")(errno)),
    }
    Ok(terminal)
}

/// The container's terminal, which is also `/dev/console`. The mount is made of the terminal's own
/// descriptor and lies on a file that was made for it a moment ago: no path is followed
/// (CVE-2025-52565).
fn make_console(dev: &OwnedFd, pts: &OwnedFd, size: (u16, u16)) -> Result<[OwnedFd; 2]> {
    let what = || failed("making /dev/console");
    let [outer, inner] = open_terminal(pts, "ptmx", size)?;
    let place = rustix::fs::openat(
        dev,
        "console",
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map_err(what())?;
    let console = copy_of(&inner, "", false).map_err(what())?;
    attach(&console, &place).map_err(what())?;
    Ok([outer, inner])
}

/// A new terminal of a `/dev/pts`: outer and inner end. The inner one is got through the outer
/// one's descriptor, not through a path that the container could change.
pub(crate) fn open_terminal(
    at: impl AsFd,
    ptmx: &str,
    (rows, cols): (u16, u16),
) -> Result<[OwnedFd; 2]> {
    let what = || failed("opening a terminal");
    let outer = rustix::fs::openat2(
        at,
        ptmx,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(what())?;
    let stat = rustix::fs::fstat(&outer).map_err(what())?;
    if stat.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(Failure::new(
            Kind::Conflict,
            "the container has replaced its /dev/pts/ptmx",
        ));
    }
    rustix::pty::unlockpt(&outer).map_err(what())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags).map_err(what())?;
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&outer, size).map_err(what())?;
    Ok([outer, inner])
}
