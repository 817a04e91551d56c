//! How a group shows itself in ACI's replies.

use std::time::SystemTime;

use super::events::GroupEvent;
use super::plan::Plan;
use super::state::{
    After, ContainerPhase, ContainerRecord, Ended, Failure, GroupState, Lifecycle, Phase,
    ProvisioningState,
};
use crate::model::{
    self, ContainerGroup, ContainerInstanceView, ContainerState, GroupInstanceView,
    InitContainerInstanceView,
};
use crate::time::Timestamp;

/// A time as the document model has it.
pub(super) fn time(time: Timestamp) -> model::Timestamp {
    SystemTime::from(time).into()
}

impl Lifecycle {
    /// ACI's state of the group.
    #[must_use]
    pub fn state(&self) -> GroupState {
        let going = if self.is_provisioned() {
            GroupState::Running
        } else {
            GroupState::Pending
        };
        match self.phase {
            Phase::New | Phase::Pulling | Phase::Creating | Phase::Repairing { .. } => {
                GroupState::Pending
            }
            Phase::Running => going,
            Phase::Stopping { .. } => going,
            Phase::Destroying { then } => match then {
                After::Stopped | After::Delete => GroupState::Stopped,
                After::Succeeded => GroupState::Succeeded,
                After::Failed => GroupState::Failed,
                After::Deploy | After::Restart | After::Replace | After::Repair => {
                    GroupState::Pending
                }
            },
            Phase::Stopped | Phase::Deleted => GroupState::Stopped,
            Phase::Succeeded => GroupState::Succeeded,
            Phase::Failed => GroupState::Failed,
        }
    }

    /// ACI's state of the deployment.
    #[must_use]
    pub fn provisioning_state(&self) -> ProvisioningState {
        match self.phase {
            Phase::Destroying {
                then: After::Failed,
            }
            | Phase::Stopping {
                then: After::Failed,
                ..
            } if !self.is_provisioned() => ProvisioningState::Failed,
            Phase::Destroying {
                then: After::Stopped,
            } => ProvisioningState::Succeeded,
            _ => self.provisioning,
        }
    }

    /// Why the group is in state `Failed`.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Whether traffic is let in: the group runs and no readiness probe withholds it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(
            self.sandbox,
            super::state::SandboxState::Up { ready: true, .. }
        )
    }

    /// Whether the group is billed now: from its first pull until all its containers have ended
    /// or were stopped (ACI bills until the group is stopped).
    #[must_use]
    pub const fn is_billable(&self) -> bool {
        match self.phase {
            Phase::Pulling
            | Phase::Creating
            | Phase::Running
            | Phase::Repairing { .. }
            | Phase::Stopping { .. } => true,
            Phase::Destroying { then } => then.goes_on(),
            Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed | Phase::Deleted => {
                false
            }
        }
    }

    /// Whether nothing is under way and nothing will happen without a command, but for the deletion of
    /// a group with a [`time_to_live`](Plan::time_to_live).
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(
            self.phase,
            Phase::New | Phase::Stopped | Phase::Succeeded | Phase::Failed | Phase::Deleted
        )
    }

    /// Whether the group was accepted and waits for [`Command::Start`](super::Command::Start).
    #[must_use]
    pub const fn is_new(&self) -> bool {
        matches!(self.phase, Phase::New)
    }

    /// Whether all containers were started and nothing but their restarts is under way.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Running && self.is_provisioned()
    }

    /// Whether the group was stopped or has ended by itself, even if its sandbox is still being
    /// removed: the next deployment is as of a new group.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopped
                | Phase::Succeeded
                | Phase::Failed
                | Phase::Destroying {
                    then: After::Stopped | After::Succeeded | After::Failed
                }
        )
    }

    /// The latest time that was ever given; it does not go back.
    #[must_use]
    pub const fn latest(&self) -> Timestamp {
        self.now
    }

    /// Whether the group was deleted and its record is to be removed.
    #[must_use]
    pub const fn is_deleted(&self) -> bool {
        matches!(self.phase, Phase::Deleted)
    }

    /// Whether the group is being deleted or was.
    #[must_use]
    pub const fn is_deleting(&self) -> bool {
        matches!(
            self.phase,
            Phase::Deleted
                | Phase::Stopping {
                    then: After::Delete,
                    ..
                }
                | Phase::Destroying {
                    then: After::Delete
                }
        )
    }

    /// The sandbox that is up, if one is.
    #[must_use]
    pub const fn sandbox_epoch(&self) -> Option<u64> {
        self.epoch()
    }

    /// The attempt of a container that runs now.
    #[must_use]
    pub fn running_attempt(&self, container: &str) -> Option<u32> {
        match self.containers.get(self.find(container)?)?.state {
            ContainerPhase::Running { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// Whether a container has an attempt that was started or will be: its log can still grow.
    #[must_use]
    pub fn may_run_again(&self, container: &str) -> bool {
        let state = self
            .find(container)
            .map(|index| self.containers[index].state);
        state.is_some_and(|state| state != ContainerPhase::Ended) && !self.is_settled()
    }

    /// The plan that the group lives by.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All events that are kept, in the order of their sequence.
    #[must_use]
    pub fn events(&self) -> &[GroupEvent] {
        self.events.all()
    }

    /// The events that happened (again) after the one with that sequence; 0 for all.
    pub fn events_after(&self, sequence: u64) -> impl Iterator<Item = &GroupEvent> {
        let new = move |event: &&GroupEvent| event.sequence > sequence;
        self.events.all().iter().filter(new)
    }

    /// The sequence of the latest event; 0 if there was none.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.events.sequence()
    }

    fn events_of(&self, container: Option<&str>) -> Vec<model::Event> {
        let events = self.events.all().iter();
        events
            .filter(|e| e.container.as_deref() == container)
            .map(model::Event::from)
            .collect()
    }

    /// The group's `instanceView`.
    #[must_use]
    pub fn instance_view(&self) -> GroupInstanceView {
        GroupInstanceView {
            events: self.events_of(None),
            state: Some(self.state().as_str().to_owned()),
            ..GroupInstanceView::default()
        }
    }

    /// A container's `instanceView`; `None` if the group has no such container.
    #[must_use]
    pub fn container_view(&self, name: &str) -> Option<ContainerInstanceView> {
        let record = &self.containers[self.find(name)?];
        let ended = record.state == ContainerPhase::Ended;
        let previous = if ended { &record.before } else { &record.last };
        Some(ContainerInstanceView {
            restart_count: Some(record.restarts()),
            current_state: Some(self.current_state(record)),
            previous_state: previous.as_ref().map(terminated),
            events: self.events_of(Some(name)),
            ..ContainerInstanceView::default()
        })
    }

    /// An init container's `instanceView`; `None` if the group has no such container.
    #[must_use]
    pub fn init_container_view(&self, name: &str) -> Option<InitContainerInstanceView> {
        let view = self.container_view(name)?;
        Some(InitContainerInstanceView {
            restart_count: view.restart_count,
            current_state: view.current_state,
            previous_state: view.previous_state,
            events: view.events,
            ..InitContainerInstanceView::default()
        })
    }

    /// Writes the provisioning state and all instance views into a document, as a reply has them.
    pub fn write_views(&self, document: &mut ContainerGroup) {
        let properties = &mut document.properties;
        properties.provisioning_state = Some(self.provisioning_state().as_str().to_owned());
        properties.instance_view = Some(self.instance_view());
        for container in &mut properties.containers {
            container.properties.instance_view = self.container_view(&container.name);
        }
        for init in &mut properties.init_containers {
            init.properties.instance_view = self.init_container_view(&init.name);
        }
    }

    fn current_state(&self, record: &ContainerRecord) -> ContainerState {
        let waiting = |since: Timestamp, detail: &str| ContainerState {
            state: Some("Waiting".to_owned()),
            start_time: Some(time(since)),
            detail_status: Some(detail.to_owned()),
            ..ContainerState::default()
        };
        match (record.state, &record.last) {
            (ContainerPhase::Running { since, .. }, _) => ContainerState {
                state: Some("Running".to_owned()),
                start_time: Some(time(since)),
                detail_status: Some(String::new()),
                ..ContainerState::default()
            },
            (ContainerPhase::Ended, Some(ended)) => terminated(ended),
            (ContainerPhase::BackOff { .. }, Some(ended)) => {
                waiting(ended.finished, "CrashLoopBackOff")
            }
            _ => waiting(self.begun, ""),
        }
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    let detail = match ended {
        Ended { code: 0, .. } => "Completed",
        Ended { oom: true, .. } => "OOMKilled",
        _ => "Error",
    };
    ContainerState {
        state: Some("Terminated".to_owned()),
        start_time: ended.started.map(time),
        exit_code: Some(ended.code),
        finish_time: Some(time(ended.finished)),
        detail_status: Some(detail.to_owned()),
        ..ContainerState::default()
    }
}
