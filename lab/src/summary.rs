//! Folders of runs: what is in them, their scores, and the table that people read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::expect::{self, Finding};
use crate::law::Law;
use crate::raw::{self, Footprint, Machine, PhaseStart, PodEvent, Request, Row, Traffic};
use crate::scenario::Scenario;
use crate::score::{self, Load, Raw, Score};

/// What a run did.
pub const SCENARIO_FILE: &str = "scenario.json";
/// What came out.
pub const SUMMARY_FILE: &str = "summary.json";
/// Folder of the run without Laneguard in a demo's folder.
pub const WITHOUT: &str = "without";
/// Folder of the run with Laneguard in a demo's folder.
pub const WITH: &str = "with";

/// What a run did, as its folder tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// The law; absent in folders of runs before there was a choice.
    #[serde(default)]
    pub law: Option<Law>,
    /// Load and network.
    #[serde(flatten)]
    pub scenario: Scenario,
}

/// Reads what the run in `folder` did.
///
/// # Errors
/// When this is no folder of a run.
pub fn ran(folder: &Path) -> anyhow::Result<Ran> {
    let path = folder.join(SCENARIO_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}: is this the folder of a run?",
            path.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// What the run in `folder` did, and its raw logs.
///
/// # Errors
/// When a log is missing or malformed.
pub fn read(folder: &Path) -> anyhow::Result<(Scenario, Raw)> {
    let scenario = ran(folder)?.scenario;
    let raw = Raw {
        requests: raw::read::<Request>(folder)?,
        phases: raw::read::<PhaseStart>(folder)?,
        traffic: raw::read::<Traffic>(folder)?,
        pods: raw::read::<PodEvent>(folder)?,
        footprints: raw::read::<Footprint>(folder)?,
        machine: raw::read::<Machine>(folder)?,
        events: if_any(folder)?,
        stalls: if_any(folder)?,
    };
    Ok((scenario, raw))
}

/// The score of the run in `folder`, from its raw logs.
///
/// # Errors
/// When a log is missing or malformed, or the run has no finished load phase.
pub fn score(folder: &Path) -> anyhow::Result<Score> {
    let (scenario, raw) = read(folder)?;
    Ok(score::score(&scenario.setup(), &raw)?)
}

/// Runs of older labs have no log of events and stalls.
fn if_any<R: Row>(folder: &Path) -> Result<Vec<R>, raw::Error> {
    match raw::read(folder) {
        Err(raw::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        read => read,
    }
}

/// What the scenario of the run in `folder` is about beside the score; empty when it says nothing.
///
/// # Errors
/// As [`score()`].
pub fn findings(folder: &Path) -> anyhow::Result<Vec<Finding>> {
    let (scenario, raw) = read(folder)?;
    let decisions = expect::decisions(folder)?;
    Ok(expect::findings(&scenario, &raw, &decisions))
}

/// The findings as lines to read, beginning with an empty one.
#[must_use]
pub fn finding_lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = write!(text, "\n{finding}");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Scores the folder of a run, or of a demo with its two runs; writes each `summary.json` anew and returns the table.
///
/// # Errors
/// As [`score()`].
pub fn score_folder(folder: &Path) -> anyhow::Result<String> {
    if folder.join(SCENARIO_FILE).is_file() {
        let score = score(folder)?;
        write_json(&folder.join(SUMMARY_FILE), &score)?;
        let findings = finding_lines(&findings(folder)?);
        return Ok(format!("{}{findings}", table(&[("this run", &score)])));
    }
    let (without, with) = (score(&folder.join(WITHOUT))?, score(&folder.join(WITH))?);
    write_json(&folder.join(WITHOUT).join(SUMMARY_FILE), &without)?;
    write_json(&folder.join(WITH).join(SUMMARY_FILE), &with)?;
    write_both(folder, &without, &with)?;
    Ok(comparison(&without, &with))
}

/// Writes the summary of a demo.
///
/// # Errors
/// When the file cannot be written.
pub fn write_both(folder: &Path, without: &Score, with: &Score) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Both<'a> {
        without: &'a Score,
        with: &'a Score,
    }
    write_json(&folder.join(SUMMARY_FILE), &Both { without, with })
}

/// Writes a value as a JSON file for people and programs.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether protection did more than nothing: fewer violating windows.
#[must_use]
pub fn is_better(without: &Score, with: &Score) -> bool {
    with.violating_percent < without.violating_percent
}

/// The two runs of a demo side by side.
#[must_use]
pub fn comparison(without: &Score, with: &Score) -> String {
    table(&[("without", without), ("with Laneguard", with)])
}

/// Runs side by side, one column each.
#[must_use]
pub fn table(runs: &[(&str, &Score)]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &dyn Fn(&Score) -> String| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name:<44}");
        for (_, score) in runs {
            let _ = write!(text, "{:>18}", value(score));
        }
        text.push('\n');
    };
    row("violating windows after the first onset", &|score| {
        format!(
            "{:.1} % ({}/{})",
            score.violating_percent, score.violating, score.windows
        )
    });
    row("critical latency under load: P50", &|score| {
        ms(score.latency.p50_ms)
    });
    row("                             P95", &|score| {
        ms(score.latency.p95_ms)
    });
    row("                             P99", &|score| {
        ms(score.latency.p99_ms)
    });
    row("                             jitter (IQR)", &|score| {
        ms(score.latency.jitter_ms)
    });
    row("critical requests failed", &|score| {
        format!("{} of {}", score.failed, score.requests)
    });
    row("best-effort goodput, share of what is left", &|score| {
        format!("{:.1} %", score.goodput_percent)
    });
    row("  its fairness (Jain's index over the sinks)", &|score| {
        score
            .fairness
            .map_or_else(|| "-".to_owned(), |index| format!("{index:.3}"))
    });
    row("limit changes per minute of load", &|score| {
        format!("{:.1}", score.limit_changes_per_minute)
    });
    row("  of these, while protected", &|score| {
        format!("{:.1}", score.steady_limit_changes_per_minute)
    });
    row("pods restarted", &|score| score.pods_restarted.to_string());
    let loads = runs
        .iter()
        .map(|(_, score)| score.loads.len())
        .max()
        .unwrap_or(0);
    for index in 0..loads {
        let of = |show: &'static dyn Fn(&Load) -> String| {
            move |score: &Score| score.loads.get(index).map_or_else(|| "-".to_owned(), show)
        };
        let number = index + 1;
        row(
            &format!("load {number}: violating windows"),
            &of(&|load| format!("{}/{}", load.violating, load.windows)),
        );
        row(
            &format!("load {number}: protected after"),
            &of(&|load| {
                load.protected_after_s
                    .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s"))
            }),
        );
        row(
            &format!("load {number}: and goodput of 90 % after"),
            &of(&|load| {
                load.recovered_after_s
                    .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s"))
            }),
        );
        row(
            &format!("load {number}: goodput"),
            &of(&|load| format!("{:.1} Mbit/s", load.goodput_bps / 1e6)),
        );
    }
    row("machine busy under load", &|score| {
        format!("{:.0} %", score.machine_busy_percent)
    });
    row("processors stood still", &|score| {
        let stood = score.stalls.as_ref();
        stood.map_or_else(|| "-".to_owned(), ToString::to_string)
    });
    row("violating windows beside that", &|score| {
        let stood = score.stalls.as_ref();
        stood.map_or_else(|| "-".to_owned(), |stood| stood.violating.to_string())
    });
    let services: BTreeSet<&String> = runs
        .iter()
        .flat_map(|(_, score)| score.services.keys())
        .collect();
    for name in services {
        row(&format!("{name}: processor, memory"), &|score| {
            score.services.get(name).map_or_else(
                || "-".to_owned(),
                |service| {
                    format!(
                        "{:.1} %, {:.0} MiB",
                        service.cpu_percent, service.most_rss_mib
                    )
                },
            )
        });
    }
    let mut header = format!("{:<44}", "");
    for (name, _) in runs {
        let _ = write!(header, "{name:>18}");
    }
    format!("{header}\n{text}")
}

fn ms(value: f64) -> String {
    format!("{value:.1} ms")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::score::Latency;

    fn a_score(violating: usize, p95_ms: f64) -> Score {
        Score {
            windows: 50,
            violating,
            violating_percent: 2.0 * violating as f64,
            latency: Latency {
                p50_ms: 1.0,
                p95_ms,
                p99_ms: p95_ms,
                max_ms: p95_ms,
                jitter_ms: 1.0,
            },
            requests: 10_000,
            failed: 0,
            loads: vec![Load {
                seconds: 50.0,
                windows: 50,
                violating,
                recovered_after_s: None,
                protected_after_s: (violating < 50).then_some(violating as f64),
                goodput_bps: 1e8,
                critical_bps: 1e6,
                room_bps: 2e8,
                goodput_percent: 50.0,
            }],
            goodput_percent: 50.0,
            fairness: Some(1.0),
            limit_changes_per_minute: 0.0,
            steady_limit_changes_per_minute: 0.0,
            pods_restarted: 0,
            machine_busy_percent: 10.0,
            stalls: None,
            services: BTreeMap::new(),
        }
    }

    #[test]
    fn protection_must_make_fewer_windows_violating() {
        let without = a_score(50, 60.0);
        assert!(is_better(&without, &a_score(3, 9.0)));
        assert!(!is_better(&without, &without.clone()));
        assert!(!is_better(&a_score(0, 1.0), &a_score(0, 0.9)));
    }

    #[test]
    fn the_table_has_a_column_for_each_run() {
        let text = comparison(&a_score(50, 60.0), &a_score(3, 9.0));
        assert!(
            text.lines()
                .next()
                .unwrap()
                .ends_with("without    with Laneguard")
        );
        let protected = text
            .lines()
            .find(|line| line.contains("protected after"))
            .unwrap();
        let words: Vec<&str> = protected.split_whitespace().collect();
        assert_eq!(words[4..], ["never", "3", "s"], "{protected}");
    }
}
