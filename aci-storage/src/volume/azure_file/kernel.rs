//! Shares mounted by the kernel's own driver, cifs.
//!
//! The key goes to the kernel by `fsconfig`, so no argument list has it, and cifs shows none in the
//! mount table. A mount belongs to no process: there is no share server.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
    move_mount,
};

use super::wire::{Cache, Cause, Config, Failure, Password};

/// Whether this kernel mounts shares for this user; why not, if not. Where cifs is a module, asking
/// loads it.
pub(super) fn probe() -> Result<(), String> {
    match fsopen("cifs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok(()),
        Err(Errno::NODEV) => Err("this kernel has no cifs".to_owned()),
        Err(Errno::PERM) => Err("only root may mount by the kernel's cifs".to_owned()),
        Err(errno) => Err(format!("the kernel's cifs cannot be used: {errno}")),
    }
}

/// Whether the kernel's driver has a share mounted there. Asks nothing of the server.
pub(super) fn is_mounted(mountpoint: &Path) -> bool {
    // By the mount table: a dead server would hold up statfs.
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    is_listed(&table, mountpoint, &[b"cifs", b"smb3"])
}

/// Whether a mount table lists a mount of one of these kinds there.
pub(super) fn is_listed(table: &[u8], mountpoint: &Path, kinds: &[&[u8]]) -> bool {
    let mut wanted = Vec::new();
    for byte in mountpoint.as_os_str().as_encoded_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => wanted.extend(format!("\\{byte:03o}").bytes()),
            _ => wanted.push(*byte),
        }
    }
    table.split(|byte| *byte == b'\n').any(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let there = words.nth(4) == Some(wanted.as_slice());
        // Behind a dash, after options of which there may be any number.
        let kind = words.skip_while(|word| *word != b"-").nth(1);
        there && kind.is_some_and(|kind| kinds.contains(&kind))
    })
}

/// One thing that cifs is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Flag(&'static str),
    Text(&'static str, String),
}

/// All that cifs is told about a share but the key, as ACI's own mounts have it.
pub(super) fn parameters(config: &Config, address: SocketAddr) -> Vec<Parameter> {
    let options = &config.options;
    let text = |name, value: String| Parameter::Text(name, value);
    let seconds = |milliseconds: u64| milliseconds.div_ceil(1000).clamp(1, 600).to_string();
    let mut all = vec![
        text("source", format!("//{}/{}", config.host, config.share)),
        text("ip", address.ip().to_string()),
        text("port", config.port.to_string()),
        text("username", config.user.clone()),
        text("vers", "3.1.1".to_owned()),
        Parameter::Flag("seal"),
        // A connection of its own: what happens to one group's is nothing to another's.
        Parameter::Flag("nosharesock"),
        text("uid", options.uid.to_string()),
        text("gid", options.gid.to_string()),
        Parameter::Flag("forceuid"),
        Parameter::Flag("forcegid"),
        text("file_mode", format!("0{:o}", options.file_mode)),
        text("dir_mode", format!("0{:o}", options.dir_mode)),
        Parameter::Flag("soft"),
        Parameter::Flag("nounix"),
        Parameter::Flag("serverino"),
        Parameter::Flag("mapposix"),
        text("rsize", "1048576".to_owned()),
        text("wsize", "1048576".to_owned()),
        text("echo_interval", seconds(options.silence_ms)),
        text("actimeo", (options.actimeo_ms / 1000).to_string()),
        text(
            "cache",
            match options.cache {
                // cifs writes behind by itself, as its leases let it.
                Cache::Strict => "strict",
                Cache::Through | Cache::None => "none",
            }
            .to_owned(),
        ),
    ];
    for (wanted, flag) in [
        (options.nobrl, "nobrl"),
        (options.mfsymlinks, "mfsymlinks"),
        (config.read_only, "ro"),
    ] {
        if wanted {
            all.push(Parameter::Flag(flag));
        }
    }
    all
}

fn failure(cause: Cause, message: String) -> Failure {
    Failure { cause, message }
}

/// What cifs' refusal means. It answers error numbers only.
fn refusal(errno: Errno) -> Failure {
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::KEYREJECTED | Errno::KEYEXPIRED => failure(
            Cause::Denied,
            "the server does not accept the account and its key".to_owned(),
        ),
        Errno::NOENT | Errno::NXIO => failure(Cause::NoShare, "there is no such share".to_owned()),
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => failure(
            Cause::Insecure,
            "the server offers no encryption, or no SMB 3.1.1".to_owned(),
        ),
        Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::CONNREFUSED | Errno::TIMEDOUT => failure(
            Cause::Unreachable,
            format!("the server does not answer: {errno}"),
        ),
        other => failure(
            Cause::Protocol,
            format!("the kernel's cifs cannot mount it: {other}"),
        ),
    }
}

/// Where the server is; connecting once first keeps to the time that the kernel would exceed.
fn address(config: &Config) -> Result<SocketAddr, Failure> {
    let place = format!("{}:{}", config.host, config.port);
    let refused = |error: io::Error| {
        failure(
            Cause::Unreachable,
            format!("cannot connect to '{place}': {error}"),
        )
    };
    let patience = Duration::from_millis(config.options.connect_ms.max(1));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let all = (config.host.as_str(), config.port).to_socket_addrs();
    for address in all.map_err(refused)? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(refused(last))
}

/// Mounts a share. Blocks.
pub(super) fn mount(config: &Config) -> Result<(), Failure> {
    let address = address(config)?;
    let host = |errno: Errno| {
        failure(
            Cause::Host,
            format!("the kernel's cifs cannot be told what to mount: {errno}"),
        )
    };
    let context = fsopen("cifs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(host)?;
    for parameter in parameters(config, address) {
        match &parameter {
            Parameter::Flag(name) => fsconfig_set_flag(&context, *name),
            Parameter::Text(name, value) => fsconfig_set_string(&context, *name, value.as_str()),
        }
        .map_err(|errno| {
            failure(
                Cause::Host,
                format!("the kernel's cifs does not take {parameter:?}: {errno}"),
            )
        })?;
    }
    fsconfig_set_string(&context, "password", config.password.expose()).map_err(host)?;
    fsconfig_create(&context).map_err(refusal)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if config.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let detached = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refusal)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&detached, "", CWD, &config.mountpoint, flags).map_err(host)
}

/// Gives a mount a new key, for its next connection (Linux 6.10 or later).
pub(super) fn rotate(mountpoint: &Path, password: &Password) -> io::Result<()> {
    let context = fspick(CWD, mountpoint, FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_string(&context, "password", password.expose())?;
    Ok(fsconfig_reconfigure(&context)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::volume::azure_file::wire::Options;

    #[test]
    fn the_mount_table_tells_mounts_of_cifs_from_others() {
        let table = b"1 2 0:3 / /a\\040b rw,nosuid shared:1 - cifs //h/s rw\n\
            2 2 0:4 / /c rw - fuse.aci-azurefile //h/s rw\n3 2 0:5 / /d rw - smb3 //h/s rw\n";
        for (path, listed) in [("/a b", true), ("/c", false), ("/d", true), ("/a", false)] {
            let found = is_listed(table, Path::new(path), &[b"cifs", b"smb3"]);
            assert_eq!(found, listed, "{path}");
        }
        let ours: &[&[u8]] = &[b"fuse.aci-azurefile"];
        assert!(is_listed(table, Path::new("/c"), ours));
        assert!(!is_listed(table, Path::new("/d"), ours));
    }

    #[test]
    fn what_cifs_is_told_has_aci_s_values_and_no_key() {
        let config = |options| Config {
            mountpoint: "/m".into(),
            control: "/c".into(),
            host: "shop.file.core.windows.net".to_owned(),
            port: 445,
            share: "files".to_owned(),
            user: "shop".to_owned(),
            password: Password::new("k3y-of-it"),
            read_only: true,
            options,
        };
        let address = "10.0.0.4:445".parse().unwrap();
        let told = parameters(&config(Options::default()), address);
        let text = |name, value: &str| Parameter::Text(name, value.to_owned());
        for wanted in [
            text("source", "//shop.file.core.windows.net/files"),
            text("ip", "10.0.0.4"),
            text("file_mode", "0777"),
            text("actimeo", "1"),
            text("cache", "strict"),
            Parameter::Flag("seal"),
            Parameter::Flag("ro"),
        ] {
            assert!(told.contains(&wanted), "{wanted:?} is missing: {told:?}");
        }
        assert!(!format!("{told:?}").contains("k3y"), "{told:?}");
        assert!(!told.contains(&Parameter::Flag("nobrl")));
        let told = parameters(
            &config(Options {
                nobrl: true,
                mfsymlinks: true,
                cache: Cache::None,
                ..Options::default()
            }),
            address,
        );
        for wanted in [
            Parameter::Flag("nobrl"),
            Parameter::Flag("mfsymlinks"),
            text("cache", "none"),
        ] {
            assert!(told.contains(&wanted), "{wanted:?} is missing: {told:?}");
        }
    }
}
