//! Security contexts.

use serde_json::Value;

use crate::model::SecurityContext;

use super::check::{Check, Path, base64, shown};
use super::codes;

/// The names of capabilities(7) up to Linux 6.18, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// What may happen with a system call (OCI runtime specification, `linux.seccomp`).
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// How an argument of a system call may be compared.
const COMPARISONS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

pub(super) fn check(check: &mut Check<'_>) {
    let properties = check.properties();
    for (i, container) in properties.init_containers.iter().enumerate() {
        if let Some(context) = &container.properties.security_context {
            let of = of(check, &container.name);
            let path = Path::properties("initContainers")
                .index(i)
                .name("properties");
            self::context(check, &of, context, &path.name("securityContext"));
        }
    }
    for (i, container) in properties.containers.iter().enumerate() {
        if let Some(context) = &container.properties.security_context {
            let of = of(check, &container.name);
            let path = Path::properties("containers").index(i).name("properties");
            self::context(check, &of, context, &path.name("securityContext"));
        }
    }
}

/// Whose security context it is, for messages.
fn of(check: &Check<'_>, container: &str) -> String {
    let group = check.group_name();
    format!(
        "container '{}' in container group '{group}'",
        shown(container)
    )
}

pub(super) fn context(check: &mut Check<'_>, of: &str, context: &SecurityContext, path: &Path) {
    if let Some(capabilities) = &context.capabilities {
        for (list, field) in [(&capabilities.add, "add"), (&capabilities.drop, "drop")] {
            for (i, name) in list
                .iter()
                .enumerate()
                .filter(|(_, name)| !is_capability(name))
            {
                let message = format!(
                    "The capability '{}' of {of} is unknown; a name of capabilities(7) such as 'NET_ADMIN', or 'ALL', is \
                     expected.",
                    shown(name)
                );
                let path = path.name("capabilities").name(field).index(i);
                check.problem(codes::INVALID_SECURITY_CONTEXT, &path, message);
            }
        }
    }
    if context.privileged == Some(true) && context.allow_privilege_escalation == Some(false) {
        let message = format!(
            "The security context of {of} is 'privileged' and forbids privilege escalation; a privileged container can \
             always escalate."
        );
        let path = path.name("allowPrivilegeEscalation");
        check.problem(codes::INVALID_SECURITY_CONTEXT, &path, message);
    }
    // The kernel reads all ones as "no change".
    for (id, field) in [
        (context.run_as_user, "runAsUser"),
        (context.run_as_group, "runAsGroup"),
    ] {
        if id == Some(u32::MAX) {
            let message = format!("The '{field}' '{}' of {of} is no id.", u32::MAX);
            check.problem(codes::INVALID_SECURITY_CONTEXT, &path.name(field), message);
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        let fault = match base64(profile) {
            None => Some("is not base64 encoded".to_owned()),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(json) => fault_of(&json),
                Err(_) => Some("is not JSON in base64".to_owned()),
            },
        };
        if let Some(fault) = fault {
            let message = format!("The 'seccompProfile' of {of} {fault}.");
            check.problem(
                codes::INVALID_SECURITY_CONTEXT,
                &path.name("seccompProfile"),
                message,
            );
        }
    }
}

/// What is wrong with a seccomp profile: what it does is said in words of a closed list, and a word
/// that is none of them would be noticed by no one but the container that cannot start.
fn fault_of(profile: &Value) -> Option<String> {
    let default = profile.get("defaultAction").and_then(Value::as_str);
    let Some(default) = default else {
        return Some("has no 'defaultAction'".to_owned());
    };
    let rules = match profile.get("syscalls") {
        None | Some(Value::Null) => &Vec::new(),
        Some(Value::Array(rules)) => rules,
        Some(_) => return Some("has 'syscalls' that are no list".to_owned()),
    };
    let unknown = |action: &&str| !ACTIONS.contains(action);
    if let Some(action) = Some(default).filter(unknown) {
        return Some(format!("has the unknown action '{}'", shown(action)));
    }
    rules.iter().enumerate().find_map(|(i, rule)| {
        let Some(action) = rule.get("action").and_then(Value::as_str) else {
            return Some(format!("has no 'action' in 'syscalls[{i}]'"));
        };
        if unknown(&action) {
            let action = shown(action);
            return Some(format!(
                "has the unknown action '{action}' in 'syscalls[{i}]'"
            ));
        }
        let arguments = rule.get("args").and_then(Value::as_array);
        let comparisons = arguments.into_iter().flatten().map(|argument| {
            let name = argument.get("op").and_then(Value::as_str);
            name.unwrap_or_default()
        });
        let odd = comparisons.into_iter().find(|op| !COMPARISONS.contains(op));
        odd.map(|op| {
            format!(
                "has the unknown comparison '{}' in 'syscalls[{i}]'",
                shown(op)
            )
        })
    })
}

fn is_capability(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    upper == "ALL" || CAPABILITIES.contains(&name)
}
