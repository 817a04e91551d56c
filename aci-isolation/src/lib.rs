//! Sandboxes of container groups made of Linux namespaces and cgroups.

mod capabilities;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod cgroup;
mod channel;
mod claim;
mod host;
mod launch;
mod logs;
mod namespaces;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod procfs;
#[allow(dead_code, reason = "parts of it are the agent's")]
mod protocol;
mod sandbox;
mod seccomp;
mod stream;
mod sys;

pub use namespaces::{Namespaces, NamespacesOptions};

#[cfg(test)]
#[path = "../agent/log.rs"]
#[allow(dead_code)]
mod agent_log;
#[cfg(test)]
#[path = "../agent/user.rs"]
mod agent_user;
