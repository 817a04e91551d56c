//! Contestants that take turns.
//!
//! Machines are noisy and drift; only runs that alternate can be compared.

use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;

use crate::stats::Summary;

/// The parts of one run, each measured from the start of the run or of its phase as its name says,
/// in milliseconds.
pub type Sample = Vec<(&'static str, f64)>;

/// A duration in milliseconds.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One of those who are compared.
#[async_trait(?Send)]
pub trait Contestant {
    /// Its name in tables.
    fn name(&self) -> &str;

    /// Whether the bench makes sense only with it. One that is not required and fails in the
    /// warm-up is left out, with a line that says why.
    fn required(&self) -> bool {
        false
    }

    /// Does it once, cleaning up after itself.
    ///
    /// # Errors
    /// If it could not be done; the time of a failed run means nothing.
    async fn run(&mut self) -> anyhow::Result<Sample>;
}

/// What one contestant's counted runs came to.
#[derive(Clone, Debug)]
pub struct Series {
    /// The contestant's name.
    pub name: String,
    /// The values of each part in the order of the runs.
    pub parts: Vec<(&'static str, Vec<f64>)>,
}

impl Series {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            parts: Vec::new(),
        }
    }

    fn add(&mut self, sample: Sample) {
        for (part, value) in sample {
            match self.parts.iter_mut().find(|(name, _)| *name == part) {
                Some((_, values)) => values.push(value),
                None => self.parts.push((part, vec![value])),
            }
        }
    }

    /// The summary of one part, if it was measured.
    #[must_use]
    pub fn summary(&self, part: &str) -> Option<Summary> {
        let (_, values) = self.parts.iter().find(|(name, _)| *name == part)?;
        Summary::of(values)
    }
}

/// Who runs after whom: forwards and backwards in turn, so that nobody always follows the same
/// neighbour and pays for what that one left to the kernel.
fn order(contestants: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..contestants).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Lets all contestants run in turns: first the warm-up, then the counted runs, each after a rest.
///
/// Kernels remove namespaces and cgroups some time after the last process of a container is gone;
/// the rest keeps that work from being charged to whoever comes next. 25 ms are usual.
///
/// # Errors
/// If a required contestant fails, or any after the warm-up.
pub async fn take_turns(
    mut contestants: Vec<Box<dyn Contestant>>,
    warm_up: usize,
    runs: usize,
    rest: Duration,
) -> anyhow::Result<Vec<Series>> {
    for _ in 0..warm_up {
        let mut index = 0;
        while let Some(contestant) = contestants.get_mut(index) {
            match contestant.run().await {
                Ok(_) => index += 1,
                Err(error) if !contestant.required() => {
                    println!("SKIPPED {}: {error:#}", contestant.name());
                    contestants.remove(index);
                }
                Err(error) => return Err(error.context(contestant.name().to_owned())),
            }
        }
    }
    let mut series: Vec<Series> = contestants.iter().map(|c| Series::new(c.name())).collect();
    for round in 0..runs {
        for index in order(contestants.len(), round) {
            if let (Some(contestant), Some(series)) =
                (contestants.get_mut(index), series.get_mut(index))
            {
                std::thread::sleep(rest);
                let sample = contestant.run().await;
                series.add(sample.with_context(|| format!("{}, run {round}", series.name))?);
            }
        }
    }
    Ok(series)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    struct Runner {
        name: &'static str,
        fails: bool,
        seen: Rc<RefCell<Vec<&'static str>>>,
    }

    #[async_trait(?Send)]
    impl Contestant for Runner {
        fn name(&self) -> &str {
            self.name
        }

        async fn run(&mut self) -> anyhow::Result<Sample> {
            anyhow::ensure!(!self.fails, "not here");
            self.seen.borrow_mut().push(self.name);
            let count = self.seen.borrow().len();
            Ok(vec![("place", f64::from(u32::try_from(count)?))])
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn runs_alternate_and_those_who_cannot_are_left_out() {
        let seen = Rc::default();
        let runner = |name, fails| -> Box<dyn Contestant> {
            Box::new(Runner {
                name,
                fails,
                seen: Rc::clone(&seen),
            })
        };
        let all = vec![runner("a", false), runner("b", true), runner("c", false)];
        let series = take_turns(all, 1, 2, Duration::ZERO).await.unwrap();
        assert_eq!(*seen.borrow(), ["a", "c", "a", "c", "c", "a"]);
        assert_eq!(series.len(), 2);
        assert_eq!(series[0].parts, [("place", vec![3.0, 6.0])]);
        assert_eq!(series[1].summary("place").unwrap().median, 4.5);
        assert_eq!(series[1].summary("nothing"), None);
    }
}
