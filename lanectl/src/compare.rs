//! The laws of a policy side by side, from the running totals that its decisions carry.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use laneguard_decider::shadow::{Line, Totals};
use laneguard_decider_core::shadow::Account;
use laneguard_proto::duration::timestamp_to_ms;
use laneguard_proto::subject::{self, Kind, Token};
use laneguard_proto::v1::Decision;
use laneguard_runtime::bus::{Bus, Start, Subscription};
use serde_json::{Value, json};

use crate::args::Stream;
use crate::recording::{Line as Recorded, Reader};
use crate::{name, output};

/// What a law came to in the period.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    law: String,
    /// Its totals.
    account: Account,
    /// Those of no control over the same windows.
    nothing: Account,
    /// Least that was allowed at any decision, bits per second.
    least_bps: Option<f64>,
}

/// First and last reading between two beginnings of the totals.
#[derive(Debug, Clone)]
struct Span {
    since_ms: i64,
    first: (Account, Account),
    last: (Account, Account),
}

/// One law's readings.
#[derive(Debug, Clone, Default)]
struct Readings {
    law: String,
    spans: Vec<Span>,
    least_bps: Option<f64>,
}

/// A policy's laws, read decision by decision in the order of the stream.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    in_force: Readings,
    shadows: BTreeMap<String, Readings>,
    /// When the first decision was made, Unix milliseconds.
    begin_ms: Option<i64>,
    /// Decisions whose limits were on the pods, and others.
    applied: u64,
    only_observed: u64,
}

impl Readings {
    fn read(&mut self, since_ms: i64, line: &Line, nothing: &Account) {
        self.law.clone_from(&line.law);
        self.least_bps = match (self.least_bps, line.allowed_bps) {
            (Some(least), Some(now)) => Some(least.min(now)),
            (least, now) => least.or(now),
        };
        let now = (line.account.clone(), nothing.clone());
        match self.spans.last_mut() {
            Some(span) if span.since_ms == since_ms => span.last = now,
            _ => self.spans.push(Span {
                since_ms,
                first: now.clone(),
                last: now,
            }),
        }
    }

    fn row(&self, begin_ms: i64) -> Row {
        let mut row = Row {
            law: self.law.clone(),
            least_bps: self.least_bps,
            ..Row::default()
        };
        for span in &self.spans {
            let (law, nothing) = if span.since_ms >= begin_ms {
                // the totals began in the period: all of them are about it
                span.last.clone()
            } else {
                let (from, to) = (&span.first, &span.last);
                (to.0.since(&from.0), to.1.since(&from.1))
            };
            row.account = row.account.plus(&law);
            row.nothing = row.nothing.plus(&nothing);
        }
        row
    }
}

impl Comparison {
    /// Takes a decision in. Those without totals, as of other deciders, say nothing.
    pub(crate) fn read(&mut self, decision: &Decision) {
        let Some(totals) = Totals::of(decision) else {
            return;
        };
        let at_ms = decision.decided_at.as_ref().map(timestamp_to_ms);
        self.begin_ms = self.begin_ms.or(at_ms);
        let nothing = &totals.no_control;
        let since_ms = totals.since_ms;
        self.in_force.read(since_ms, &totals.in_force, nothing);
        if let Some(line) = totals.shadow.filter(|_| decision.shadow) {
            let name = decision.shadow_name.clone();
            let readings = self.shadows.entry(name).or_default();
            readings.read(since_ms, &line, nothing);
        }
        if totals.applied {
            self.applied += 1;
        } else {
            self.only_observed += 1;
        }
    }

    /// The law in force, then the shadows by name.
    fn rows(&self) -> Option<Vec<(String, Row)>> {
        let begin_ms = self.begin_ms?;
        let in_force = self.in_force.row(begin_ms);
        let mut rows = vec![(format!("{} (in force)", in_force.law), in_force)];
        for (name, readings) in &self.shadows {
            rows.push((name.clone(), readings.row(begin_ms)));
        }
        Some(rows)
    }

    /// Prints it.
    ///
    /// # Errors
    /// When no decision had totals, or standard output is gone.
    pub(crate) fn print(&self, policy: &Token, format: Stream) -> anyhow::Result<()> {
        let rows = self.rows().with_context(|| {
            format!(
                "no decision of {} in this period has totals to compare: its law is External, it is off, or nothing was measured",
                name::shown(policy.as_str())
            )
        })?;
        match format {
            Stream::Text => output::text(&self.table(&rows)),
            Stream::Json => output::line(&self.json(policy, &rows).to_string()),
        }
    }

    fn json(&self, policy: &Token, rows: &[(String, Row)]) -> Value {
        let law = |(index, (name, row)): (usize, &(String, Row))| {
            json!({
                "name": if index == 0 { row.law.as_str() } else { name.as_str() },
                "law": row.law,
                "role": if index == 0 { "in_force" } else { "shadow" },
                "seconds": row.account.seconds,
                "allowed_mean_bps": mean(row.account.allowed_bits, &row.account),
                "allowed_least_bps": row.least_bps,
                "cut_time_share": mean(row.account.cut_seconds, &row.account),
                "changes_per_minute": changes(&row.account),
                "windows": row.account.windows,
                "violating": row.account.violating,
                "supposed": row.account.supposed,
                "avoided": avoided(row),
                "goodput_lost_bps": mean(row.account.lost_bits, &row.account),
            })
        };
        let nothing = rows.first().map(|(_, row)| &row.nothing);
        json!({
            "policy": policy.as_str(),
            "applied": self.applied > 0,
            "no_control": nothing.map(|nothing| json!({
                "windows": nothing.windows, "violating": nothing.violating, "supposed": nothing.supposed,
            })),
            "laws": rows.iter().enumerate().map(law).collect::<Vec<_>>(),
        })
    }

    fn table(&self, rows: &[(String, Row)]) -> String {
        let mut lines = vec![
            [
                "LAW",
                "ALLOWED",
                "LEAST",
                "CUT TIME",
                "CHANGES/MIN",
                "VIOLATING",
                "AVOIDED*",
                "GOODPUT LOST*",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for (name, row) in rows {
            let account = &row.account;
            lines.push(vec![
                name.clone(),
                mbit(mean(account.allowed_bits, account)),
                mbit(row.least_bps),
                percent(mean(account.cut_seconds, account)),
                changes(account).map_or_else(|| "-".to_owned(), |n| format!("{n:.1}")),
                format!("{} of {}", account.violating, account.windows),
                avoided(row).to_string(),
                mbit(mean(account.lost_bits, account)),
            ]);
        }
        if let Some((_, row)) = rows.first() {
            let nothing = &row.nothing;
            let mut line = vec!["no control".to_owned()];
            line.extend(["-", "-", "-", "-"].map(str::to_owned));
            line.push(format!("{} of {}", nothing.violating, nothing.windows));
            line.extend(["-", "-"].map(str::to_owned));
            lines.push(line);
        }
        let mut text = output::table(&lines);
        text.push_str("* Estimates against no control. Allowed and lost: all best-effort pods together, on average.\n");
        text.push_str(self.closing());
        text
    }

    /// What to make of it.
    fn closing(&self) -> &'static str {
        match (self.applied > 0, self.only_observed > 0) {
            (false, _) => {
                "Nothing was applied: VIOLATING without control is what was measured. A window counts as avoided if the law, since before it began, \
                 allowed less than best-effort sent in it. Laws saw that their cuts changed nothing. If the law in force avoids what you \
                 want avoided at a loss that you accept, set `mode: Enforce`.\n"
            }
            (true, false) => {
                "The law in force was applied: only its VIOLATING is measured. The others are judged by what best-effort sent when it was last not held and \
                 by the capacity of the last violating window, which is weaker evidence than in Observe mode.\n"
            }
            (true, true) => {
                "Limits were applied in a part of the period only: compare each part by itself with --since.\n"
            }
        }
    }
}

/// A share of the time that is accounted for. `None`: none is.
fn mean(total: f64, account: &Account) -> Option<f64> {
    (account.seconds > 0.0).then(|| total / account.seconds)
}

#[allow(clippy::cast_precision_loss)] // counts of a week
fn changes(account: &Account) -> Option<f64> {
    mean((account.cuts + account.raises) as f64 * 60.0, account)
}

fn avoided(row: &Row) -> u64 {
    row.nothing.violating.saturating_sub(row.account.violating)
}

fn mbit(bps: Option<f64>) -> String {
    bps.map_or_else(|| "-".to_owned(), |bps| format!("{:.1}M", bps / 1e6))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

/// From a record or lines of decisions.
///
/// # Errors
/// When a line cannot be read, or there is nothing to compare.
pub(crate) fn record<R: std::io::BufRead>(
    mut record: Reader<R>,
    policy: &Token,
    format: Stream,
) -> anyhow::Result<()> {
    let mut comparison = Comparison::default();
    while let Some(line) = record.next()? {
        if let Recorded::Decision(decision) = line?
            && decision.policy == policy.as_str()
        {
            comparison.read(&decision);
        }
    }
    comparison.print(policy, format)
}

/// From what the stream still has.
///
/// # Errors
/// When NATS does not answer, or there is nothing to compare.
pub(crate) async fn stream(
    bus: &Bus,
    policy: &Token,
    since: Duration,
    format: Stream,
) -> anyhow::Result<()> {
    let filter = subject::decision(bus.cluster().as_str(), policy.as_str());
    let mut decisions: Subscription<Decision> =
        bus.subscribe_to(Kind::Decision, filter, Start::Ago(since));
    let mut comparison = Comparison::default();
    while let Some(received) = decisions
        .next_or_caught_up()
        .await
        .context("NATS is gone")?
    {
        comparison.read(&received.message);
    }
    comparison.print(policy, format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneguard_proto::duration::timestamp_from_ms;
    use laneguard_proto::structure;

    fn account(seconds: f64, windows: u64, violating: u64) -> Account {
        Account {
            evaluations: windows,
            cuts: 2,
            raises: 1,
            seconds,
            allowed_bits: seconds * 60e6,
            cut_seconds: seconds / 2.0,
            lost_bits: seconds * 5e6,
            windows,
            violating,
            supposed: 0,
        }
    }

    /// A shadow decision with totals that grow by 10 windows in 10 s, of which without control all violate, and 2 under the law.
    fn decision(since_ms: i64, at: u64, allowed_bps: f64, applied: bool) -> Decision {
        let seconds = 10.0 * f64::from(u32::try_from(at).unwrap());
        let line = |law: &str, violating| Line {
            law: law.into(),
            allowed_bps: Some(allowed_bps),
            account: account(seconds, 10 * at, violating),
        };
        let totals = Totals {
            since_ms,
            applied,
            no_control: account(seconds, 10 * at, 10 * at),
            in_force: line("Adaptive", 10 * at),
            shadow: Some(line("Threshold", 2 * at)),
        };
        let at_ms = 1_000_000 + i64::try_from(at).unwrap() * 10_000;
        Decision {
            cluster: "default".into(),
            policy: "factory_floor".into(),
            term: 1,
            sequence: at,
            shadow: true,
            shadow_name: "steps".into(),
            decided_at: Some(timestamp_from_ms(at_ms)),
            comparison: structure::from_json(&serde_json::to_value(totals).unwrap()),
            ..Default::default()
        }
    }

    fn compare(decisions: &[Decision]) -> Comparison {
        let mut comparison = Comparison::default();
        for decision in decisions {
            comparison.read(decision);
        }
        comparison
    }

    #[test]
    fn totals_that_began_before_the_period_count_from_their_first_reading() {
        let comparison = compare(&[
            decision(5, 1, 90e6, false),
            decision(5, 2, 50e6, false),
            decision(5, 3, 70e6, false),
        ]);
        let rows = comparison.rows().unwrap();
        let (name, steps) = &rows[1];
        assert_eq!((name.as_str(), steps.law.as_str()), ("steps", "Threshold"));
        assert_eq!((steps.account.windows, steps.account.violating), (20, 4));
        assert_eq!(avoided(steps), 16);
        assert_eq!(steps.least_bps, Some(50e6));
        assert_eq!(avoided(&rows[0].1), 0);
    }

    #[test]
    fn totals_that_began_anew_in_the_period_are_added() {
        let comparison = compare(&[
            decision(5, 1, 90e6, false),
            decision(5, 2, 90e6, false),
            decision(1_025_000, 3, 90e6, false),
        ]);
        let rows = comparison.rows().unwrap();
        assert_eq!(rows[1].1.account.windows, 10 + 30);
        assert_eq!(rows[1].1.account.seconds, 10.0 + 30.0);
    }

    #[test]
    fn the_table_says_what_to_make_of_it() {
        let observed = compare(&[decision(5, 1, 90e6, false), decision(5, 7, 50e6, false)]);
        let table = observed.table(&observed.rows().unwrap());
        let line = |start: &str| table.lines().find(|l| l.starts_with(start)).unwrap();
        let cells: Vec<&str> = line("steps").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "steps", "60.0M", "50.0M", "50%", "0.0", "12", "of", "60", "48", "5.0M"
            ]
        );
        assert!(line("no control").contains("60 of 60"), "{table}");
        assert!(line("Adaptive (in force)").contains("60 of 60"), "{table}");
        assert!(table.contains("set `mode: Enforce`"), "{table}");
        let enforced = compare(&[decision(5, 1, 90e6, true), decision(5, 2, 90e6, true)]);
        assert!(enforced.closing().contains("weaker evidence"));
    }

    #[test]
    fn a_record_without_totals_is_named_as_such() {
        let policy: Token = "factory_floor".parse().unwrap();
        let lines = Reader::new("".as_bytes());
        let error = record(lines, &policy, Stream::Text).unwrap_err();
        assert!(error.to_string().contains("factory/floor"), "{error}");
        let json = laneguard_proto::codec::to_json(&decision(1_000_000, 1, 9e7, false)).unwrap();
        record(Reader::new(json.as_bytes()), &policy, Stream::Json).unwrap();
    }
}
