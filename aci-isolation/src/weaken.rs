//! Deliberate holes, for this crate's own tests; see [`Hole`].

#[path = "weak.rs"]
mod bits;

/// One or more deliberate holes. Each test of an escape is shown to succeed through its hole
/// before it is shown to fail without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hole(pub(crate) u32);

macro_rules! holes {
    ($($name:ident $text:literal),* $(,)?) => {
        impl Hole {
            $(#[doc = $text] pub const $name: Self = Self(bits::$name);)*
        }
    };
}

holes! {
    AGENT_OPEN "The memory and the program of the agent and of inits can be read.",
    LEAKS "Programs inherit a descriptor of the host's root; working directories are not checked.",
    MASK_BY_PATH "Masks are the image's own `/dev/null`, found by path.",
    CONSOLE_BY_PATH "`/dev/console` is mounted by path.",
    PROC_BY_PATH "A new process writes its settings through the container's own `/proc`.",
    PIDS "Containers have no pid namespaces.",
    PROPAGATION "Mounts go back to the host.",
    CGROUPS "Containers have no cgroup namespaces.",
    DEVICES "Devices are held back neither by mount flags nor by cgroups.",
    PRIVILEGES "`no_new_privs` is never set.",
    FILTER "There is no system call filter.",
    PATHS "Places in the root are found by plain paths.",
    LIMITS "There are no limits of memory and processes.",
    LOGS "Logs have no bound.",
    RESOURCES "Resource limits are not set.",
    POLITE "The end of a container is asked for, not enforced.",
}

impl Hole {
    /// No hole.
    pub const NONE: Self = Self(0);
}

impl std::ops::BitOr for Hole {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
