//! Linux capabilities by name (capabilities(7)), and the set of a container.

use aci_core::contract::SecurityPolicy;
use aci_core::error::{Error, ErrorKind, Result};

/// By number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a name, with or without `CAP_`, in any case.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == short)
        .map(|number| 1 << number)
}

fn mask(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |mask, name| {
        if name.trim().eq_ignore_ascii_case("ALL") {
            return Ok(ALL);
        }
        bit(name).map(|bit| mask | bit).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "container.start",
                format!("'{name}' is not a Linux capability such as NET_ADMIN, or ALL"),
            )
        })
    })
}

/// The default set.
pub(crate) fn default_set() -> u64 {
    DEFAULT.iter().filter_map(|name| bit(name)).sum()
}

/// What a policy grants: the default without what is dropped, with what is added; dropping comes
/// first, as in Kubernetes and Docker.
///
/// # Errors
/// `Invalid` for an unknown name.
pub(crate) fn granted(policy: &SecurityPolicy) -> Result<u64> {
    let (add, drop) = (
        mask(&policy.add_capabilities)?,
        mask(&policy.drop_capabilities)?,
    );
    if policy.privileged {
        return Ok(ALL);
    }
    Ok(default_set() & !drop | add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fourteen_by_default() {
        assert_eq!(default_set().count_ones(), 14);
        // As `docker run` shows it in /proc/self/status.
        assert_eq!(default_set(), 0xa804_25fb);
    }

    #[test]
    fn drop_all_then_add_one() {
        let policy = SecurityPolicy {
            drop_capabilities: vec!["all".into()],
            add_capabilities: vec!["cap_net_admin".into()],
            ..SecurityPolicy::default()
        };
        assert_eq!(granted(&policy).unwrap(), 1 << 12);
        let wrong = SecurityPolicy {
            add_capabilities: vec!["FLY".into()],
            ..SecurityPolicy::default()
        };
        assert_eq!(granted(&wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
