//! Bandwidth as Kubernetes quantities: bits per second with decimal (`k M G T`) or binary (`Ki Mi Gi Ti`) suffix.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The least limit that is ever written: below, Cilium's data plane stalls or reads it as unlimited.
pub const LEAST_BPS: f64 = 1e6;
/// The greatest bandwidth that a policy may name, 10 Tbit/s.
pub const MOST_BPS: f64 = 1e13;

/// A bandwidth in bits per second, finite, not negative and at most [`MOST_BPS`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Bandwidth(f64);

/// Why a text is no bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a bandwidth such as 10M, 1G or 2500k (bits per second, 0 to 10T)")]
pub struct InvalidBandwidth(pub String);

impl Bandwidth {
    /// From bits per second.
    ///
    /// # Errors
    /// When the value is not finite, negative or above [`MOST_BPS`].
    pub fn from_bps(bps: f64) -> Result<Self, InvalidBandwidth> {
        if bps.is_finite() && (0.0..=MOST_BPS).contains(&bps) {
            Ok(Self(bps))
        } else {
            Err(InvalidBandwidth(bps.to_string()))
        }
    }

    /// Bits per second.
    pub fn bps(self) -> f64 {
        self.0
    }
}

impl std::str::FromStr for Bandwidth {
    type Err = InvalidBandwidth;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let factor = match suffix {
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            "Ki" => 1024.0,
            "Mi" => 1024.0 * 1024.0,
            "Gi" => 1024.0 * 1024.0 * 1024.0,
            "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(InvalidBandwidth(text.chars().take(40).collect())),
        };
        number
            .parse::<f64>()
            .ok()
            .and_then(|n| Self::from_bps(n * factor).ok())
            .ok_or_else(|| InvalidBandwidth(text.chars().take(40).collect()))
    }
}

impl std::fmt::Display for Bandwidth {
    /// The shortest exact form: `115M`, `1G`, `2500k`, else plain bits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (factor, suffix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
            if self.0 >= factor && self.0 % factor == 0.0 {
                return write!(f, "{}{suffix}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(f64),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse(),
            Form::Number(bps) => Self::from_bps(bps),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_bits_per_second() {
        for (text, bps) in [
            ("115M", 115e6),
            ("1G", 1e9),
            ("2500k", 2.5e6),
            ("1.5M", 1.5e6),
            ("10Mi", 10_485_760.0),
            ("42", 42.0),
        ] {
            assert_eq!(text.parse::<Bandwidth>().unwrap().bps(), bps, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_would_misread_is_refused() {
        for text in [
            "", "M", "100m", "-5M", "10Mbit", "1e400", "NaN", "inf", "11T", "1..2M",
        ] {
            assert!(text.parse::<Bandwidth>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_shortest_exact_form_is_written() {
        for (bps, text) in [
            (115e6, "115M"),
            (1e9, "1G"),
            (1.25e9, "1250M"),
            (2_500_500.0, "2500500"),
            (0.0, "0"),
        ] {
            assert_eq!(Bandwidth::from_bps(bps).unwrap().to_string(), text);
        }
    }
}
