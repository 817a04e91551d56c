//! A container's user, capabilities and system call filter.

use super::macros::object;

object! {
    /// A container's user, capabilities and system call filter.
    SecurityContext {
        /// Whether it runs with all capabilities and without a filter.
        privileged: Option<bool> => "privileged" [] "2023-05-01" / "2022-10-01-preview";
        /// Whether a process may gain more rights than its parent; false sets `no_new_privs`.
        allow_privilege_escalation: Option<bool> => "allowPrivilegeEscalation" [] "2023-05-01" / "2022-10-01-preview";
        /// Capabilities besides or without the default ones.
        capabilities: Option<Capabilities> => "capabilities" [] "2023-05-01" / "2022-10-01-preview";
        /// The group id that it runs with.
        run_as_group: Option<u32> => "runAsGroup" [] "2023-05-01" / "2022-10-01-preview";
        /// The user id that it runs with.
        run_as_user: Option<u32> => "runAsUser" [] "2023-05-01" / "2022-10-01-preview";
        /// A seccomp profile: JSON as Docker reads it, in base64.
        seccomp_profile: Option<String> => "seccompProfile" [] "2023-05-01" / "2022-10-01-preview";
    }
}

object! {
    /// Capabilities of `capabilities(7)` by name, with or without `CAP_`.
    Capabilities {
        /// Given in addition to the default ones.
        add: Vec<String> => "add" [] "2023-05-01" / "2022-10-01-preview";
        /// Taken away.
        drop: Vec<String> => "drop" [] "2023-05-01" / "2022-10-01-preview";
    }
}
