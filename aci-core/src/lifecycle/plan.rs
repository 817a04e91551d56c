//! What a group's life depends on: its document, with every default made explicit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::contract::Signal;
use crate::id::GroupRef;
use crate::model::{self, ContainerGroup};

/// When containers that ended are started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever their exit code; ACI's default.
    #[default]
    Always,
    /// When their exit code is not zero.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// The policy of the group's init containers (ACI: `Always` and `OnFailure` give `OnFailure`,
    /// `Never` gives `Never`).
    #[must_use]
    pub const fn of_init_containers(self) -> Self {
        match self {
            Self::Always | Self::OnFailure => Self::OnFailure,
            Self::Never => Self::Never,
        }
    }
}

impl From<&model::RestartPolicy> for RestartPolicy {
    /// A policy that this crate does not know counts as the default; validation refuses it.
    fn from(policy: &model::RestartPolicy) -> Self {
        match policy {
            model::RestartPolicy::OnFailure => Self::OnFailure,
            model::RestartPolicy::Never => Self::Never,
            model::RestartPolicy::Always | model::RestartPolicy::Other(_) => Self::Always,
        }
    }
}

/// How long to wait before the next try of something that failed.
///
/// Kubernetes' values by default: the first restart at once, the following after 10 s, 20 s, 40 s
/// and so on up to 5 min, and from the beginning again for a container that has run for 10 min.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// How many tries are made at once before waiting begins. It counts for restarts of
    /// containers and sandboxes; pulls wait after their first failure.
    pub at_once: u32,
    /// The first wait.
    pub initial: Duration,
    /// What each wait is longer than the one before, as a factor of 1 or more.
    pub factor: u32,
    /// The longest wait.
    pub max: Duration,
    /// After running this long, a container's count of failures begins again.
    pub reset_after: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            at_once: 1,
            initial: Duration::from_secs(10),
            factor: 2,
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}

impl BackOff {
    /// The wait before the restart that follows `failures` earlier ones without a reset.
    #[must_use]
    pub fn restart_delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.at_once) {
            None => Duration::ZERO,
            Some(waits) => self.delay(waits),
        }
    }

    /// The wait after `waits` earlier waits.
    #[must_use]
    pub fn delay(&self, waits: u32) -> Duration {
        let factor = self.factor.max(1).saturating_pow(waits.min(32));
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// Which of a container's two probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Failing restarts the container according to the restart policy.
    Liveness,
    /// Failing withholds traffic.
    Readiness,
}

impl ProbeKind {
    pub(super) const ALL: [Self; 2] = [Self::Liveness, Self::Readiness];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// When and how often to probe. What to do is in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    /// From the start of the container to its first probe.
    pub initial_delay: Duration,
    /// Between probes; at least 1 s.
    pub period: Duration,
    /// After this long without an answer the engine reports a failure; at least 1 s.
    pub timeout: Duration,
    /// Failures in a row that count; at least 1.
    pub failure_threshold: u32,
    /// Successes in a row that count; at least 1.
    pub success_threshold: u32,
}

impl Default for ProbePlan {
    /// Kubernetes' defaults: 0 s, 10 s, 1 s, 3 and 1.
    fn default() -> Self {
        Self {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

impl ProbePlan {
    /// The plan of a document's probe. Zeros, which validation refuses, count as 1.
    #[must_use]
    pub fn from_probe(probe: &model::Probe) -> Self {
        let default = Self::default();
        let seconds = |given: Option<u32>, least: u64, other: Duration| {
            given.map_or(other, |s| Duration::from_secs(u64::from(s).max(least)))
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0, default.initial_delay),
            period: seconds(probe.period_seconds, 1, default.period),
            timeout: seconds(probe.timeout_seconds, 1, default.timeout),
            failure_threshold: probe
                .failure_threshold
                .unwrap_or(default.failure_threshold)
                .max(1),
            success_threshold: probe
                .success_threshold
                .unwrap_or(default.success_threshold)
                .max(1),
        }
    }
}

/// What the life of one container depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its name, unique among all containers of the group.
    pub name: String,
    /// Its image as the document writes it.
    pub image: String,
    /// Its liveness probe; init containers have none.
    pub liveness: Option<ProbePlan>,
    /// Its readiness probe; init containers have none.
    pub readiness: Option<ProbePlan>,
    /// The signal for a polite stop. Without one it is the image's, which
    /// [`Observation::ImagePulled`](super::Observation::ImagePulled) brings, or else `SIGTERM`.
    pub stop_signal: Option<Signal>,
}

/// What the life of a group depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The group, for messages and container ids.
    pub group: GroupRef,
    /// When containers are started again.
    pub restart_policy: RestartPolicy,
    /// The init containers, in order.
    pub init: Vec<ContainerPlan>,
    /// The containers.
    pub containers: Vec<ContainerPlan>,
    /// From the polite stop signal to the kill; zero kills at once.
    pub grace: Duration,
    /// Waits between restarts, pulls and attempts to make a sandbox.
    pub back_off: BackOff,
    /// How long a deployment, a restart or an update may take until every container was started;
    /// then the group has failed.
    pub provisioning_timeout: Duration,
    /// Whether a restart makes a new sandbox (with the same address) even if nothing has changed,
    /// because volumes are made of secret references, which are looked up anew with it.
    #[serde(default)]
    pub renews_volumes: bool,
    /// How long the group stays after it has succeeded or failed; then it is deleted. Without one it
    /// stays. One that was stopped stays in any case.
    #[serde(default)]
    pub time_to_live: Option<Duration>,
}

impl Plan {
    /// Kubernetes' grace period; ACI documents none for container groups.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);
    /// ACI's provisioning time-out.
    pub const DEFAULT_PROVISIONING_TIMEOUT: Duration = Duration::from_secs(30 * 60);

    /// A plan without containers and with all defaults.
    #[must_use]
    pub fn new(group: GroupRef) -> Self {
        Self {
            group,
            restart_policy: RestartPolicy::default(),
            init: Vec::new(),
            containers: Vec::new(),
            grace: Self::DEFAULT_GRACE,
            back_off: BackOff::default(),
            provisioning_timeout: Self::DEFAULT_PROVISIONING_TIMEOUT,
            renews_volumes: false,
            time_to_live: None,
        }
    }

    /// The plan of a document that was validated.
    ///
    /// Grace period, back-off and time to live are the defaults, because a document cannot say them;
    /// change the fields before use. `provisioningTimeoutInSeconds` (preview 2023-02-01) is kept to.
    #[must_use]
    pub fn from_group(group: &GroupRef, document: &ContainerGroup) -> Self {
        let properties = &document.properties;
        let mut plan = Self::new(group.clone());
        if let Some(policy) = &properties.restart_policy {
            plan.restart_policy = policy.into();
        }
        if let Some(seconds) = properties.provisioning_timeout_in_seconds {
            plan.provisioning_timeout = Duration::from_secs(u64::from(seconds.max(1)));
        }
        plan.renews_volumes = super::update::refers_in_volumes(document);
        plan.init = properties
            .init_containers
            .iter()
            .map(|init| ContainerPlan {
                name: init.name.clone(),
                image: init.properties.image.clone().unwrap_or_default(),
                ..ContainerPlan::default()
            })
            .collect();
        plan.containers = properties
            .containers
            .iter()
            .map(|container| {
                let properties = &container.properties;
                ContainerPlan {
                    name: container.name.clone(),
                    image: properties.image.clone().unwrap_or_default(),
                    liveness: properties
                        .liveness_probe
                        .as_ref()
                        .map(ProbePlan::from_probe),
                    readiness: properties
                        .readiness_probe
                        .as_ref()
                        .map(ProbePlan::from_probe),
                    stop_signal: None,
                }
            })
            .collect();
        plan
    }

    /// All containers, the init containers first.
    pub(super) fn all(&self) -> impl Iterator<Item = (bool, &ContainerPlan)> {
        let init = self.init.iter().map(|c| (true, c));
        init.chain(self.containers.iter().map(|c| (false, c)))
    }

    /// The plan of a container.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerPlan> {
        self.all().map(|(_, c)| c).find(|c| c.name == name)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new(GroupRef::from(""))
    }
}
