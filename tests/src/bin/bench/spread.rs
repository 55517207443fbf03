//! Many runs of one thing as a few numbers.

use serde::Serialize;

/// Runs of one thing; the unit is where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The smallest.
    pub(crate) min: f64,
    /// As many are below as above.
    pub(crate) median: f64,
    /// 99 of 100 are below.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) runs: usize,
}

impl Spread {
    /// Of `values`, in any order; `None` when there are none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let at = |hundredth: usize| sorted[((sorted.len() - 1) * hundredth).div_ceil(100)];
        Some(Self {
            min,
            median: sorted[(sorted.len() - 1) / 2],
            p99: at(99),
            max,
            runs: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_all_runs_in_whatever_order() {
        let values: Vec<_> = (1..=101_u32).rev().map(f64::from).collect();
        let spread = Spread::of(&values).expect("there are values");
        assert_eq!((spread.min, spread.max, spread.runs), (1.0, 101.0, 101));
        assert_eq!((spread.median, spread.p99), (51.0, 100.0));
        assert_eq!(Spread::of(&[]), None);
        let one = Spread::of(&[7.0]).expect("one is enough");
        assert_eq!(
            (one.min, one.median, one.p99, one.max),
            (7.0, 7.0, 7.0, 7.0)
        );
    }
}
