//! The few statistics that a report needs.

use serde::Serialize;

/// Repeated measurements of one number. Infinity stands for an event that never came, and is the greatest of all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// In the middle; of an even number, halfway between the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; `None` when there is none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (low, high) = (*sorted.get(count.checked_sub(1)? / 2)?, sorted[count / 2]);
        Some(Self {
            count,
            median: if low == high { low } else { (low + high) / 2.0 },
            min: sorted[0],
            max: sorted[count - 1],
        })
    }
}

/// Place of the one in the middle when pairs are put in order; of an even number, of the first of the two.
#[must_use]
pub fn typical(keys: &[(f64, f64)]) -> Option<usize> {
    let mut places: Vec<usize> = (0..keys.len()).collect();
    places.sort_by(|a, b| {
        let (a, b) = (keys[*a], keys[*b]);
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    places.get(keys.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn never_is_later_than_everything() {
        let never = f64::INFINITY;
        let spread = Spread::of([never, 2.0, 3.0]).unwrap();
        assert_eq!((spread.median, spread.max), (3.0, never));
        assert_eq!(Spread::of([never, never, 2.0]).unwrap().median, never);
        assert_eq!(Spread::of([never, 2.0]).unwrap().median, never);
    }

    #[test]
    fn the_typical_run_is_the_one_in_the_middle() {
        let keys = [(9.0, 0.0), (1.0, 5.0), (1.0, 4.0), (0.0, 0.0), (2.0, 0.0)];
        assert_eq!(typical(&keys), Some(1));
        assert_eq!(typical(&keys[..2]), Some(1));
        assert_eq!(typical(&[]), None);
    }
}
