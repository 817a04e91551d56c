//! How often a subscription may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aci_core::time::Timestamp;
use http::Method;

use super::error::{ArmError, ArmResult};
use super::options::Rates;
use super::route::Route;

const HOUR: Duration = Duration::from_secs(60 * 60);
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
/// Subscriptions that are counted apart; whoever makes up more shares the last count.
const MOST: usize = 1_024;

/// Requests in windows of fixed length.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since: Timestamp,
    used: u32,
}

impl Window {
    /// What is left after one more, or the seconds after which one more may come.
    fn take(&mut self, now: Timestamp, length: Duration, limit: u32) -> Result<u32, u64> {
        if now.since(self.since) >= length || now < self.since {
            *self = Self {
                since: now,
                used: 0,
            };
        }
        if self.used >= limit {
            let left = length.saturating_sub(now.since(self.since));
            return Err(left.as_secs().max(1));
        }
        self.used += 1;
        Ok(limit - self.used)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: Window,
    writes: Window,
    groups_5m: Window,
    groups_1h: Window,
}

/// The counts of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<HashMap<String, Counts>>);

impl Meter {
    /// Counts a request; answers the headers that say what is left.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub(crate) fn take(
        &self,
        rates: Rates,
        subscription: Option<&str>,
        route: &Route,
        now: Timestamp,
    ) -> ArmResult<Vec<(&'static str, u32)>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = subscription.unwrap_or_default().to_lowercase();
        if all.len() >= MOST && !all.contains_key(&key) {
            key = "others".to_owned();
        }
        let counts = all.entry(key).or_default();
        let read = matches!(route.method, Method::GET | Method::HEAD);
        let (window, limit, tenant, ours) = if read {
            (
                &mut counts.reads,
                rates.reads,
                "x-ms-ratelimit-remaining-tenant-reads",
                "x-ms-ratelimit-remaining-subscription-reads",
            )
        } else {
            (
                &mut counts.writes,
                rates.writes,
                "x-ms-ratelimit-remaining-tenant-writes",
                "x-ms-ratelimit-remaining-subscription-writes",
            )
        };
        let left = window
            .take(now, HOUR, limit)
            .map_err(|wait| throttled(limit, "hour", wait))?;
        let mut headers = vec![(if subscription.is_some() { ours } else { tenant }, left)];
        let of_groups = matches!(
            route.action,
            "Microsoft.ContainerInstance/containerGroups/write"
                | "Microsoft.ContainerInstance/containerGroups/delete"
        ) && route.method != Method::PATCH;
        if of_groups {
            let (hour, five) = (rates.groups_1h, rates.groups_5m);
            let left = counts
                .groups_1h
                .take(now, HOUR, hour)
                .map_err(|wait| throttled(hour, "hour", wait))?;
            headers.push((
                "x-ms-ratelimit-remaining-subscription-resource-requests-pt1h",
                left,
            ));
            let left = counts
                .groups_5m
                .take(now, FIVE_MINUTES, five)
                .map_err(|wait| throttled(five, "5 minutes", wait))?;
            headers.push((
                "x-ms-ratelimit-remaining-subscription-resource-requests-pt5m",
                left,
            ));
        }
        Ok(headers)
    }
}

fn throttled(limit: u32, of: &str, wait: u64) -> ArmError {
    ArmError::too_many_requests(
        format!(
            "The subscription has made its {limit} requests of this kind per {of}. Retry after {wait} seconds."
        ),
        wait,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_a_window(
            limit in 0u32..6, steps in proptest::collection::vec(0u64..400, 1..60)
        ) {
            let mut window = Window::default();
            let mut now = Timestamp::from_secs(1_000_000);
            let mut taken: Vec<Timestamp> = Vec::new();
            for step in steps {
                now = now + Duration::from_secs(step);
                match window.take(now, FIVE_MINUTES, limit) {
                    Ok(left) => {
                        taken.push(now);
                        prop_assert!(left < limit);
                    }
                    Err(wait) => {
                        // Whoever waits so long gets in, unless nobody ever does.
                        let later = now + Duration::from_secs(wait + 1);
                        let mut then = window;
                        prop_assert_eq!(then.take(later, FIVE_MINUTES, limit).is_ok(), limit > 0);
                    }
                }
                let within = taken.iter().filter(|t| **t >= window.since).count();
                prop_assert!(within <= limit as usize);
            }
        }
    }
}
