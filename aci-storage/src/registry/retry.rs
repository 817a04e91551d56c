//! When to try again.

use std::time::Duration;

/// Pauses between tries; a pure function of what happened.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    left: u32,
    most: u32,
    pause: Duration,
    longest: Duration,
}

/// The first pause and the longest one that is not asked for.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

impl Patience {
    pub(super) const fn new(retries: u32, longest: Duration) -> Self {
        Self {
            left: retries,
            most: retries,
            pause: FIRST,
            longest,
        }
    }

    /// Something came through, so the count starts anew.
    pub(super) const fn progress(&mut self) {
        self.left = self.most;
        self.pause = FIRST;
    }

    /// The pause before the next try; `None` if there is to be none. `asked` is what the registry
    /// wants.
    pub(super) fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if asked.is_some_and(|asked| asked > self.longest) {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let pause = asked.unwrap_or_default().max(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
        Some(pause)
    }
}

/// Whether an answer may be another one later (RFC 9110, section 15; 429 is RFC 6585).
pub(super) const fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// `Retry-After` in seconds. Its other form, a date, is not used by registries; it is ignored.
pub(super) fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut patience = Patience::new(3, Duration::from_secs(10));
        let pauses: Vec<_> = std::iter::from_fn(|| patience.failed(None)).collect();
        assert_eq!(pauses, [200, 400, 800].map(Duration::from_millis));
        patience.progress();
        assert_eq!(patience.failed(None), Some(FIRST));
    }

    #[test]
    fn a_wish_is_granted_within_bounds() {
        let mut patience = Patience::new(3, Duration::from_secs(10));
        let asked = retry_after(" 7 ");
        assert_eq!(patience.failed(asked), Some(Duration::from_secs(7)));
        assert_eq!(patience.failed(retry_after("11")), None);
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(retry_after("-1"), None);
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(
            retries in 0u32..20,
            asked in prop::collection::vec(prop::option::of(0u64..100), 0..40),
        ) {
            let longest = Duration::from_secs(30);
            let mut patience = Patience::new(retries, longest);
            let mut tries = 0;
            for wish in asked {
                if let Some(pause) = patience.failed(wish.map(Duration::from_secs)) {
                    tries += 1;
                    prop_assert!(pause <= longest);
                }
            }
            prop_assert!(tries <= retries);
        }
    }
}
