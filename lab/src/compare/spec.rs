//! Names of what is compared: `congestion`, `congestion:rate-mbit=50:pods=6`, `none`, `Fixed:66M`, and the folders of their runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A law or a scenario as the command line names it: a word, and settings after colons.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spec(String);

impl Spec {
    /// The word before the settings.
    #[must_use]
    pub fn word(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// The settings in order.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.0.split(':').skip(1)
    }

    /// Name of the folder of its runs. Colons are not allowed in file names everywhere.
    #[must_use]
    pub fn folder(&self) -> String {
        self.0.replace(':', "@")
    }

    /// Reads what [`Spec::folder`] wrote; `None` for the name of any other folder.
    #[must_use]
    pub fn from_folder(name: &str) -> Option<Self> {
        name.replace('@', ":").parse().ok()
    }

    /// The limit of `Fixed:66M` in bits per second; `None` for anything else.
    #[must_use]
    pub fn fixed_bps(&self) -> Option<f64> {
        let limit = self.0.strip_prefix("Fixed:")?;
        bits(limit).ok()
    }

    /// The law that never changes this limit.
    #[must_use]
    pub fn fixed(bps: f64) -> Self {
        let kilobits = (bps / 1e3).round();
        if kilobits % 1e3 == 0.0 {
            Self(format!("Fixed:{}M", kilobits / 1e3))
        } else {
            Self(format!("Fixed:{kilobits}k"))
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.=+,".contains(letter);
        let is_part = |part: &str| part.starts_with(|first: char| first.is_ascii_alphanumeric());
        if text
            .split(':')
            .all(|part| is_part(part) && part.chars().all(allowed))
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is not a name with settings after colons, such as Fixed:66M"
            ))
        }
    }
}

impl TryFrom<String> for Spec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Spec> for String {
    fn from(spec: Spec) -> Self {
        spec.0
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rate such as `66M`, `1G`, `64500k`, in bits per second.
///
/// # Errors
/// When it is not a positive number with one of these suffixes.
pub fn bits(text: &str) -> Result<f64, String> {
    let unit = |suffix: char| match suffix {
        'k' => Some(1e3),
        'M' => Some(1e6),
        'G' => Some(1e9),
        _ => None,
    };
    text.char_indices()
        .next_back()
        .and_then(|(at, suffix)| Some(text[..at].parse::<f64>().ok()? * unit(suffix)?))
        .filter(|bits| bits.is_finite() && *bits >= 1e3)
        .ok_or_else(|| format!("{text:?} is not a rate such as 66M, 1G or 64500k"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_back_from_its_folder() {
        for text in [
            "none",
            "Fixed:66M",
            "Adaptive:forecast=false",
            "congestion:rate-mbit=50:pods=6",
        ] {
            let spec: Spec = text.parse().unwrap();
            assert!(!spec.folder().contains(':'));
            assert_eq!(Spec::from_folder(&spec.folder()), Some(spec));
        }
    }

    #[test]
    fn a_name_that_could_leave_the_folder_or_be_a_flag_is_refused() {
        for text in [
            "",
            "..",
            "../x",
            "a/b",
            "-x",
            "a:",
            ":a",
            ".programs",
            "a b",
        ] {
            assert!(text.parse::<Spec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn fixed_limits_read_back() {
        assert_eq!(Spec::fixed(66e6).to_string(), "Fixed:66M");
        assert_eq!(Spec::fixed(66_666_667.0).to_string(), "Fixed:66667k");
        assert_eq!(Spec::fixed(66_500_000.0).fixed_bps(), Some(66.5e6));
        assert_eq!("Threshold".parse::<Spec>().unwrap().fixed_bps(), None);
    }

    #[test]
    fn a_rate_needs_a_number_and_a_unit() {
        assert_eq!(bits("1.5G"), Ok(1.5e9));
        for text in ["", "M", "66", "-5M", "0M", "infM", "5µ"] {
            assert!(bits(text).is_err(), "{text:?}");
        }
    }
}
