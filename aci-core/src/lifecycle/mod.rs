//! What should happen next: the life of a group as a synchronous state machine.
//!
//! [`Lifecycle`] decides and nothing else: it has no clock, no task and no input or output. The
//! engine gives it [`Command`]s, [`Observation`]s and the time; it gives back [`Action`]s. The same
//! inputs at the same times always give the same actions, so an hour of back-off is tested in
//! milliseconds.
//!
//! # For the engine
//!
//! 1. `let actions = lifecycle.command(..)?` (or `observe`, or `tick` at
//!    [`Lifecycle::next_deadline`]).
//! 2. Journal the lifecycle. Every action is handed out after the state says that it is under way.
//! 3. Carry the actions out, at the same time or one after the other, and `observe` the answers.
//!    What is answered late, twice, or for something that is over is ignored: attempts, epochs and
//!    numbers tell.
//! 4. Publish [`Lifecycle::events_after`] the last sequence that was published.
//! 5. After a crash: read the journal, adopt the sandbox if there is one, and call
//!    [`Lifecycle::resume`], which gives out again whatever was under way.
//!
//! Within one sandbox actions are given in an order that has to be kept for one container. A
//! [`Action::DestroySandbox`] puts an end to everything that is under way for its epoch.
//!
//! # States
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> New
//!     New --> Pulling: Start
//!     Pulling --> Creating: all images there
//!     Creating --> Running: sandbox there
//!     Running --> Stopping: Stop, Restart, Update, Delete, failure
//!     Pulling --> Destroying: Stop, Delete, failure
//!     Creating --> Destroying: Stop, Delete, failure
//!     Running --> Destroying: all containers ended, sandbox lost
//!     Stopping --> Pulling: restart in place
//!     Stopping --> Destroying: all ended, or grace period over
//!     Destroying --> Stopped
//!     Destroying --> Succeeded
//!     Destroying --> Failed
//!     Destroying --> Pulling: deploy again
//!     Destroying --> Repairing: sandbox was lost
//!     Destroying --> Deleted: Forget
//!     Repairing --> Pulling: back-off over
//!     Stopped --> Pulling: Start, Update
//!     Succeeded --> Pulling: Start, Update
//!     Failed --> Pulling: Start, Update
//! ```
//!
//! | step | ACI's state | provisioning state | billed |
//! |---|---|---|---|
//! | New | Pending | Pending | no |
//! | Pulling, Creating, Running with init containers | Pending | Creating | yes |
//! | Running | Running | Succeeded | yes |
//! | Stopping | as before | as before | yes |
//! | Destroying | what follows | what follows | no, unless the group goes on |
//! | Repairing | Pending | Unhealthy, then Repairing | yes |
//! | Stopped | Stopped | Succeeded | no |
//! | Succeeded | Succeeded | Succeeded | no |
//! | Failed | Failed | Failed if the provisioning failed | no |
//!
//! # What always holds
//!
//! - No container starts before all init containers have succeeded in this sandbox, and no two
//!   init containers run at the same time.
//! - A container never has two attempts running; attempts only grow. `restartCount` is the number
//!   of attempts of this deployment less one.
//! - With the policy `Never` no container is started twice, unless a user restarts the group. With
//!   `OnFailure` none is that ended with 0 (unless its liveness probe failed).
//! - A container is not started before its back-off is over.
//! - A group is `Succeeded` only under `OnFailure` and `Never`, and `Failed` only under `Never` or
//!   when its provisioning failed.
//! - A sandbox that is being removed gets no more actions; at most one exists at a time.
//! - A group that is not at rest has an action under way or a deadline: it never gets stuck while
//!   the world answers. A deletion always ends in [`Action::Forget`].
//! - The state that is read back from the journal behaves like the one that was written.
//!
//! # Where ACI is silent
//!
//! Kubernetes' rules hold: the first restart is made at once and back-off begins with the second;
//! a failed probe is an `Unhealthy` event each time; when a sandbox is lost all init containers run
//! again and the others as the restart policy says; a container whose start fails counts as ended
//! with 126, 127 or 128. A restart or update in place counts in `restartCount`; a start after a
//! stop begins at 0.

mod action;
mod containers;
mod events;
mod machine;
mod plan;
mod probes;
mod pull;
mod resume;
mod sandbox;
mod state;
mod stop;
mod update;
mod view;

use sha2::{Digest, Sha256};

use crate::id::GroupRef;

pub use action::{Action, Command, Observation};
pub use events::{EventKind, GroupEvent};
pub use plan::{BackOff, ContainerPlan, Plan, ProbeKind, ProbePlan, RestartPolicy};
pub use state::{Failure, GroupState, Lifecycle, ProvisioningState};
pub use update::{UpdateKind, update_kind};

/// The id of one attempt of a container, as events name it: 64 hexadecimal digits.
#[must_use]
pub fn container_id(group: &GroupRef, epoch: u64, container: &str, attempt: u32) -> String {
    let text = format!("{}\n{epoch}\n{container}\n{attempt}", group.resource_id());
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
