//! What happened to a group and its containers, counted and bounded.

use serde::{Deserialize, Serialize};

use crate::model;
use crate::time::Timestamp;

/// Whether an event is part of an ordinary life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// It is.
    Normal,
    /// Something is wrong.
    Warning,
}

impl EventKind {
    /// `Normal` or `Warning`, as ACI writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened, once or again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEvent {
    /// Its place in the order of all events of the group, from 1. An event that happens again gets
    /// a new place at the end.
    pub sequence: u64,
    /// The container that it happened to; `None` for the group as a whole.
    pub container: Option<String>,
    /// What, in a word: `Pulling`, `Started`, `Killing`, ...
    pub name: String,
    /// What, in a sentence.
    pub message: String,
    /// Whether something is wrong.
    pub kind: EventKind,
    /// How often, from 1.
    pub count: u32,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
}

impl From<&GroupEvent> for model::Event {
    fn from(event: &GroupEvent) -> Self {
        Self {
            count: Some(event.count),
            first_timestamp: Some(super::view::time(event.first)),
            last_timestamp: Some(super::view::time(event.last)),
            name: Some(event.name.clone()),
            message: Some(event.message.clone()),
            type_: Some(event.kind.as_str().to_owned()),
            ..Self::default()
        }
    }
}

/// The events of a group, at most [`EventLog::PER_SOURCE`] of each container and of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EventLog {
    /// In the order of their sequence.
    events: Vec<GroupEvent>,
    sequence: u64,
}

impl EventLog {
    /// When there are more of one source, the one that was last seen longest ago is dropped.
    pub(super) const PER_SOURCE: usize = 40;
    /// The longest message in characters; longer ones are cut.
    const LONGEST: usize = 1024;

    pub(super) fn record(
        &mut self,
        container: Option<&str>,
        name: &str,
        message: &str,
        kind: EventKind,
        now: Timestamp,
    ) {
        let message: String = message.chars().take(Self::LONGEST).collect();
        self.sequence += 1;
        let same = |e: &GroupEvent| {
            e.container.as_deref() == container && e.name == name && e.message == message
        };
        let mut event = match self.events.iter().position(same) {
            Some(index) => self.events.remove(index),
            None => GroupEvent {
                sequence: 0,
                container: container.map(str::to_owned),
                name: name.to_owned(),
                message,
                kind,
                count: 0,
                first: now,
                last: now,
            },
        };
        event.sequence = self.sequence;
        event.count = event.count.saturating_add(1);
        event.kind = kind;
        event.last = now;
        self.events.push(event);
        let of_source = |e: &GroupEvent| e.container.as_deref() == container;
        if self.events.iter().filter(|e| of_source(e)).count() > Self::PER_SOURCE
            && let Some(oldest) = self.events.iter().position(of_source)
        {
            self.events.remove(oldest);
        }
    }

    /// Drops the events of containers that are no longer in the group.
    pub(super) fn keep_sources(&mut self, known: impl Fn(&str) -> bool) {
        self.events
            .retain(|e| e.container.as_deref().is_none_or(&known));
    }

    pub(super) fn all(&self) -> &[GroupEvent] {
        &self.events
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }
}
