//! How a group and its containers are doing; only in replies.

use super::macros::object;
use super::timestamp::Timestamp;

object! {
    /// How a group is doing.
    GroupInstanceView {
        /// What happened to the group as a whole, oldest first.
        events: Vec<Event> => "events" [read_only, always] "2018-04-01" / "2017-10-01-preview";
        /// `Pending`, `Running`, `Stopped`, `Succeeded` or `Failed`.
        state: Option<String> => "state" [read_only] "2018-04-01" / "2017-10-01-preview";
    }
}

object! {
    /// How a container is doing.
    ContainerInstanceView {
        /// How often it was started again.
        restart_count: Option<u32> => "restartCount" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// What it does now.
        current_state: Option<ContainerState> => "currentState" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// What it did before.
        previous_state: Option<ContainerState> => "previousState" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// What happened to it, oldest first.
        events: Vec<Event> => "events" [read_only] "2018-04-01" / "2017-08-01-preview";
    }
}

object! {
    /// How an init container is doing.
    InitContainerInstanceView {
        /// How often it was started again.
        restart_count: Option<u32> => "restartCount" [read_only] "2019-12-01";
        /// What it does now.
        current_state: Option<ContainerState> => "currentState" [read_only] "2019-12-01";
        /// What it did before.
        previous_state: Option<ContainerState> => "previousState" [read_only] "2019-12-01";
        /// What happened to it, oldest first.
        events: Vec<Event> => "events" [read_only] "2019-12-01";
    }
}

object! {
    /// One state of a container.
    ContainerState {
        /// `Waiting`, `Running` or `Terminated`.
        state: Option<String> => "state" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// When the state began, for a terminated container when it was started.
        start_time: Option<Timestamp> => "startTime" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The exit code, as shells count: 128 and the number for a signal.
        exit_code: Option<i32> => "exitCode" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// When it ended.
        finish_time: Option<Timestamp> => "finishTime" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// The state in words, such as `Completed`, `Error` or `CrashLoopBackOff: ...`.
        detail_status: Option<String> => "detailStatus" [read_only] "2018-04-01" / "2017-08-01-preview";
    }
}

object! {
    /// Something that happened, once or again and again.
    Event {
        /// How often.
        count: Option<u32> => "count" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// When first.
        first_timestamp: Option<Timestamp> => "firstTimestamp" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// When last.
        last_timestamp: Option<Timestamp> => "lastTimestamp" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// What, in a word: `Pulling`, `Pulled`, `Created`, `Started`, `Killing`, `BackOff`, `Unhealthy`, ...
        name: Option<String> => "name" [read_only] "2018-04-01" / "2017-10-01-preview";
        /// What, in a sentence.
        message: Option<String> => "message" [read_only] "2018-04-01" / "2017-08-01-preview";
        /// `Normal` or `Warning`.
        type_: Option<String> => "type" [read_only] "2018-04-01" / "2017-08-01-preview";
    }
}
