//! How numbers and lists read in a reason. Lists are cut, so that a reason stays short whatever the policy's size.

use std::fmt::Write;

use crate::LimitChange;

/// Classes named one by one in a reason.
const CLASSES_NAMED: usize = 4;

/// A number with at most three decimals and no trailing zeros.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bits per second as megabits.
pub(crate) fn mbit(bps: f64) -> String {
    format!("{} Mbit/s", number(bps / 1e6))
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u64) -> String {
    // Exact up to 2^53 ms; durations here are far shorter.
    #[allow(clippy::cast_precision_loss)]
    let seconds = ms as f64 / 1e3;
    format!("{} s", number(seconds))
}

/// What happens to each limit: `bulk 1000 to 950 Mbit/s, scavenger stays at 10 Mbit/s`.
pub(crate) fn limits(changes: &[LimitChange]) -> String {
    let mut text = String::new();
    for (index, change) in changes.iter().take(CLASSES_NAMED).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let after = mbit(change.after_bps);
        // Writing to a String cannot fail.
        let _ = if change.is_changed() {
            let before = number(change.before_bps / 1e6);
            write!(text, "{separator}{} {before} to {after}", change.class)
        } else {
            write!(text, "{separator}{} stays at {after}", change.class)
        };
    }
    if changes.len() > CLASSES_NAMED {
        let _ = write!(text, " and {} more", changes.len() - CLASSES_NAMED);
    }
    text
}

/// ` (and 2 more workloads)`, or nothing.
pub(crate) fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and 1 more workload)".to_owned(),
        n => format!(" (and {n} more workloads)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_units_are_said() {
        assert_eq!(number(5.0), "5");
        assert_eq!(number(100.0), "100");
        assert_eq!(number(8.706_4), "8.706");
        assert_eq!(mbit(1e9), "1000 Mbit/s");
        assert_eq!(mbit(12_500_000.0), "12.5 Mbit/s");
        assert_eq!(seconds(1_500), "1.5 s");
    }

    #[test]
    fn a_long_list_of_classes_is_cut() {
        let change = |class: &str, after_bps| LimitChange {
            class: class.into(),
            before_bps: 20e6,
            after_bps,
        };
        let mut changes = vec![change("a", 10e6), change("b", 20e6)];
        assert_eq!(limits(&changes), "a 20 to 10 Mbit/s, b stays at 20 Mbit/s");
        changes.extend([change("c", 1e6), change("d", 1e6), change("e", 1e6)]);
        assert!(limits(&changes).ends_with(", d 20 to 1 Mbit/s and 1 more"));
    }
}
