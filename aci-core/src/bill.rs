//! The bill: vCPU-seconds and GB-seconds of a group, by the second.
//!
//! ACI bills what a group *requests*, from the start of its first image pull (or of a restart)
//! until the group is stopped; a group is billed as a whole while any of its containers may run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The size that is billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Requested CPU of the whole group, in hundredths of a core.
    pub cpu: u32,
    /// Requested memory of the whole group, in tenths of a GB.
    pub memory: u32,
    /// Requested GPUs of the whole group.
    pub gpu: u32,
}

/// One uninterrupted run of a group at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// When billing began.
    pub from: Timestamp,
    /// When it ended; `None` while it goes on.
    pub to: Option<Timestamp>,
    /// The size.
    pub rate: Rate,
}

/// Everything that a group was billed for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    spans: Vec<Span>,
}

/// A bill at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// Whole seconds billed.
    pub seconds: u64,
    /// CPU in hundredths of a vCPU-second.
    pub centi_vcpu_seconds: u64,
    /// Memory in tenths of a GB-second.
    pub deci_gb_seconds: u64,
    /// GPU-seconds.
    pub gpu_seconds: u64,
}

impl Bill {
    /// vCPU-seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 hundredths
    pub fn vcpu_seconds(&self) -> f64 {
        self.centi_vcpu_seconds as f64 / 100.0
    }

    /// GB-seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // exact up to 2^53 tenths
    pub fn gb_seconds(&self) -> f64 {
        self.deci_gb_seconds as f64 / 10.0
    }
}

impl Ledger {
    /// Begins billing at a size; if it is going on at another size, that span ends now. Going on
    /// at the same size changes nothing.
    pub fn start(&mut self, rate: Rate, now: Timestamp) {
        if let Some(open) = self.open_span() {
            if open.rate == rate {
                return;
            }
            open.to = Some(now.max(open.from));
        }
        self.spans.push(Span {
            from: now,
            to: None,
            rate,
        });
    }

    /// Ends billing. Nothing happens if it is not going on.
    pub fn stop(&mut self, now: Timestamp) {
        if let Some(open) = self.open_span() {
            open.to = Some(now.max(open.from));
        }
    }

    /// Whether billing goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.spans.last().is_some_and(|s| s.to.is_none())
    }

    /// The spans, oldest first.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The bill up to `now`. Each span is billed in whole seconds, begun seconds counted full.
    #[must_use]
    pub fn bill(&self, now: Timestamp) -> Bill {
        let mut bill = Bill::default();
        for span in &self.spans {
            let seconds = whole_seconds(span.to.unwrap_or(now).since(span.from));
            bill.seconds += seconds;
            bill.centi_vcpu_seconds += seconds * u64::from(span.rate.cpu);
            bill.deci_gb_seconds += seconds * u64::from(span.rate.memory);
            bill.gpu_seconds += seconds * u64::from(span.rate.gpu);
        }
        bill
    }

    fn open_span(&mut self) -> Option<&mut Span> {
        self.spans.last_mut().filter(|s| s.to.is_none())
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate {
        cpu: 150,
        memory: 20,
        gpu: 0,
    };

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn a_group_is_billed_for_what_it_requests_by_the_second() {
        let mut ledger = Ledger::default();
        ledger.start(RATE, at(100));
        ledger.stop(at(160));
        let bill = ledger.bill(at(1_000));
        assert_eq!(bill.seconds, 60);
        assert!((bill.vcpu_seconds() - 90.0).abs() < 1e-9);
        assert!((bill.gb_seconds() - 120.0).abs() < 1e-9);
    }

    #[test]
    fn a_begun_second_counts_full_and_a_stopped_group_costs_nothing() {
        let mut ledger = Ledger::default();
        ledger.start(RATE, at(0));
        assert_eq!(ledger.bill(Timestamp::from_micros(1)).seconds, 1);
        ledger.stop(at(2));
        assert!(!ledger.is_running());
        assert_eq!(ledger.bill(at(500)).seconds, 2);
        ledger.start(RATE, at(600));
        assert_eq!(ledger.bill(at(601)).seconds, 3);
    }

    proptest! {
        #[test]
        fn bills_never_shrink_and_never_exceed_the_time(steps in proptest::collection::vec((0u8..3, 0u64..100), 0..40)) {
            let mut ledger = Ledger::default();
            let (mut now, mut before, mut starts) = (0u64, 0u64, 0u64);
            for (what, wait) in steps {
                now += wait;
                match what {
                    0 => { ledger.start(RATE, at(now)); starts += 1; }
                    1 => ledger.start(Rate { cpu: 100, memory: 10, gpu: 1 }, at(now)),
                    _ => ledger.stop(at(now)),
                }
                let bill = ledger.bill(at(now));
                prop_assert!(bill.seconds >= before);
                prop_assert!(bill.seconds <= now + starts);
                before = bill.seconds;
            }
        }
    }
}
