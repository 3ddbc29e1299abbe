//! `lanectl replay`: any law over a record, beside what the recorded law did.
//!
//! | question | file |
//! |---|---|
//! | Which law, with which parameters? | `law.rs` |
//! | Which evaluations were there? | `step.rs` |
//! | What does each law come to? | `track.rs` |
//! | How do they compare? | `score.rs` |
//! | How does it look? | `plot.rs`, `page.rs` |
//!
//! Open loop: the samples are as they were recorded, whatever the replayed law does.

pub(crate) mod law;
mod page;
mod plot;
mod score;
mod step;
mod track;

use std::io::BufRead;

use anyhow::Context as _;

use crate::args::Replay;
use crate::recording::{self, Line, OnePolicy, Reader};
use crate::words::{clock, count, duration, plain};
use crate::{name, output};
use step::Steps;
use track::{Choice, Track};

/// Replays a file and prints the comparison.
///
/// # Errors
/// When the file cannot be read, has nothing to replay, or the law or its parameters cannot be used.
pub(crate) fn run(args: &Replay) -> anyhow::Result<()> {
    let choice = Choice {
        law: args.law.clone(),
        settings: args.set.clone(),
    };
    // a mistake is found before a large file is read
    if let Some(law) = args.law.as_deref().and_then(law::named) {
        law::with(&law, &args.set)?;
    }
    let policy = args
        .policy
        .as_deref()
        .map(|policy| name::token(policy, None))
        .transpose()?;
    let mut one = OnePolicy::new(policy.as_ref());
    let read = read(recording::open(&args.file)?, choice, &mut one);
    let replayed = read.with_context(|| args.file.display().to_string())?;
    let report =
        Report::of(&replayed, one.name()).with_context(|| args.file.display().to_string())?;
    if let Some(html) = &args.html {
        std::fs::write(html, report.html()).with_context(|| html.display().to_string())?;
    }
    output::text(&report.text(width(args.width)))
}

fn width(wanted: Option<u16>) -> usize {
    let terminal = terminal_size::terminal_size().map(|(width, _)| width.0);
    usize::from(wanted.or(terminal).unwrap_or(100)).clamp(40, 400)
}

/// A record, replayed.
struct Replayed {
    track: Track,
    /// Messages that the record says are missing from it.
    lost: u64,
    /// Shadow decisions, which are passed over.
    shadows: u64,
}

fn read<R: BufRead>(
    mut reader: Reader<R>,
    choice: Choice,
    one: &mut OnePolicy,
) -> anyhow::Result<Replayed> {
    let mut replayed = Replayed {
        track: Track::new(choice),
        lost: 0,
        shadows: 0,
    };
    let mut steps = Steps::default();
    let track = &mut replayed.track;
    while let Some(line) = reader.next()? {
        match line {
            Ok(Line::Decision(decision)) if decision.shadow => replayed.shadows += 1,
            Ok(Line::Decision(decision)) if one.admits(&decision.policy)? => {
                steps
                    .decision(decision)
                    .into_iter()
                    .try_for_each(|step| track.take(step))?;
            }
            Ok(Line::Sample { stored_ms, message }) if one.admits(&message.policy)? => {
                if let Some(step) = steps.sample(stored_ms, message) {
                    track.take(step)?;
                }
            }
            Ok(Line::Policy(entry)) if one.admits(entry.token()?.as_str())? => track.entry(entry),
            Ok(Line::Gap(lost)) => replayed.lost += lost,
            Ok(_) => {}
            Err(malformed) => eprintln!("warning: {malformed}; it is left out"),
        }
    }
    track.begin_with_entry()?;
    steps.rest().try_for_each(|step| track.take(step))?;
    Ok(replayed)
}

/// What is told about a replay.
struct Report<'a> {
    track: &'a Track,
    classes: Vec<String>,
    laws: (String, String),
    notes: Vec<String>,
    table: Vec<[String; 3]>,
}

impl<'a> Report<'a> {
    fn of(replayed: &'a Replayed, policy: &str) -> anyhow::Result<Self> {
        let track = &replayed.track;
        let points = track.points.as_slice();
        let (Some(under), Some(law), Some(first), Some(last)) = (
            track.policy(),
            track.replayed_law(),
            points.first(),
            points.last(),
        ) else {
            anyhow::bail!(
                "there is nothing to replay: no decision with its inputs, and no policy's entry with samples{}",
                if track.unreadable > 0 {
                    format!(" ({} decisions carry no inputs)", track.unreadable)
                } else {
                    String::new()
                }
            )
        };
        let recorded_law = if track.recorded_law.is_empty() {
            "none"
        } else {
            &track.recorded_law
        };
        let laws = (plain(recorded_law), law.name().to_owned());
        let mut notes = vec![
            format!(
                "{}: {} and {}, from {} to {} UTC ({}).",
                name::shown(policy),
                count(points.len() as u64, "evaluation"),
                count(track.decisions, "published decision"),
                clock(first.at_ms),
                clock(last.at_ms),
                duration(last.at_ms - first.at_ms)
            ),
            format!("Replayed: {}.", described(law)),
            "Open loop: the samples are the recorded ones and do not react to the replayed law. Limits that differ would have changed them.".to_owned(),
        ];
        if track.is_same {
            notes.push(match track.decisions - track.identical {
                0 => format!("The same law with the same parameters as recorded: all {} decisions come out identical.", track.decisions),
                different => format!("The same law with the same parameters as recorded, but {different} of {} decisions come out DIFFERENT.", track.decisions),
            });
            if track.resumed > 0 {
                notes.push(format!(
                    "Unchanged evaluations are not published; after them the replay went on from the recorded state ({}).",
                    count(track.resumed, "time")
                ));
            }
        } else if track.missing > 0 {
            notes.push(format!(
                "The samples of {} that changed nothing are not in the record, and the replayed law did not see them: record with `lanectl record` to have them.",
                count(track.missing, "evaluation")
            ));
        }
        if replayed.lost > 0 {
            notes.push(format!(
                "The record has gaps: {} lost.",
                count(replayed.lost, "message")
            ));
        }
        if replayed.shadows > 0 {
            notes.push(format!(
                "{} passed over.",
                count(replayed.shadows, "shadow decision")
            ));
        }
        if track.unreadable > 0 {
            notes.push(format!(
                "{} without inputs left out.",
                count(track.unreadable, "decision")
            ));
        }
        Ok(Self {
            track,
            classes: under
                .classes
                .iter()
                .map(|class| class.name.clone())
                .collect(),
            laws,
            notes,
            table: score::table(points, under),
        })
    }

    fn text(&self, width: usize) -> String {
        let mut out = String::new();
        for note in &self.notes {
            out.push_str(note);
            out.push('\n');
        }
        out.push('\n');
        let head = ["".to_owned(), "recorded".to_owned(), "replayed".to_owned()];
        let rows: Vec<&[String; 3]> = std::iter::once(&head).chain(&self.table).collect();
        out.push_str(&output::table(&rows));
        out.push('\n');
        out.push_str(&plot::plot(
            &self.track.points,
            &self.classes,
            self.laws(),
            width,
        ));
        out
    }

    fn laws(&self) -> (&str, &str) {
        (&self.laws.0, &self.laws.1)
    }

    fn html(&self) -> String {
        page::page(
            &self.track.points,
            &self.classes,
            self.laws(),
            &self.notes,
            &self.table,
        )
    }
}

/// A law with its parameters, in one line.
fn described(law: &laneguard_decider_core::policy::Law) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(law) else {
        return law.name().to_owned();
    };
    let parameters = fields.iter().filter(|(key, _)| *key != "name");
    let parameters: Vec<String> = parameters
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    format!("{} with {}", law.name(), parameters.join(", "))
}

#[cfg(test)]
mod tests;
