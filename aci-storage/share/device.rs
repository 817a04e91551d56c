//! FUSE's device: the kernel's greeting, and further descriptors of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Opens the device, of nothing yet.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/fuse", flags, Mode::empty())?)
}

/// Reads the kernel's first message on a mount.
pub(crate) fn greeting(device: &OwnedFd) -> io::Result<Vec<u8>> {
    // The kernel wants room for more than it says.
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rustix::io::read(device, buffer.as_mut_slice()) {
            Ok(got) => {
                buffer.truncate(got);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)`.
const CLONE: libc::Ioctl = 0x8004_E500_u32 as libc::Ioctl;

/// A further descriptor by which requests of the same mount are read. What was read from it and not
/// answered fails when it is closed, whoever holds the others.
pub(crate) fn further(device: &OwnedFd) -> io::Result<OwnedFd> {
    let further = open()?;
    let mut of = device.as_raw_fd().cast_unsigned();
    // SAFETY: the kernel reads one u32 from the pointer, which is valid during the call; both
    // descriptors are open.
    let done = unsafe { libc::ioctl(further.as_raw_fd(), CLONE, &raw mut of) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(further)
}

/// Lets a descriptor's number stand for another file from now on.
pub(crate) fn replace(number: BorrowedFd<'_>, by: &OwnedFd) -> io::Result<()> {
    let (by, number) = (by.as_fd().as_raw_fd(), number.as_raw_fd());
    // SAFETY: both numbers are of open descriptors; the owner of `number` goes on to own it.
    let done = unsafe { libc::dup3(by, number, libc::O_CLOEXEC) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
