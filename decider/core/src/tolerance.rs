//! How often a workload may miss its targets before a law takes it for violating: at most m of any k windows in a row.
//!
//! A window counts as violating if it is above a target and, with it, more than m of the last k windows are. A window within the targets
//! never is, whatever came before: nothing is taken from best-effort for what is over. `n` in a row is m = n - 1 of k = n.
//!
//! Windows count once, however many samples show them; windows without data, and idle ones, are no windows here.
//!
//! Source: Hamdaoui and Ramanathan, "A Dynamic Priority Assignment Technique for Streams with (m, k)-Firm Deadlines", IEEE Transactions
//! on Computers 44 (12), 1995. Their m counts the windows that must hold, ours the ones that may not.

use serde::{Deserialize, Serialize};

use crate::policy::{PolicyError, in_range};

/// Most windows that are looked back upon; bounds the state.
pub const MOST_WINDOWS: u8 = 100;

/// At most so many windows of so many may miss a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Windows that may be above, less than `of`. 0: every window counts.
    pub windows: u8,
    /// The last windows that are looked at, 1 to [`MOST_WINDOWS`].
    pub of: u8,
}

impl Tolerance {
    /// Violating only when so many windows in a row are above, 1 to [`MOST_WINDOWS`].
    #[must_use]
    pub const fn in_a_row(windows: u8) -> Self {
        Self {
            windows: windows.saturating_sub(1),
            of: windows,
        }
    }

    pub(crate) fn validate(self, field: &str) -> Result<(), PolicyError> {
        let most = f64::from(MOST_WINDOWS);
        in_range(&format!("{field}.of"), f64::from(self.of), 1.0, most)?;
        let most = f64::from(self.of.saturating_sub(1));
        let windows = f64::from(self.windows);
        in_range(&format!("{field}.windows"), windows, 0.0, most)
    }

    /// Takes in one more window. `missed` holds how many windows ago each window that was above came, the newest last. Returns, in words, which
    /// of the tolerated windows this one is, if it is above and tolerated.
    pub(crate) fn take_in(self, missed: &mut Vec<u8>, is_above: bool) -> Option<String> {
        for ago in missed.iter_mut() {
            *ago = ago.saturating_add(1);
        }
        missed.retain(|ago| *ago < self.of);
        if !is_above {
            return None;
        }
        missed.push(0);
        let count = missed.len();
        (count <= usize::from(self.windows)).then(|| {
            format!(
                "{count} of the {} in {} windows it tolerates",
                self.windows, self.of
            )
        })
    }
}

/// As [`Tolerance::take_in`]; without tolerance every window counts and nothing is remembered.
pub(crate) fn tolerated(
    tolerance: Option<Tolerance>,
    missed: &mut Vec<u8>,
    is_above: bool,
) -> Option<String> {
    if let Some(tolerance) = tolerance {
        tolerance.take_in(missed, is_above)
    } else {
        missed.clear();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_window_after_the_tolerated_ones_counts() {
        let tolerance = Tolerance { windows: 2, of: 20 };
        let mut missed = Vec::new();
        let mut above = || tolerance.take_in(&mut missed, true);
        assert_eq!(
            above().as_deref(),
            Some("1 of the 2 in 20 windows it tolerates")
        );
        assert!(above().is_some());
        assert_eq!(above(), None);
    }

    #[test]
    fn only_windows_in_a_row_count_where_that_is_asked_for() {
        let tolerance = Tolerance::in_a_row(3);
        let mut missed = Vec::new();
        let counts = [true, true, false, true, true, true, true].map(|is_above| {
            let tolerated = tolerance.take_in(&mut missed, is_above).is_some();
            is_above && !tolerated
        });
        assert_eq!(counts, [false, false, false, false, false, true, true]);
    }

    #[test]
    fn bounds_are_refused_by_name() {
        for (windows, of, field) in [
            (0, 0, "t.of"),
            (1, 101, "t.of"),
            (5, 5, "t.windows"),
            (1, 1, "t.windows"),
        ] {
            let refused = Tolerance { windows, of }.validate("t").unwrap_err();
            assert_eq!(refused.field, field);
        }
        assert!(
            Tolerance {
                windows: 99,
                of: 100
            }
            .validate("t")
            .is_ok()
        );
        assert!(Tolerance::in_a_row(1).validate("t").is_ok());
        assert!(Tolerance::in_a_row(0).validate("t").is_err());
    }

    proptest! {
        #[test]
        fn a_window_counts_exactly_if_it_and_more_than_m_of_the_last_k_are_above(
            of in 1..=MOST_WINDOWS, share in 0.0..1.0_f64, windows in prop::collection::vec(any::<bool>(), 0..300),
        ) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let most = (f64::from(of) * share) as u8;
            let tolerance = Tolerance { windows: most.min(of - 1), of };
            let mut missed = Vec::new();
            for (n, is_above) in windows.iter().enumerate() {
                let text = tolerance.take_in(&mut missed, *is_above);
                let since = (n + 1).saturating_sub(usize::from(of));
                let above = windows[since..=n].iter().filter(|above| **above).count();
                prop_assert_eq!(text.is_some(), *is_above && above <= usize::from(tolerance.windows));
                prop_assert!(missed.len() <= usize::from(of), "the memory is bounded");
            }
        }
    }
}
