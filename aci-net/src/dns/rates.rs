//! How much one sender may ask: a bucket of tokens each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Questions a second in the long run.
const PER_SECOND: f64 = 2_000.0;
/// Questions at once.
const BURST: f64 = 4_000.0;
/// The most senders that are remembered.
const SENDERS: usize = 4_096;

/// The buckets of all senders.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: HashMap<IpAddr, (f64, Instant)>,
}

impl Rates {
    /// Takes a token, if there is one.
    pub(super) fn allow(&mut self, sender: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= SENDERS && !self.buckets.contains_key(&sender) {
            let full = Duration::from_secs_f64(BURST / PER_SECOND);
            self.buckets
                .retain(|_, (_, last)| now.saturating_duration_since(*last) < full);
            if self.buckets.len() >= SENDERS {
                return false;
            }
        }
        let (tokens, last) = self.buckets.entry(sender).or_insert((BURST, now));
        let passed = now.saturating_duration_since(*last).as_secs_f64();
        *tokens = (*tokens + passed * PER_SECOND).min(BURST);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_held_back_and_others_are_not() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let (a, b) = ("10.0.0.4".parse().unwrap(), "10.0.0.5".parse().unwrap());
        let passed = (0..10_000).filter(|_| rates.allow(a, now)).count();
        assert_eq!(passed, 4_000);
        assert!(rates.allow(b, now));
        let later = now + Duration::from_millis(500);
        let passed = (0..10_000).filter(|_| rates.allow(a, later)).count();
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn the_number_of_senders_is_bounded() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        for i in 0..10_000u32 {
            rates.allow(IpAddr::from(i.to_be_bytes()), now);
        }
        assert_eq!(rates.buckets.len(), SENDERS);
        let later = now + Duration::from_secs(3);
        assert!(rates.allow("1.2.3.4".parse().unwrap(), later));
        assert_eq!(rates.buckets.len(), 1);
    }
}
