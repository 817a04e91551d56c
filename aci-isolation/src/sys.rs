//! The system calls of the host library that neither std nor rustix offers as needed, and all of
//! its unsafe code.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// kill(2).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A memory file that may be executed (memfd_create(2)); MFD_EXEC is unknown before Linux 6.3.
pub(crate) fn executable_memory() -> io::Result<OwnedFd> {
    const MFD_EXEC: libc::c_uint = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    for flags in [flags | MFD_EXEC, flags] {
        // SAFETY: a NUL-terminated name and plain flags.
        let fd = unsafe { libc::memfd_create(c"aci-agent".as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: a new descriptor that nobody else owns.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Forbids every change of a memory file, its mode included (fcntl(2), F_ADD_SEALS).
pub(crate) fn seal(memory: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const F_SEAL_EXEC: libc::c_int = 0x20;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    for seals in [seals | F_SEAL_EXEC, seals] {
        // SAFETY: plain numbers on an open descriptor.
        if unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, seals) } == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

/// Reaps a child of this process if that is what it was (an agent is nobody's child unless this
/// process adopts orphans, as pid 1 and subreapers do).
pub(crate) fn reap(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

/// Makes a tap in this thread's network namespace that stays when it is closed, and that processes of
/// a user may open (Linux: Documentation/networking/tuntap.rst).
#[cfg(feature = "microvm")]
pub(crate) fn lasting_tap(device: &std::fs::File, name: &str, owner: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
    const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb_u32 as libc::Ioctl;
    const TUNSETOWNER: libc::Ioctl = 0x4004_54cc_u32 as libc::Ioctl;
    // SAFETY: all zeroes is a value of this structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let done = |code: libc::c_int| match code {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: an open descriptor and a structure that lives as long as the call.
    done(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    let owner = libc::c_ulong::from(owner);
    // SAFETY: both take plain numbers.
    done(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOWNER, owner) })?;
    // SAFETY: as above.
    done(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETPERSIST, 1 as libc::c_ulong) })
}

/// A network namespace of its own for this thread (unshare(2)).
#[cfg(all(test, feature = "microvm"))]
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: a plain number; nothing of memory or descriptors is unshared.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
