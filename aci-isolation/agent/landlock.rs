//! A second wall around a container's own program where the kernel has Landlock (landlock(7)).
//!
//! Inside, everything below the container's root is allowed as before; whatever is not below it,
//! such as a file of the host behind a leaked descriptor, is not. A process in a Landlock domain
//! may also not look into processes outside of it: the container's program gets no hold of the
//! processes that exec starts beside it, which an operator does, and of which several CVEs of
//! runtimes made use.

use std::os::fd::AsFd;

use crate::sys;

/// The rights on files of each version (`linux/landlock.h`): EXECUTE to MAKE_SYM, then REFER,
/// TRUNCATE, IOCTL_DEV.
fn rights(version: i64) -> Option<u64> {
    Some(match version {
        ..1 => return None,
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        5.. => (1 << 16) - 1,
    })
}

/// Restricts this process to what is below a directory, for ever. Does nothing where the kernel
/// has no Landlock. Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn restrict(root: impl AsFd) -> std::io::Result<()> {
    let Some(files) = sys::landlock_version().ok().and_then(rights) else {
        return Ok(());
    };
    let rules = sys::landlock_rules(files)?;
    sys::landlock_allow(&rules, files, root)?;
    sys::landlock_restrict(&rules)
}
