//! The two annotations: which keys, and the form of their values.
//!
//! A [`Limit`] can only be made by clamping to a class's bounds, so that whatever reaches a pod is in range and parseable: Cilium
//! takes a malformed or tiny value for *unlimited*.

use std::fmt;

use laneguard_proto::policy::{Bounds, StaleAction};
use laneguard_proto::quantity::{Bandwidth, LEAST_BPS};
use laneguard_proto::subject::Token;
use laneguard_proto::{MOST_SEQUENCE, plausible_term};
use serde::{Deserialize, Serialize};

/// The egress limit that Cilium's bandwidth manager and the CNI bandwidth plugin read.
pub const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Our record of who set the limit and what was there before.
pub const RECORD: &str = "laneguard.dev/limit";
/// On a pod: Laneguard keeps its hands off, whatever the value. One that gets it while it is limited keeps limit and record as they are, also
/// when the policy ends or the limit expires: whoever took charge of the pod removes them. Without it the pod is as any other again.
pub const IGNORE: &str = "laneguard.dev/ignore";

/// The longest record that is read; a longer one counts as unreadable.
const LONGEST_RECORD: usize = 4096;
/// The longest value found before us that is carried in the record. A longer one is no bandwidth; such a pod is left alone.
pub const LONGEST_FOUND: usize = 253;

/// An egress limit in whole bits per second, within a class's bounds and at least 1 Mbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit(u64);

impl Limit {
    /// The nearest limit within the bounds, rounded down to whole kilobits where the bounds allow; and whether it had to be clamped.
    pub fn within(bps: f64, bounds: &Bounds) -> (Self, bool) {
        let low = bounds.min_bps().max(LEAST_BPS).ceil();
        let high = bounds.max_bps().floor().max(low);
        // a value that is no number fails towards protection
        let wanted = if bps.is_nan() { low } else { bps };
        let inside = wanted.clamp(low, high).floor();
        let down = (inside / 1e3).floor() * 1e3;
        let up = (inside / 1e3).ceil() * 1e3;
        let bits = [down, up]
            .into_iter()
            .find(|candidate| (low..=high).contains(candidate))
            .unwrap_or(inside);
        (Self(bits as u64), !(low..=high).contains(&bps))
    }

    /// Bits per second.
    pub fn bps(self) -> f64 {
        self.0 as f64
    }
}

impl fmt::Display for Limit {
    /// `115M` when whole megabits, else kilobits with suffix `k`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        if bits.is_multiple_of(1_000_000) {
            return write!(f, "{}M", bits / 1_000_000);
        }
        if bits.is_multiple_of(1000) {
            return write!(f, "{}k", bits / 1000);
        }
        // only where the bounds leave no whole kilobit between them
        let fraction = format!("{:03}", bits % 1000);
        write!(f, "{}.{}k", bits / 1000, fraction.trim_end_matches('0'))
    }
}

/// What Cilium makes of an annotation, in bits per second. `None`: it sets no limit (absent, malformed, negative, or below a byte per second).
pub fn effective_bps(text: &str) -> Option<f64> {
    let text = text.trim();
    let signs = usize::from(text.starts_with(['+', '-']));
    let end = text[signs..]
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map_or(text.len(), |at| at + signs);
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => f64::from(1 << 10),
        "Mi" => f64::from(1 << 20),
        "Gi" => f64::from(1 << 30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            10_f64.powi(digits.parse::<i32>().ok().filter(|e| e.abs() < 100)?)
        }
    };
    // Kubernetes rounds a quantity up to a whole number, Cilium divides by 8 and takes 0 for unlimited
    let bits = (number * factor).ceil();
    (bits.is_finite() && bits >= 8.0).then_some(bits)
}

/// What follows when nobody renews the limit, as the record says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stale {
    /// What to do.
    pub action: StaleAction,
    /// After how many milliseconds without a command.
    pub after_ms: u64,
}

impl Default for Stale {
    fn default() -> Self {
        Self {
            action: StaleAction::Hold,
            after_ms: 15_000,
        }
    }
}

/// Our record on a pod: who set its limit, by which command, what follows without one, and what was there before us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The policy's token.
    #[serde(with = "token")]
    pub policy: Token,
    /// The class within the policy.
    #[serde(with = "token")]
    pub class: Token,
    /// Term of the command when the record was written.
    #[serde(default)]
    pub term: u64,
    /// Sequence of the command when the record was written.
    #[serde(default)]
    pub sequence: u64,
    /// What follows when nobody renews the limit.
    #[serde(default)]
    pub on_stale: Stale,
    /// The class's floor.
    #[serde(default = "default_min")]
    pub min: Bandwidth,
    /// The class's ceiling; `None`: the class has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Bandwidth>,
    /// The annotation's value before us; `None`: there was none.
    #[serde(default)]
    pub found: Option<String>,
}

fn default_min() -> Bandwidth {
    Bounds::default().min
}

impl Record {
    /// Reads an annotation. `None`: it is not a record of ours that can be read.
    pub fn parse(text: &str) -> Option<Self> {
        let record: Self = (text.len() <= LONGEST_RECORD)
            .then(|| serde_json::from_str(text).ok())
            .flatten()?;
        let found_fits = record
            .found
            .as_ref()
            .is_none_or(|f| f.len() <= LONGEST_FOUND);
        found_fits.then_some(record)
    }

    /// Without a number that nobody can have given by `now_ms` (Unix milliseconds): it would be above every command to come.
    pub fn with_plausible_number(mut self, now_ms: i64) -> Self {
        if !plausible_term(self.term, now_ms) || self.sequence > MOST_SEQUENCE {
            (self.term, self.sequence) = (0, 0);
        }
        self
    }

    /// The annotation's value.
    pub fn to_json(&self) -> String {
        // a struct of names and numbers always has a JSON form
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether the other differs in more than the command's number, so that the annotation must be rewritten: every write makes
    /// Cilium regenerate the endpoint.
    pub fn same_but_for_number(&self, other: &Self) -> bool {
        (&self.policy, &self.class, &self.found) == (&other.policy, &other.class, &other.found)
            && (self.on_stale, self.min, self.max) == (other.on_stale, other.min, other.max)
    }

    /// The class's bounds when the record was written.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            min: self.min,
            max: self.max,
        }
    }
}

/// A [`Token`] as a string.
mod token {
    use laneguard_proto::subject::Token;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(token: &Token, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(token.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Token, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(min: f64, max: Option<f64>) -> Bounds {
        Bounds {
            min: Bandwidth::from_bps(min).unwrap(),
            max: max.map(|m| Bandwidth::from_bps(m).unwrap()),
        }
    }

    #[test]
    fn whole_megabits_end_in_m_and_the_rest_in_whole_kilobits_rounded_down() {
        let range = bounds(1e6, Some(1e9));
        for (bps, text, clamped) in [
            (115e6, "115M", false),
            (115_000_999.0, "115M", false),
            (2_500_000.0, "2500k", false),
            (2_500_999.9, "2500k", false),
            (1.0, "1M", true),
            (0.0, "1M", true),
            (f64::NAN, "1M", true),
            (2e9, "1000M", true),
        ] {
            let (limit, was_clamped) = Limit::within(bps, &range);
            assert_eq!((limit.to_string().as_str(), was_clamped), (text, clamped));
        }
    }

    #[test]
    fn narrow_bounds_are_kept_even_where_no_whole_kilobit_fits() {
        let narrow = bounds(2_500_500.0, Some(2_500_600.0));
        assert_eq!(Limit::within(0.0, &narrow).0.to_string(), "2500.5k");
        let upwards = bounds(2_500_500.0, Some(3e6));
        assert_eq!(Limit::within(0.0, &upwards).0.to_string(), "2501k");
    }

    #[test]
    fn found_values_are_read_as_kubernetes_and_cilium_read_them() {
        for (text, bps) in [
            ("115M", Some(115e6)),
            ("10Mi", Some(10_485_760.0)),
            ("1e6", Some(1e6)),
            ("1E", Some(1e18)),
            ("+5M", Some(5e6)),
            (".5M", Some(5e5)),
            ("0.1", None),
            ("100m", None),
            ("7", None),
            ("-5M", None),
            ("10Mbit", None),
            ("", None),
            ("abc", None),
        ] {
            assert_eq!(effective_bps(text), bps, "{text}");
        }
    }

    #[test]
    fn a_record_is_read_back_and_garbage_is_not() {
        let record = Record {
            policy: "factory_floor".parse().unwrap(),
            class: "bulk".parse().unwrap(),
            term: 7,
            sequence: 9,
            on_stale: Stale::default(),
            min: Bandwidth::from_bps(1e7).unwrap(),
            max: None,
            found: Some("50M".into()),
        };
        assert_eq!(Record::parse(&record.to_json()), Some(record));
        assert!(Record::parse(r#"{"policy":"a","class":"b","later":1}"#).is_some());
        let too_long = format!(
            r#"{{"policy":"a","class":"b","found":"{}"}}"#,
            "9".repeat(5000)
        );
        for text in ["", "{}", "x", r#"{"policy":"a.b","class":"c"}"#, &too_long] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_the_value_is_in_bounds_and_parses_to_itself(
            bps in prop_oneof![any::<f64>(), 0.0..2e9_f64],
            min in 0_u64..100_000_000, span in 0_u64..1_000_000_000, capped: bool,
        ) {
            let range = bounds(min as f64, capped.then_some((min + span) as f64));
            let (limit, _) = Limit::within(bps, &range);
            let read = effective_bps(&limit.to_string()).unwrap();
            prop_assert_eq!(read, limit.bps());
            prop_assert!(read >= 1e6);
            prop_assert!(read >= range.min_bps());
            prop_assert!(read <= range.max_bps().max(1e6));
        }
    }
}
