//! Measurements in buckets of minutes and hours, bounded in number.

use std::collections::VecDeque;

use aci_core::time::Timestamp;

/// Seconds of a minute's bucket.
const MINUTE: u64 = 60;
/// Seconds of an hour's bucket.
const HOUR: u64 = 3_600;
/// Minutes that are kept: 12 hours.
const MINUTES: usize = 720;
/// Hours that are kept: 30 days.
const HOURS: usize = 720;

/// What was measured in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) count: u32,
    pub(super) total: f64,
    pub(super) minimum: f64,
    pub(super) maximum: f64,
}

impl Bucket {
    const fn of(value: f64) -> Self {
        Self {
            count: 1,
            total: value,
            minimum: value,
            maximum: value,
        }
    }

    /// Both together.
    pub(super) const fn merge(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            total: self.total + other.total,
            minimum: self.minimum.min(other.minimum),
            maximum: self.maximum.max(other.maximum),
        }
    }

    pub(super) fn average(&self) -> f64 {
        self.total / f64::from(self.count.max(1))
    }
}

/// Buckets of one length, the oldest first; stretches without measurements have none.
#[derive(Clone, Debug, Default)]
struct Tier(VecDeque<(u64, Bucket)>);

impl Tier {
    fn add(&mut self, start: u64, bucket: Bucket, most: usize) {
        match self.0.back_mut() {
            Some((last, own)) if *last == start => *own = own.merge(bucket),
            // A clock that was set back: what is newer stays as it is.
            Some((last, _)) if *last > start => {}
            _ => {
                self.0.push_back((start, bucket));
                if self.0.len() > most {
                    self.0.pop_front();
                }
            }
        }
    }

    fn between(&self, from: u64, to: u64) -> Option<Bucket> {
        let first = self.0.partition_point(|(start, _)| *start < from);
        self.0
            .range(first..)
            .take_while(|(start, _)| *start < to)
            .map(|(_, bucket)| *bucket)
            .reduce(Bucket::merge)
    }
}

/// One measured thing of one container or group: at most 1,440 buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    minutes: Tier,
    hours: Tier,
}

fn seconds(at: Timestamp) -> u64 {
    at.since(Timestamp::EPOCH).as_secs()
}

impl Series {
    /// Takes a measurement.
    pub(super) fn add(&mut self, at: Timestamp, value: f64) {
        let at = seconds(at);
        let bucket = Bucket::of(value);
        self.minutes.add(at - at % MINUTE, bucket, MINUTES);
        self.hours.add(at - at % HOUR, bucket, HOURS);
    }

    /// What was measured from a time on until before another: of minutes as far as they are kept,
    /// and of whole hours before.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Option<Bucket> {
        let (from, to) = (seconds(from), seconds(to));
        let kept = match self.minutes.0.front() {
            Some((first, _)) if self.minutes.0.len() == MINUTES => *first,
            _ => 0,
        };
        let aligned = from.is_multiple_of(HOUR) && to.is_multiple_of(HOUR);
        if from < kept && aligned {
            self.hours.between(from, to)
        } else {
            self.minutes.between(from, to)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn at(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_measured_is_found_in_its_minute() {
        let mut series = Series::default();
        for (second, value) in [(0, 10.0), (15, 20.0), (59, 60.0), (60, 5.0)] {
            series.add(at(second), value);
        }
        let first = series.between(at(0), at(60)).unwrap();
        assert_eq!((first.count, first.total), (3, 90.0));
        assert_eq!((first.minimum, first.maximum), (10.0, 60.0));
        assert_eq!(first.average(), 30.0);
        assert_eq!(series.between(at(60), at(120)).unwrap().total, 5.0);
        assert_eq!(series.between(at(120), at(180)), None);
    }

    #[test]
    fn days_are_kept_by_the_hour_and_everything_is_bounded() {
        let mut series = Series::default();
        let days = 40;
        for minute in 0..days * 24 * 60 {
            series.add(at(minute * 60), 1.0);
        }
        assert_eq!(
            (series.minutes.0.len(), series.hours.0.len()),
            (MINUTES, HOURS)
        );
        let hour = |hours: u64| at(hours * 3_600);
        // Of yesterday the hours are left, of the last minutes everything.
        let last = days * 24;
        assert_eq!(
            series
                .between(hour(last - 30), hour(last - 29))
                .unwrap()
                .count,
            60
        );
        assert_eq!(
            series.between(hour(last - 1), hour(last)).unwrap().count,
            60
        );
        assert_eq!(series.between(hour(0), hour(1)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_breaks_nothing() {
        let mut series = Series::default();
        series.add(at(120), 1.0);
        series.add(at(0), 9.0);
        series.add(at(130), 2.0);
        assert_eq!(series.between(at(0), at(180)).unwrap().total, 3.0);
    }

    proptest! {
        /// The buckets of any cut add up to what was measured.
        #[test]
        fn nothing_is_lost_or_counted_twice(
            values in prop::collection::vec((0u64..3_600, 0u32..1_000), 1..100),
            cut in 0u64..60,
        ) {
            let mut values = values;
            values.sort_unstable();
            let mut series = Series::default();
            for (second, value) in &values {
                series.add(at(*second), f64::from(*value));
            }
            let cut = at(cut * 60);
            let both = [series.between(at(0), cut), series.between(cut, at(3_600))];
            let count: u32 = both.iter().flatten().map(|b| b.count).sum();
            let total: f64 = both.iter().flatten().map(|b| b.total).sum();
            prop_assert_eq!(usize::try_from(count).unwrap(), values.len());
            prop_assert_eq!(total, values.iter().map(|(_, v)| f64::from(*v)).sum::<f64>());
        }
    }
}
