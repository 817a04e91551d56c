//! Faults as a normal input: what goes wrong, and when.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::contract::Clock;
use crate::error::{Applied, Error, ErrorKind, Result};

/// What goes wrong.
#[derive(Clone)]
pub enum Fault {
    /// The operation does nothing and fails.
    Error(ErrorKind),
    /// The operation is carried out, but its answer is lost: the caller sees this error, with
    /// [`Applied::Unknown`].
    ErrorAfter(ErrorKind),
    /// The operation starts so much later.
    Delay(Duration),
    /// The operation does nothing and never returns, as if the caller's machine died before it.
    Hang,
    /// The operation is carried out and never returns, as if the caller's machine died after it.
    HangAfter,
    /// A function is called before the operation, which is then carried out: to kill an agent, to
    /// stop an engine, to count.
    Call(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(kind) => write!(f, "Error({kind:?})"),
            Self::ErrorAfter(kind) => write!(f, "ErrorAfter({kind:?})"),
            Self::Delay(by) => write!(f, "Delay({by:?})"),
            Self::Hang => f.write_str("Hang"),
            Self::HangAfter => f.write_str("HangAfter"),
            Self::Call(_) => f.write_str("Call(..)"),
        }
    }
}

/// At which calls of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// At the n-th call that the rule sees, from 1, and at no other.
    Nth(u64),
    /// At the n-th call that the rule sees, from 1, and at all later ones.
    From(u64),
    /// At every call.
    Always,
    /// At each call with this probability, 0.0 to 1.0, from the seeded generator.
    Rate(f64),
}

struct Rule {
    operation: String,
    trigger: Trigger,
    fault: Fault,
    seen: u64,
}

#[derive(Default)]
struct Inner {
    rules: Vec<Rule>,
    calls: BTreeMap<&'static str, u64>,
    random: u64,
}

/// A plan of faults that all fakes of one world share; clones are the same plan.
///
/// Operations are named by contract and method, as errors name them: `isolation.create`,
/// `sandbox.start`, `image.pull`, `network.attach`, `volume.provide`, `store.put` and so on. A rule
/// for `sandbox.*` or `*` holds for many. Equal seeds and equal orders of calls give equal faults.
///
/// ```
/// use aci_core::error::ErrorKind;
/// use aci_core::fake::{Fault, Faults, Trigger};
///
/// let faults = Faults::seeded(7);
/// faults.on("image.pull", Trigger::Nth(2), Fault::Error(ErrorKind::Unavailable));
/// faults.on("*", Trigger::Rate(0.01), Fault::ErrorAfter(ErrorKind::Timeout));
/// faults.heal();
/// ```
#[derive(Clone, Default)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
}

impl Faults {
    /// A plan without faults, with seed 0.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A plan without faults, with a seed for [`Trigger::Rate`].
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let faults = Self::default();
        lock(&faults.inner).random = seed;
        faults
    }

    /// Adds a rule. The first rule that strikes at a call decides, in the order of adding; every
    /// rule for the operation counts the call.
    pub fn on(&self, operation: &str, trigger: Trigger, fault: Fault) {
        lock(&self.inner).rules.push(Rule {
            operation: operation.to_owned(),
            trigger,
            fault,
            seen: 0,
        });
    }

    /// Removes all rules. What hangs goes on hanging.
    pub fn heal(&self) {
        lock(&self.inner).rules.clear();
    }

    /// How often an operation was called since the beginning, faulty calls included.
    #[must_use]
    pub fn calls(&self, operation: &str) -> u64 {
        lock(&self.inner)
            .calls
            .iter()
            .filter(|(name, _)| matches(operation, name))
            .map(|(_, count)| count)
            .sum()
    }

    /// Carries out an operation under the plan.
    pub(super) async fn run<T>(
        &self,
        clock: &dyn Clock,
        operation: &'static str,
        resource: impl fmt::Display + Send,
        body: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let error = |kind, applied| {
            Error::new(kind, operation, "a fault was injected")
                .on(&resource)
                .applied(applied)
        };
        match self.strike(operation) {
            None => body.await,
            Some(Fault::Error(kind)) => Err(error(kind, Applied::Nothing)),
            Some(Fault::ErrorAfter(kind)) => {
                body.await?;
                Err(error(kind, Applied::Unknown))
            }
            Some(Fault::Delay(by)) => {
                clock.sleep_until(clock.now() + by).await;
                body.await
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangAfter) => {
                body.await?;
                std::future::pending().await
            }
            Some(Fault::Call(function)) => {
                function();
                body.await
            }
        }
    }

    fn strike(&self, operation: &'static str) -> Option<Fault> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        *inner.calls.entry(operation).or_default() += 1;
        let mut struck = None;
        for rule in &mut inner.rules {
            if !matches(&rule.operation, operation) {
                continue;
            }
            rule.seen += 1;
            let strikes = match rule.trigger {
                Trigger::Nth(n) => rule.seen == n,
                Trigger::From(n) => rule.seen >= n,
                Trigger::Always => true,
                Trigger::Rate(rate) => unit(&mut inner.random) < rate,
            };
            if strikes && struck.is_none() {
                struck = Some(rule.fault.clone());
            }
        }
        struck
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = lock(&self.inner);
        let rules: Vec<_> = inner
            .rules
            .iter()
            .map(|r| (&r.operation, r.trigger, &r.fault))
            .collect();
        f.debug_struct("Faults").field("rules", &rules).finish()
    }
}

fn matches(pattern: &str, operation: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => operation.starts_with(prefix),
        None => pattern == operation,
    }
}

/// The next number of SplitMix64 (Steele, Lea and Flood, 2014), as a fraction below 1.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    // 53 bits are what a double holds exactly.
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::ManualClock;

    async fn call(faults: &Faults, operation: &'static str) -> Result<u32> {
        faults
            .run(&ManualClock::new(), operation, "x", async { Ok(1) })
            .await
    }

    #[tokio::test]
    async fn the_nth_call_fails_and_only_that() {
        let faults = Faults::none();
        faults.on("a.b", Trigger::Nth(2), Fault::Error(ErrorKind::Unavailable));
        assert!(call(&faults, "a.b").await.is_ok());
        assert!(call(&faults, "a.c").await.is_ok());
        let error = call(&faults, "a.b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(call(&faults, "a.b").await.is_ok());
        assert_eq!(faults.calls("a.b"), 3);
        assert_eq!(faults.calls("a.*"), 4);
    }

    #[tokio::test]
    async fn a_lost_answer_is_told_as_unknown() {
        let faults = Faults::none();
        faults.on("*", Trigger::Always, Fault::ErrorAfter(ErrorKind::Timeout));
        let error = call(&faults, "a.b").await.unwrap_err();
        assert_eq!(error.state_changed(), Applied::Unknown);
        faults.heal();
        assert!(call(&faults, "a.b").await.is_ok());
    }

    #[tokio::test]
    async fn equal_seeds_give_equal_faults() {
        let mut runs = Vec::new();
        for seed in [1, 1, 2] {
            let faults = Faults::seeded(seed);
            faults.on("*", Trigger::Rate(0.3), Fault::Error(ErrorKind::Internal));
            let mut run = Vec::new();
            for _ in 0..200 {
                run.push(call(&faults, "a.b").await.is_err());
            }
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        let struck = runs[0].iter().filter(|x| **x).count();
        assert!(
            (30..90).contains(&struck),
            "{struck} of 200 at a rate of 0.3"
        );
    }
}
