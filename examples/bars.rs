//! Bars for images that are being pulled.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aci_core::contract::{PullEvent, PullPhase, PullProgress};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

/// A bar for each layer, on the terminal that stderr is; without one nothing is drawn.
#[derive(Clone, Default)]
pub struct Bars(Arc<Inner>);

#[derive(Default)]
struct Inner {
    all: MultiProgress,
    layers: Mutex<HashMap<String, Layer>>,
}

struct Layer {
    bar: ProgressBar,
    since: Instant,
    /// Bytes are still to come. They are unpacked meanwhile, which is told only afterwards.
    fetching: bool,
}

impl fmt::Debug for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bars").finish_non_exhaustive()
    }
}

impl Bars {
    /// For a pull.
    #[must_use]
    pub fn listener(&self) -> PullProgress {
        let this = self.clone();
        Arc::new(move |event| this.hear(&event))
    }

    /// Prints with the bars out of the way.
    pub fn print(&self, text: impl fmt::Display) {
        self.0.all.suspend(|| println!("{text}"));
    }

    /// Takes a step in. What was in the store already gets no bar.
    pub fn hear(&self, event: &PullEvent) {
        let Some(name) = &event.layer else {
            return;
        };
        let layers = self.0.layers.lock();
        let mut layers = layers.unwrap_or_else(PoisonError::into_inner);
        if !layers.contains_key(name) {
            if matches!(event.phase, PullPhase::Resolving | PullPhase::Done) {
                return;
            }
            layers.insert(name.clone(), self.layer(name, event.total));
        }
        let Some(layer) = layers.get_mut(name) else {
            return;
        };
        match event.phase {
            PullPhase::Resolving => {}
            PullPhase::Downloading => {
                layer.fetching = event.total.is_some_and(|total| event.done < total);
                layer.bar.set_message("downloading");
                layer.bar.set_position(event.done);
            }
            PullPhase::Unpacking if layer.fetching => {}
            PullPhase::Unpacking => {
                layer.bar.set_message("unpacking");
                layer.bar.set_position(event.done);
            }
            PullPhase::Done => {
                layer.bar.set_position(event.done);
                let took = HumanDuration(layer.since.elapsed());
                layer.bar.finish_with_message(format!("in {took}"));
                layers.remove(name);
            }
        }
    }

    fn layer(&self, name: &str, total: Option<u64>) -> Layer {
        let bar = self.0.all.add(ProgressBar::new(total.unwrap_or_default()));
        let template = "{prefix} {msg:12} {bar:30} {bytes}/{total_bytes}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        bar.set_prefix(hex.get(..12).unwrap_or(hex).to_owned());
        Layer {
            bar,
            since: Instant::now(),
            fetching: false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_goes_through_its_phases_and_what_was_there_has_no_bar() {
        let bars = Bars::default();
        let step = |phase, done| {
            bars.hear(&PullEvent {
                layer: Some("sha256:7777777777777777".to_owned()),
                phase,
                done,
                total: Some(1000),
            });
        };
        let layers = || bars.0.layers.lock().unwrap();
        step(PullPhase::Done, 1000);
        assert!(layers().is_empty());

        step(PullPhase::Downloading, 0);
        let bar = layers().values().next().unwrap().bar.clone();
        assert_eq!(
            (bar.prefix(), bar.length()),
            ("777777777777".into(), Some(1000))
        );
        for (phase, done, message, at) in [
            (PullPhase::Downloading, 300, "downloading", 300),
            (PullPhase::Unpacking, 100, "downloading", 300),
            (PullPhase::Downloading, 1000, "downloading", 1000),
            (PullPhase::Unpacking, 500, "unpacking", 500),
            (PullPhase::Done, 1000, "in 0 seconds", 1000),
        ] {
            step(phase, done);
            assert_eq!((bar.message().as_str(), bar.position()), (message, at));
        }
        assert!(bar.is_finished() && layers().is_empty());
    }
}
