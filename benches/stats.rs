//! Medians and percentiles.

/// What a number of runs came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many runs were counted.
    pub runs: usize,
    /// Half of the runs were at most this.
    pub median: f64,
    /// A tenth of the runs was at most this.
    pub p10: f64,
    /// Nine tenths of the runs were at most this.
    pub p90: f64,
}

impl Summary {
    /// Summarises values in any order; `None` without any. Values that are not numbers are left
    /// out.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            runs: sorted.len(),
            median: percentile(&sorted, 50)?,
            p10: percentile(&sorted, 10)?,
            p90: percentile(&sorted, 90)?,
        })
    }
}

/// The value below which so many per cent (0 to 100) of ascending values lie, interpolated between
/// the two nearest; `None` without values.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = last * percent.min(100);
    let (low, rest) = (position / 100, position % 100);
    let (from, to) = (sorted.get(low)?, sorted.get((low + 1).min(last))?);
    let share = f64::from(u8::try_from(rest).unwrap_or(0)) / 100.0;
    Some(from + (to - from) * share)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_of_known_values() {
        let values: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(percentile(&values, 0), Some(0.0));
        assert_eq!(percentile(&values, 10), Some(1.0));
        assert_eq!(percentile(&values, 50), Some(5.0));
        assert_eq!(percentile(&values, 95), Some(9.5));
        assert_eq!(percentile(&values, 100), Some(10.0));
        assert_eq!(percentile(&values, 900), Some(10.0));
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7.0], 90), Some(7.0));
        assert_eq!(percentile(&[1.0, 2.0], 50), Some(1.5));
    }

    #[test]
    fn a_summary_needs_no_order_and_leaves_out_what_is_no_number() {
        let summary = Summary::of(&[3.0, f64::NAN, 1.0, 2.0, f64::INFINITY]).unwrap();
        assert_eq!((summary.runs, summary.median), (3, 2.0));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }

    proptest! {
        #[test]
        fn percentiles_are_in_order_and_in_range(
            values in prop::collection::vec(-1e9..1e9f64, 1..200),
        ) {
            let summary = Summary::of(&values).unwrap();
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert_eq!(summary.runs, values.len());
            prop_assert!(low <= summary.p10 && summary.p10 <= summary.median);
            prop_assert!(summary.median <= summary.p90 && summary.p90 <= high);
            let below = values.iter().filter(|v| **v <= summary.median).count();
            prop_assert!(2 * below >= values.len());
        }
    }
}
