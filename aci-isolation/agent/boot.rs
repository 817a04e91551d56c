//! From the first process that the host starts to a running agent.
//!
//! The first process stays in the host's namespaces, makes the agent as its child in new ones,
//! sets the child's user mapping (only a parent may call newuidmap) and ends, so that the host
//! reaps it at once and the agent belongs to nobody.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use crate::cgroup::tree;
use crate::protocol::{
    Boot, Bounds, CgroupPlan, Failure, Identity, Kind, Purpose, Reply, Source, Users, VERSION,
    frame, socket,
};
use crate::root::failed;
use crate::server::Server;
use crate::sys::{self, Forked};
use crate::{files, holes, root, server, users, weak};

fn io_failure(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
            _ => Kind::Internal,
        };
        Failure::new(kind, format!("{what}: {error}"))
    }
}

/// A new agent's way: never returns.
pub(crate) fn main() -> ! {
    let host = sys::take_stdin();
    let _ = sys::close_from(3, false);
    let code = match start(&host) {
        Ok(()) => 0,
        Err(failure) => {
            say(&host, &Reply::Failed(failure), &[]);
            1
        }
    };
    std::process::exit(code)
}

/// Sends one message in full; the socket is a blocking one.
fn say(host: &OwnedFd, reply: &Reply, fds: &[&OwnedFd]) {
    let count = u8::try_from(fds.len()).unwrap_or(0);
    let Ok(bytes) = frame::encode(reply, count) else {
        return;
    };
    let mut fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match socket::send(host, rest, &fds) {
            Ok(sent) => {
                rest = &rest[sent..];
                fds.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The next message of the host; `None` if it has gone away.
fn hear<T: DeserializeOwned>(
    host: &OwnedFd,
    decoder: &mut frame::Decoder,
) -> Result<Option<T>, Failure> {
    let mut fds = VecDeque::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match decoder.next::<T>() {
            Ok(Some((message, _))) => {
                zeroize::Zeroize::zeroize(&mut buffer);
                return Ok(Some(message));
            }
            Ok(None) => {}
            Err(malformed) => return Err(Failure::new(Kind::Internal, malformed.to_string())),
        }
        match socket::receive(host, &mut buffer, &mut fds) {
            Ok(0) => return Ok(None),
            Ok(read) => decoder.push(&buffer[..read]),
            Err(error) => return Err(io_failure("reading from the host")(error)),
        }
    }
}

fn start(host: &OwnedFd) -> Result<(), Failure> {
    let mut decoder = frame::Decoder::default();
    let Some(boot) = hear::<Boot>(host, &mut decoder)? else {
        return Ok(());
    };
    if boot.version != VERSION {
        return Err(Failure::new(
            Kind::Unsupported,
            format!(
                "the agent speaks version {VERSION}, the host {}",
                boot.version
            ),
        ));
    }
    if let Some(plan) = &boot.cgroup
        && !tree::has_driver(plan.driver)
    {
        return Err(Failure::new(
            Kind::Unsupported,
            "the agent was built without the driver of cgroups that was chosen",
        )
        .hint("ACI_AGENT must name an agent that was built with the same features"));
    }
    weak::set(boot.holes);
    let _ = rustix::process::setsid();
    sys::reset_signals();
    rustix::process::umask(Mode::empty());
    let _ = rustix::process::chdir("/");

    // As the first process of a pid namespace of its own the agent takes everything with it when
    // it ends, and may switch between its containers' pid namespaces without being root.
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let inside = match boot.users {
        Users::Mapped { first, count } => Some(users::enter_group(first, count)?),
        _ => {
            namespaces |= SHARED;
            None
        }
    };
    if boot.users.rootless() {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let (mapped_read, mapped_write) = io::pipe().map_err(io_failure("a pipe"))?;
    match in_agents_cgroup(boot.cgroup.as_ref(), namespaces)? {
        Forked::Child => {
            drop(mapped_write);
            let mut byte = [0; 1];
            if { &mapped_read }.read_exact(&mut byte).is_err() {
                // The parent has said why.
                sys::exit_now(1);
            }
            drop(mapped_read);
            if boot.purpose == Purpose::Probe {
                let reply = match root::probe()
                    .and_then(|()| inside.as_ref().map_or(Ok(()), users::probe))
                {
                    Ok(()) => Reply::Done,
                    Err(failure) => Reply::Failed(failure),
                };
                say(host, &reply, &[]);
                sys::exit_now(0);
            }
            let failed = |failure| -> ! {
                say(host, &Reply::Failed(failure), &[]);
                sys::exit_now(1)
            };
            if let Err(failure) = prepare(&boot, inside.is_some()) {
                failed(failure);
            }
            if boot.purpose == Purpose::Spare {
                match sys::own_pidfd() {
                    Ok(own) => say(host, &Reply::Done, &[&own]),
                    Err(error) => failed(io_failure("opening the agent's pidfd")(error)),
                }
            }
            let identity = match hear::<Identity>(host, &mut decoder) {
                Ok(Some(identity)) => identity,
                // Nobody needs it any more.
                Ok(None) => sys::exit_now(0),
                Err(failure) => failed(failure),
            };
            drop(decoder);
            let traces = boot.cgroup.clone().map(|plan| (plan, identity.id.clone()));
            match become_agent(boot, &identity, inside) {
                Ok((server, network)) => {
                    drop(identity);
                    let hello = Reply::Hello {
                        version: VERSION,
                        id: server.id().to_owned(),
                    };
                    say(host, &hello, &[&network]);
                    drop(network);
                    server.serve(host)
                }
                Err(failure) => {
                    if let Some((plan, id)) = traces {
                        let _ = tree::remove(&plan, &id);
                    }
                    failed(failure)
                }
            }
        }
        Forked::Parent { pid, .. } => {
            drop(mapped_read);
            map_users(pid, &boot.users)?;
            (&mapped_write)
                .write_all(b"+")
                .map_err(io_failure("starting the agent"))
        }
    }
}

/// Makes the agent in the cgroup of all agents: in v1 hierarchies this process joins first and the
/// agent inherits, in the v2 hierarchy it is born there. The last agent of another program may
/// remove the cgroup in between; once this process is in, nobody can.
fn in_agents_cgroup(plan: Option<&CgroupPlan>, namespaces: i32) -> Result<Forked, Failure> {
    let what = || io_failure("making the agents' cgroup");
    let mut tries = 0;
    loop {
        let joined = plan.map_or(Ok(None), |plan| {
            tree::create(plan, tree::AGENTS, &Bounds::default(), true, false)?;
            let door = tree::door(plan, tree::AGENTS)?;
            door.join().map(|()| Some(door))
        });
        let gone = |error: &io::Error| {
            let gone = error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV);
            gone && tries < 100
        };
        match joined {
            Err(error) if gone(&error) => {}
            Err(error) => return Err(what()(error)),
            Ok(door) => match sys::clone(namespaces, tree::birth(door.as_ref())) {
                Err(error) if door.is_some() && gone(&error) => {}
                Err(error) => return Err(explain_namespaces(error)),
                Ok(forked) => return Ok(forked),
            },
        }
        tries += 1;
    }
}

/// The namespaces that all containers of a group share.
pub(crate) const SHARED: i32 =
    libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

pub(crate) fn explain_namespaces(error: io::Error) -> Failure {
    let hint = match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            "the limit of namespaces is used up: raise the sysctls user.max_user_namespaces, \
             user.max_net_namespaces and user.max_mnt_namespaces"
        }
        Some(libc::EPERM) => {
            "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, \
             user.max_user_namespaces above 0 and (Ubuntu) \
             kernel.apparmor_restrict_unprivileged_userns=0"
        }
        Some(libc::EINVAL) => "the kernel lacks a namespace kind (user, pid, net, ipc, uts, mount)",
        _ => "see the kernel log (dmesg) for the reason",
    };
    io_failure("making namespaces")(error).hint(hint)
}

fn map_users(pid: i32, users: &Users) -> Result<(), Failure> {
    let write = |file: &str, text: &str| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(io_failure(format!("writing /proc/{pid}/{file}")))
    };
    let helper = |program: &str, own: u32, range: &(u32, u32)| -> Result<(), Failure> {
        let (own, first, count) = (own.to_string(), range.0.to_string(), range.1.to_string());
        let outcome = Command::new(program)
            .args([&pid.to_string(), "0", &own, "1", "1", &first, &count])
            .env(
                "PATH",
                "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            )
            .output()
            .map_err(io_failure(program))?;
        if outcome.status.success() {
            return Ok(());
        }
        Err(Failure::new(
            Kind::PermissionDenied,
            format!(
                "{program}: {}",
                String::from_utf8_lossy(&outcome.stderr).trim()
            ),
        )
        .hint("check this user's lines in /etc/subuid and /etc/subgid"))
    };
    match users {
        Users::Host | Users::Mapped { .. } => Ok(()),
        Users::Single { uid, gid } => {
            // user_namespaces(7): a group map may be written without rights only after this.
            write("setgroups", "deny")?;
            write("uid_map", &format!("0 {uid} 1"))?;
            write("gid_map", &format!("0 {gid} 1"))
        }
        Users::Ranges {
            uid,
            gid,
            uids,
            gids,
        } => {
            helper("newuidmap", *uid, uids)?;
            helper("newgidmap", *gid, gids)
        }
    }
}

/// What needs no identity; runs in the sandbox's namespaces.
fn prepare(boot: &Boot, mapped: bool) -> Result<(), Failure> {
    sys::set_name(c"aci-agent");
    let _ = rustix::process::setsid();
    if boot.users.rootless() {
        // The caller's id is user 0 here; take on all its rights.
        let groups: Option<&[u32]> = match boot.users {
            Users::Ranges { .. } => Some(&[]),
            _ => None,
        };
        sys::become_user(0, 0, groups).map_err(io_failure("becoming the namespace's root"))?;
    }
    if mapped {
        // New files shall belong to the group's root, at the will of a process with all rights.
        sys::keep_rights_over_ids().map_err(io_failure("keeping rights"))?;
    }
    // What the memory holds (secrets) is nobody's business. Its copies in the containers' inits
    // and in processes before their exec are protected by the same: only CAP_SYS_PTRACE in the
    // user namespace in which the agent was executed, the host's, gets at them.
    sys::set_dumpable(weak::is(holes::AGENT_OPEN)).map_err(io_failure("protecting memory"))?;
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit {
            current: Some(0),
            maximum: None,
        },
    );
    // Mounts that the host removes must go away here too; nothing goes the other way.
    rustix::mount::mount_change(
        "/",
        if weak::is(holes::PROPAGATION) {
            MountPropagationFlags::PRIVATE
        } else {
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
        },
    )
    .map_err(failed("separating mounts"))?;
    set_up_network(boot)
}

/// Becomes the agent of one sandbox.
fn become_agent(
    boot: Boot,
    identity: &Identity,
    users: Option<OwnedFd>,
) -> Result<(Server, OwnedFd), Failure> {
    if boot.purpose == Purpose::Spare {
        // What it has to say before it ends shall be found with the sandbox.
        let _ = std::fs::File::options()
            .create(true)
            .append(true)
            .open(Path::new(&identity.dir).join("agent.err"))
            .and_then(|errors| sys::put(&errors, 2));
    }
    sys::show_argument(&identity.id);
    rustix::system::sethostname(identity.hostname.as_bytes())
        .map_err(failed("setting the host name"))?;
    if let Some(plan) = &boot.cgroup {
        tree::create(plan, &identity.id, &identity.bounds, false, false)
            .map_err(io_failure("making the group's cgroup"))?;
    }
    let (volumes, shm) = {
        let _owner = users::Owner::new(&boot.users);
        make_volumes(identity, users.as_ref())?
    };
    let listener = listen(identity)?;
    let network = rustix::fs::open(
        "/proc/self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("opening the network namespace"))?;
    let again = network
        .try_clone()
        .map_err(io_failure("opening the network namespace"))?;
    let server = Server::new(server::Parts {
        id: identity.id.clone(),
        dir: identity.dir.clone(),
        users: boot.users,
        inside: users,
        cgroup: boot.cgroup,
        volumes,
        shm,
        listener,
        network,
    })
    .map_err(io_failure("starting the agent"))?;
    record(identity)?;
    Ok((server, again))
}

fn set_up_network(boot: &Boot) -> Result<(), Failure> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed("opening a socket"))?;
    sys::loopback_up(&socket).map_err(io_failure("bringing up loopback"))?;
    // Docker's sysctls: low ports and ping need no rights inside. Not every kernel lets a user
    // namespace set them; nothing depends on it.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let groups = match &boot.users {
        Users::Host => "0 2147483647".to_owned(),
        Users::Mapped { first, count } => format!("{first} {}", first + (count - 1)),
        Users::Single { .. } => "0 0".to_owned(),
        Users::Ranges { gids, .. } => format!("0 {}", gids.1),
    };
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups);
    Ok(())
}

/// Where the agent sees a volume.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
    /// Whether it is of files, and if so of secret ones.
    pub(crate) files: Option<bool>,
}

/// The sandbox's volumes by name.
pub(crate) type Volumes = BTreeMap<String, Place>;

/// Mounts the volumes once, where only the agent's mount namespace has them.
fn make_volumes(identity: &Identity, users: Option<&OwnedFd>) -> Result<(Volumes, PathBuf), Failure> {
    let base = Path::new(&identity.dir).join("mnt");
    let what = || io_failure("making places for volumes");
    let private = |path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    };
    private(&base).map_err(what())?;
    let mount = root::new_mount(
        "tmpfs",
        &[("mode", "0700")],
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .map_err(failed("a tmpfs for volumes"))?;
    mount_at(&mount, &base)?;
    let scratch = base.join("scratch");
    private(&scratch).map_err(what())?;
    let shm = base.join("shm");
    private(&shm).map_err(what())?;
    let memory = root::new_mount(
        "tmpfs",
        &[("mode", "1777"), ("size", "67108864")],
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .map_err(failed("a tmpfs for /dev/shm"))?;
    mount_at(&memory, &shm)?;

    let mut volumes = Volumes::new();
    for (index, volume) in identity.volumes.iter().enumerate() {
        let place = base.join(index.to_string());
        private(&place).map_err(what())?;
        let name = &volume.name;
        match &volume.source {
            Source::Directory(path) => {
                let copy = root::copy_of(CWD, path, true).map_err(|errno| {
                    failed(format!("the directory {path} of volume '{name}'"))(errno)
                })?;
                if let Some(users) = users {
                    users::map_volume(&copy, users, name)?;
                }
                mount_at(&copy, &place)?;
            }
            Source::Memory(size) => {
                let size = size.map(|bytes| bytes.to_string());
                let mut options = vec![("mode", "0777")];
                if let Some(size) = &size {
                    options.push(("size", size));
                }
                let memory = root::new_mount(
                    "tmpfs",
                    &options,
                    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
                )
                .map_err(failed(format!("a tmpfs for volume '{name}'")))?;
                mount_at(&memory, &place)?;
            }
            Source::Files(secret, files) => {
                files::make(&place, name, *secret, files)?;
            }
        }
        let files = match &volume.source {
            Source::Files(secret, _) => Some(*secret),
            Source::Directory(_) | Source::Memory(_) => None,
        };
        let read_only = volume.read_only;
        volumes.insert(
            name.clone(),
            Place {
                path: place,
                read_only,
                files,
            },
        );
    }
    Ok((volumes, shm))
}

pub(crate) fn mount_at(mount: &OwnedFd, place: &Path) -> Result<(), Failure> {
    let what = || failed(format!("mounting {}", place.display()));
    let point = rustix::fs::open(
        place,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .map_err(what())?;
    root::attach(mount, &point).map_err(what())
}

/// Opens the socket that hosts connect to.
fn listen(identity: &Identity) -> Result<OwnedFd, Failure> {
    let what = || failed("opening the agent's socket");
    let directory = rustix::fs::open(
        identity.dir.as_str(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(what())?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(what())?;
    // Socket paths are limited to 107 bytes; this one is short whatever the directory's is.
    let address = SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/agent.sock",
        std::os::fd::AsRawFd::as_raw_fd(&directory)
    ))
    .map_err(what())?;
    rustix::net::bind(&socket, &address).map_err(what())?;
    rustix::fs::chmodat(
        &directory,
        "agent.sock",
        Mode::from_raw_mode(0o600),
        rustix::fs::AtFlags::empty(),
    )
    .map_err(what())?;
    rustix::net::listen(&socket, 1024).map_err(what())?;
    Ok(socket)
}

/// Leaves who the agent is for later hosts: a file that appears as a whole.
fn record(identity: &Identity) -> Result<(), Failure> {
    let what = || io_failure("recording the agent");
    // The mounted /proc is the host's, so this is the pid that hosts see.
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(what())?;
    let pid = stat.split(' ').next().unwrap_or_default();
    let started = crate::procfs::start_time(&stat).unwrap_or(0);
    let system = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = format!("{VERSION} {pid} {started} {}\n", system.trim());
    let directory = Path::new(&identity.dir);
    std::fs::write(directory.join("agent.new"), text).map_err(what())?;
    std::fs::rename(directory.join("agent.new"), directory.join("agent")).map_err(what())
}
