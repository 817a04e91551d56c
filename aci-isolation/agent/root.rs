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

mod layers;
mod system;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::protocol::{Device, Failure, Kind, Start, Upper, Users};
use crate::{holes, sys, users, weak};

pub(crate) use layers::{erofs, probe};
use layers::mount_root;
pub(crate) use system::open_terminal;
use system::{Masks, mount_dev, mount_proc, mount_sys};

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
    if recipe.start.upper == Upper::None {
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
