//! What goes into the state machine and what comes out of it.

use serde::{Deserialize, Serialize};

use super::plan::{Plan, ProbeKind};
use crate::contract::{ExitStatus, SandboxStatus, Signal};

/// What a user asks for.
#[allow(clippy::large_enum_variant)] // made once a request
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Deploys the group: from a new record, after a stop, or again after its end. Images are
    /// pulled again. No effect on a group that runs.
    Start,
    /// Stops all containers and gives up the sandbox. No effect on a group that is stopped,
    /// succeeded or failed.
    Stop,
    /// Restarts all containers, the init containers too, in the same sandbox. Images are pulled
    /// again.
    Restart,
    /// Stops all containers, gives up the sandbox and forgets the group. Allowed in every state.
    Delete,
    /// Goes on with another plan: a group that runs is restarted in place, a group that does not
    /// run is deployed as new. Whether a document may be changed so is for
    /// [`update_kind`](super::update_kind) to say.
    Update {
        /// The new plan.
        plan: Plan,
        /// Whether the sandbox has to be made again too (for other volumes or ports); its address
        /// is kept. [`UpdateKind::Restart`](super::UpdateKind::Restart) says it.
        new_sandbox: bool,
    },
    /// The values of config maps are others: their files are written anew, and nothing is
    /// restarted. [`UpdateKind::ConfigMapOnly`](super::UpdateKind::ConfigMapOnly) says it.
    WriteFiles,
}

/// What the engine has to do.
///
/// An action is handed out after the state says that it is under way, so the engine journals the
/// state first and acts then. Every action may be handed out again (after
/// [`Lifecycle::resume`](super::Lifecycle::resume)) with the same numbers and must then have the
/// same effect as once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Have an image in the store. Answered by [`Observation::ImagePulled`] or
    /// [`Observation::PullFailed`].
    PullImage {
        /// The reference as the document writes it. Each image is asked for once, whatever the
        /// number of its containers.
        image: String,
        /// To be quoted in the answer.
        number: u64,
        /// Ask the registry whether the tag has moved; otherwise what is in the store will do.
        fresh: bool,
    },
    /// Make the sandbox: volumes, wall, network with traffic withheld. What is left of an earlier
    /// try with the same epoch is removed first. Answered by [`Observation::SandboxCreated`] or
    /// [`Observation::SandboxFailed`].
    CreateSandbox {
        /// Which sandbox of this group; higher than all before.
        epoch: u64,
    },
    /// Start a container. Answered by [`Observation::Started`] or [`Observation::StartFailed`].
    StartContainer {
        /// In which sandbox.
        epoch: u64,
        /// Its name.
        container: String,
        /// Which attempt; higher than all before.
        attempt: u32,
    },
    /// Send a signal to a container. Needs no answer; if it ends, [`Observation::Exited`] tells.
    Signal {
        /// In which sandbox.
        epoch: u64,
        /// Its name.
        container: String,
        /// Which attempt; if another runs, nothing is to be done.
        attempt: u32,
        /// The signal.
        signal: Signal,
        /// To every process in it.
        all: bool,
    },
    /// Probe a container. Answered by [`Observation::Probed`], at the latest after the probe's
    /// time-out.
    Probe {
        /// In which sandbox.
        epoch: u64,
        /// Its name.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// To be quoted in the answer.
        number: u64,
    },
    /// Let traffic in, or withhold it. Needs no answer.
    SetReady {
        /// In which sandbox.
        epoch: u64,
        /// Whether traffic is let in.
        ready: bool,
    },
    /// Let the files of config maps be those of the document. Needs no answer: it is tried until it
    /// is done or the sandbox is gone.
    WriteFiles {
        /// In which sandbox.
        epoch: u64,
    },
    /// Remove the sandbox with everything in it, running or not, and give up what is under way for
    /// it, its creation included. Answered by [`Observation::SandboxDestroyed`] or
    /// [`Observation::DestroyFailed`].
    DestroySandbox {
        /// Which sandbox.
        epoch: u64,
        /// To be quoted in the answer.
        number: u64,
        /// Keep the ends of the logs first.
        save_logs: bool,
        /// Keep the group's address for the next sandbox; otherwise it is released.
        keep_address: bool,
    },
    /// Remove the record and whatever else is kept of the group. The last action of all.
    Forget,
}

/// What the engine saw.
///
/// An observation may come late, twice, or for something that is over: then it is ignored. Texts
/// end up in events that users read, so they must not hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observation {
    /// An image is in the store.
    ImagePulled {
        /// The reference as the action had it.
        image: String,
        /// The action's number.
        number: u64,
        /// `sha256:` and 64 hexadecimal digits.
        digest: String,
        /// The image's signal for a polite stop, if it has one.
        stop_signal: Option<Signal>,
    },
    /// An image could not be pulled.
    PullFailed {
        /// The reference as the action had it.
        image: String,
        /// The action's number.
        number: u64,
        /// Why, in a sentence.
        message: String,
        /// ACI's error code, such as `InaccessibleImage`.
        code: Option<String>,
        /// Whether to try again after a wait; otherwise the provisioning has failed.
        retryable: bool,
    },
    /// The sandbox is there.
    SandboxCreated {
        /// The action's epoch.
        epoch: u64,
    },
    /// A driver says something about a volume that it is providing, for the group's events.
    VolumeTold {
        /// The action's epoch.
        epoch: u64,
        /// What, in a word: `Cloning`, `Cloned`.
        name: String,
        /// What, in a sentence.
        message: String,
    },
    /// The sandbox could not be made, and nothing of it is left.
    SandboxFailed {
        /// The action's epoch.
        epoch: u64,
        /// Why, in a sentence.
        message: String,
        /// An error code; one that begins with `FailedMount` names the event of a volume that could
        /// not be provided.
        code: Option<String>,
        /// Whether to try again after a wait; otherwise the provisioning has failed.
        retryable: bool,
    },
    /// The sandbox is gone although nobody asked: its supervisor or its machine ended.
    SandboxLost {
        /// Its epoch.
        epoch: u64,
        /// Why, in a sentence.
        message: String,
    },
    /// What its containers do; may be given as often as it changes, in place of
    /// [`Observation::Exited`].
    Sandbox {
        /// Its epoch.
        epoch: u64,
        /// What its supervisor says.
        status: SandboxStatus,
    },
    /// Nothing of the sandbox is left.
    SandboxDestroyed {
        /// The action's number.
        number: u64,
    },
    /// Something of the sandbox could not be removed; it is tried again after a wait.
    DestroyFailed {
        /// The action's number.
        number: u64,
        /// What is left and why, in a sentence.
        message: String,
    },
    /// A container's program runs.
    Started {
        /// Its name.
        container: String,
        /// The action's attempt.
        attempt: u32,
    },
    /// A container's program could not be run. It counts as an exit with that code.
    StartFailed {
        /// Its name.
        container: String,
        /// The action's attempt.
        attempt: u32,
        /// 127 if there is no such program, 126 if it may not be executed, 128 for any other
        /// reason.
        code: i32,
        /// Why, in a sentence.
        message: String,
    },
    /// A container's program ended.
    Exited {
        /// Its name.
        container: String,
        /// Which attempt.
        attempt: u32,
        /// How.
        status: ExitStatus,
    },
    /// A probe has an answer.
    Probed {
        /// The container's name.
        container: String,
        /// The action's attempt.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// The action's number.
        number: u64,
        /// Whether it succeeded.
        success: bool,
        /// What it said, in a sentence: `HTTP probe failed with statuscode: 503`.
        message: String,
    },
}
