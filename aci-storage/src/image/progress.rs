//! Telling listeners how far a pull or import is.

use aci_core::contract::{PullEvent, PullPhase, PullProgress};

use super::manifest::Descriptor;

/// Tells a listener about one layer or the whole image, at most once for each 256 KiB.
pub(crate) struct Teller<'a> {
    progress: Option<&'a PullProgress>,
    layer: Option<String>,
    phase: PullPhase,
    total: Option<u64>,
    next: u64,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(
        progress: Option<&'a PullProgress>,
        layer: Option<&Descriptor>,
        phase: PullPhase,
    ) -> Self {
        Self {
            progress,
            layer: layer.map(|l| l.digest.to_string()),
            phase,
            total: layer.map(|l| l.size),
            next: 0,
        }
    }

    pub(crate) fn tell(&mut self, done: u64) {
        let Some(progress) = self.progress else {
            return;
        };
        if done < self.next && self.total != Some(done) {
            return;
        }
        self.next = done + 256 * 1024;
        progress(PullEvent {
            layer: self.layer.clone(),
            phase: self.phase,
            done,
            total: self.total,
        });
    }
}
