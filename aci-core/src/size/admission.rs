//! Whether a group may run now.

use crate::error::{Error, ErrorKind};
use crate::model::OsType;

use super::{Cpu, Gpus, Memory, Total};

const OPERATION: &str = "group.admit";

/// What the host gives to groups altogether.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// GPUs by kind.
    pub gpus: Vec<Gpus>,
}

/// What a subscription may use in a region.
///
/// The default is ACI's for a new subscription: 100 standard groups and 100 cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Groups; `ContainerGroups` among ACI's usages.
    pub groups: u32,
    /// CPU; `StandardCores` among ACI's usages.
    pub cpu: Cpu,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            groups: 100,
            cpu: Cpu::from_whole_cores(100),
        }
    }
}

impl Quota {
    /// No quota: only the host's capacity counts.
    pub const UNLIMITED: Self = Self {
        groups: u32::MAX,
        cpu: Cpu::from_hundredths(u32::MAX),
    };
}

/// What the groups that were admitted use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// How many groups.
    pub groups: u32,
    /// The sum of their totals.
    pub total: Total,
}

impl InUse {
    /// Counts one more group.
    pub fn add(&mut self, total: &Total) {
        self.groups = self.groups.saturating_add(1);
        self.total.cpu += total.cpu;
        self.total.memory += total.memory;
        for gpus in &total.gpus {
            self.total.add_gpus(gpus);
        }
    }
}

/// What happens to a group that fits the host, but not now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused, as ACI does.
    #[default]
    Refuse,
    /// It waits for its turn.
    Queue {
        /// How many may wait; with more the next is refused.
        longest: u32,
    },
}

/// A group that wants to run.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What it gets if it is admitted.
    pub wanted: &'a Total,
    /// How many groups wait that came before it. Nobody overtakes.
    pub ahead: u32,
    /// The region's name, for messages.
    pub location: &'a str,
    /// The operating system, for messages.
    pub os_type: &'a OsType,
    /// Whether it is in a virtual network, for messages.
    pub in_virtual_network: bool,
}

/// The decision.
#[derive(Debug)]
pub enum Admission {
    /// It may run now.
    Admit,
    /// It waits; ask again when another group has gone.
    Queue,
    /// It does not run. The error has ACI's code and wording.
    Refuse(Error),
}

/// Decides whether a group may run.
///
/// - What never fits, even if nothing else ran, is refused whatever `when_full` says.
/// - Beyond the quota: `ContainerGroupQuotaReached`. Beyond the capacity: `ServiceUnavailable`.
/// - With [`WhenFull::Queue`] a group that does not fit now, or that came after one that waits,
///   waits too, so a large group is not overtaken for ever by small ones.
#[must_use]
pub fn admit(
    capacity: &Capacity,
    quota: Quota,
    in_use: &InUse,
    request: &Request<'_>,
    when_full: WhenFull,
) -> Admission {
    if let Some(error) = refusal(capacity, quota, &InUse::default(), request) {
        return Admission::Refuse(error);
    }
    let refusal = refusal(capacity, quota, in_use, request);
    match (when_full, refusal) {
        (WhenFull::Refuse, None) => Admission::Admit,
        (WhenFull::Queue { .. }, None) if request.ahead == 0 => Admission::Admit,
        (WhenFull::Queue { longest }, _) if request.ahead < longest => Admission::Queue,
        (WhenFull::Queue { .. }, None) => Admission::Refuse(unavailable(capacity, request)),
        (_, Some(error)) => Admission::Refuse(error),
    }
}

/// Why the group does not fit beside what is in use.
fn refusal(
    capacity: &Capacity,
    quota: Quota,
    in_use: &InUse,
    request: &Request<'_>,
) -> Option<Error> {
    let (wanted, used) = (request.wanted, &in_use.total);
    if in_use.groups >= quota.groups {
        let (limit, usage) = (quota.groups.to_string(), in_use.groups.to_string());
        return Some(quota_reached(
            request,
            "ContainerGroups",
            &limit,
            &usage,
            "1",
        ));
    }
    if used.cpu + wanted.cpu > quota.cpu {
        let [limit, usage, wanted] = [quota.cpu, used.cpu, wanted.cpu].map(|cpu| cpu.to_string());
        return Some(quota_reached(
            request,
            "StandardCores",
            &limit,
            &usage,
            &wanted,
        ));
    }
    let fits = used.cpu + wanted.cpu <= capacity.cpu
        && used.memory + wanted.memory <= capacity.memory
        && wanted.gpus.iter().all(|gpus| {
            let of_kind = |all: &[Gpus]| {
                let count = all.iter().find(|g| g.sku == gpus.sku).map(|g| g.count);
                u64::from(count.unwrap_or(0))
            };
            of_kind(&used.gpus) + u64::from(gpus.count) <= of_kind(&capacity.gpus)
        });
    (!fits).then(|| unavailable(capacity, request))
}

fn quota_reached(
    request: &Request<'_>,
    name: &str,
    limit: &str,
    usage: &str,
    wanted: &str,
) -> Error {
    let message = format!(
        "Resource type 'Microsoft.ContainerInstance/containerGroups' container group quota '{name}' exceeded in \
         region '{}'. Limit: '{limit}', Usage: '{usage}' Requested: '{wanted}'.",
        request.location
    );
    Error::new(ErrorKind::Exhausted, OPERATION, message)
        .code("ContainerGroupQuotaReached")
        .hint("delete or stop a group, ask for less, or raise the quota")
}

fn unavailable(capacity: &Capacity, request: &Request<'_>) -> Error {
    let message = unavailable_message(
        request.wanted,
        request.location,
        request.os_type,
        request.in_virtual_network,
    );
    Error::new(ErrorKind::Exhausted, OPERATION, message)
        .code("ServiceUnavailable")
        .hint(format!(
            "all groups together get {} CPU and {} GB here: delete or stop a group, or ask for less",
            capacity.cpu, capacity.memory
        ))
}

/// ACI's sentence for a size that cannot be had.
pub(crate) fn unavailable_message(
    wanted: &Total,
    location: &str,
    os_type: &OsType,
    in_virtual_network: bool,
) -> String {
    let mut message = format!(
        "The requested resource is not available in the location '{location}' at this moment. Please retry with a \
         different resource request or in another location. Resource requested: '{}' CPU '{}' GB memory",
        wanted.cpu, wanted.memory
    );
    for gpus in &wanted.gpus {
        message.push_str(&format!(" '{}' '{}' GPU", gpus.count, gpus.sku));
    }
    message.push_str(&format!(" '{os_type}' OS"));
    if in_virtual_network {
        message.push_str(" virtual network");
    }
    message
}

#[cfg(test)]
mod tests;
