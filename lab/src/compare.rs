//! Several laws on the same scenarios, several times each: `laneguard-lab compare`.
//!
//! Each run is a `laneguard-lab run` of its own in `OUT/<scenario>/<law>/<number>`, so that nothing of one run is left for the next, and one that
//! fails takes nothing along. The folder is all there is to know: a complete run is not run again, an incomplete one is made
//! anew, and [`crate::report`] shows what is there.

pub mod order;
pub mod session;
pub mod spec;

mod child;
mod failure;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::time::Instant;

use crate::archive;
use crate::live::say;
use crate::raw::{self, PhaseKind, PhaseStart};
use crate::report;
use crate::scenario::Scenario;
use crate::summary::{self, SCENARIO_FILE, SUMMARY_FILE};

use child::{Ended, Programs};
pub use failure::Failure;
use order::{Job, order};
use session::{Comparison, Session};
use spec::{Spec, bits};

/// Failed runs in a row after which something is wrong that the next run would not mend.
const GIVE_UP_AFTER: usize = 4;
/// Starting and finishing a run take about this much longer than its phases.
const AROUND_A_RUN: Duration = Duration::from_secs(15);
/// Limits of an automatic sweep, in percent of what one pod could have of the link.
const SWEEP_PERCENT: [u32; 9] = [60, 70, 80, 85, 90, 95, 100, 105, 110];

/// The command line of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Scenarios, with flags of `run` after colons where they shall differ: congestion,congestion:rate-mbit=50:pods=6
    #[arg(
        long = "scenario",
        env = "LANEGUARD_LAB_COMPARE_SCENARIOS",
        value_name = "SCENARIO,...",
        value_delimiter = ',',
        default_value = "congestion"
    )]
    pub scenarios: Vec<Spec>,
    /// Laws, in the order of the report: none (no services), Adaptive, Adaptive:forecast=false, Threshold, Fixed:66M, ...
    #[arg(
        long,
        env = "LANEGUARD_LAB_COMPARE_LAWS",
        value_name = "LAW,...",
        value_delimiter = ',',
        default_value = "none,Threshold,Adaptive"
    )]
    pub laws: Vec<Spec>,
    /// Runs of each law on each scenario; the laws take turns
    #[arg(long, env = "LANEGUARD_LAB_COMPARE_RUNS", value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Folder of the comparison. Complete runs in it are kept: the same command again goes on where it was stopped
    #[arg(long, env = "LANEGUARD_LAB_COMPARE_OUT", value_name = "DIR")]
    pub out: PathBuf,
    /// Also fixed limits, such as 60M,66M; without a value, shares from 60 to 110 % of what one pod could have of the link
    #[arg(long, env = "LANEGUARD_LAB_COMPARE_SWEEP", value_name = "LIMIT,...", num_args = 0..=1, default_missing_value = "auto")]
    pub sweep: Option<String>,
    /// Run nothing; write the report from what is there
    #[arg(long, env = "LANEGUARD_LAB_COMPARE_ONLY_REPORT")]
    pub only_report: bool,
    /// Store the raw logs of all complete runs compressed in this folder, with the report
    #[arg(long, env = "LANEGUARD_LAB_COMPARE_ARCHIVE", value_name = "DIR")]
    pub archive: Option<PathBuf>,
    /// Folder of the binaries [default: the lab's own]
    #[arg(long, env = "LANEGUARD_LAB_BINARIES", value_name = "DIR")]
    pub binaries: Option<PathBuf>,
    /// Flags of `laneguard-lab run` for every run
    #[arg(last = true, value_name = "RUN FLAGS")]
    pub rest: Vec<String>,
}

/// What one scenario is compared on.
#[derive(Debug, Clone)]
struct Part {
    spec: Spec,
    scenario: Scenario,
    laws: Vec<Spec>,
}

/// Compares, then writes the report. `parse` makes the scenario of a `run`'s arguments.
///
/// # Errors
/// When the command line cannot be used, or files cannot be written. Failed runs are reported and make the exit code 1.
pub async fn compare(
    args: &CompareArgs,
    parse: impl Fn(&[String]) -> anyhow::Result<Scenario>,
) -> anyhow::Result<ExitCode> {
    let code = if args.only_report {
        ExitCode::SUCCESS
    } else {
        let parts = parts(args, parse)?;
        run_all(args, &parts).await?
    };
    finish(args)?;
    Ok(code)
}

/// Everything that the command line asks for, checked before anything runs.
fn parts(
    args: &CompareArgs,
    parse: impl Fn(&[String]) -> anyhow::Result<Scenario>,
) -> anyhow::Result<Vec<Part>> {
    args.scenarios
        .iter()
        .map(|spec| {
            let first = args.laws.first().context("--laws names no law")?;
            let scenario = parse(&arguments(args, spec, first, Path::new("x")))?;
            let mut laws = args.laws.clone();
            for law in swept(args.sweep.as_deref(), &scenario)? {
                if !laws.contains(&law) {
                    laws.push(law);
                }
            }
            for law in &laws {
                parse(&arguments(args, spec, law, Path::new("x")))?;
            }
            Ok(Part {
                spec: spec.clone(),
                scenario,
                laws,
            })
        })
        .collect()
}

/// The laws of a sweep.
fn swept(sweep: Option<&str>, scenario: &Scenario) -> anyhow::Result<Vec<Spec>> {
    let share_bps = scenario.link.rate_bps as f64 / f64::from(scenario.pods.max(1));
    match sweep {
        None => Ok(Vec::new()),
        Some("auto") => Ok(SWEEP_PERCENT
            .iter()
            // whole megabits where they are fine enough
            .map(|percent| f64::from(*percent) / 100.0 * share_bps)
            .map(|bps| {
                if bps >= 20e6 {
                    (bps / 1e6).round() * 1e6
                } else {
                    bps
                }
            })
            .map(Spec::fixed)
            .collect()),
        Some(list) => list
            .split(',')
            .map(|limit| bits(limit).map(Spec::fixed))
            .collect::<Result<_, _>>()
            .map_err(|problem| anyhow::anyhow!("--sweep: {problem}")),
    }
}

/// The arguments of one run.
fn arguments(args: &CompareArgs, scenario: &Spec, law: &Spec, folder: &Path) -> Vec<String> {
    let mut arguments = vec![
        "run".to_owned(),
        "--scenario".to_owned(),
        scenario.word().to_owned(),
        "--out".to_owned(),
        folder.display().to_string(),
    ];
    arguments.extend(scenario.settings().map(|setting| format!("--{setting}")));
    arguments.extend(["--law".to_owned(), law.to_string()]);
    arguments.extend(args.rest.iter().cloned());
    arguments
}

/// Whether a run in this folder came to its end.
#[must_use]
pub fn is_complete(folder: &Path) -> bool {
    folder.join(SUMMARY_FILE).is_file()
        && raw::read::<PhaseStart>(folder).is_ok_and(|phases| {
            phases
                .last()
                .is_some_and(|last| last.kind == PhaseKind::End)
        })
}

async fn run_all(args: &CompareArgs, parts: &[Part]) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let out = fs::canonicalize(&args.out)?;
    let laws: Vec<usize> = parts.iter().map(|part| part.laws.len()).collect();
    let jobs = order(parts.len(), &laws, usize::from(args.runs));
    let mut open = Vec::new();
    for job in &jobs {
        let folder = folder_of(&out, parts, job);
        if is_complete(&folder) {
            same_scenario(&folder, &parts[job.scenario].scenario)?;
        } else {
            open.push(*job);
        }
    }
    say(&format!(
        "{} runs, {} of them are there already",
        jobs.len(),
        jobs.len() - open.len()
    ));
    if open.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    remember(args, &out, parts)?;
    let programs = Programs::keep(args.binaries.as_deref(), &out)?;
    let mut pace = Pace::default();
    let (mut failed, mut in_a_row) = (0, 0);
    for (index, job) in open.iter().enumerate() {
        let part = &parts[job.scenario];
        let law = &part.laws[job.law];
        let name = format!("{}, {law}, run {}", part.spec, job.number);
        say(&format!(
            "\n[{} of {}] {name}; about {} left",
            index + 1,
            open.len(),
            words(
                pace.left(
                    open[index..]
                        .iter()
                        .map(|job| &parts[job.scenario].scenario)
                )
            )
        ));
        let folder = folder_of(&out, parts, job);
        clear(&folder)?;
        let began = Instant::now();
        let arguments = arguments(args, &part.spec, law, &folder);
        match child::run(&programs, &arguments).await? {
            Ended::Well => {
                pace.add(&part.scenario, began.elapsed());
                in_a_row = 0;
                say(&result_line(&folder, &name));
            }
            Ended::Interrupted => {
                say("\ninterrupted: the same command goes on from here");
                return Ok(ExitCode::from(130));
            }
            Ended::Badly { code, message } => {
                failed += 1;
                in_a_row += 1;
                say(&format!("{name} FAILED: {message}"));
                Failure::now(job.number, code, message).write(&law_folder(&out, part, law))?;
                if in_a_row == GIVE_UP_AFTER {
                    say(&format!("{in_a_row} runs in a row failed: giving up"));
                    break;
                }
            }
        }
    }
    if failed > 0 {
        say(&format!(
            "{failed} runs failed; the same command tries them again"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn law_folder(out: &Path, part: &Part, law: &Spec) -> PathBuf {
    out.join(part.spec.folder()).join(law.folder())
}

fn folder_of(out: &Path, parts: &[Part], job: &Job) -> PathBuf {
    let part = &parts[job.scenario];
    law_folder(out, part, &part.laws[job.law]).join(job.number.to_string())
}

/// A complete run is kept, so it must be one of what is asked for.
fn same_scenario(folder: &Path, wanted: &Scenario) -> anyhow::Result<()> {
    let (found, _) = summary::read(folder)?;
    anyhow::ensure!(
        found == *wanted,
        "{} holds a run of another scenario than is asked for now (see its {SCENARIO_FILE}): choose another --out",
        folder.display()
    );
    Ok(())
}

fn remember(args: &CompareArgs, out: &Path, parts: &[Part]) -> anyhow::Result<()> {
    let mut comparison = Comparison::read(out)?.unwrap_or_default();
    let session = Session::now();
    for part in parts {
        comparison.add(
            std::slice::from_ref(&part.spec),
            &part.laws,
            usize::from(args.runs),
        );
    }
    comparison.sessions.push(session);
    comparison.write(out)
}

/// Makes room for a run, where an incomplete one may lie. Nothing but a run's folder is ever removed.
fn clear(folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let is_empty = fs::read_dir(folder)?.next().is_none();
    let is_run = [SCENARIO_FILE, "lab.log"]
        .iter()
        .any(|name| folder.join(name).is_file());
    anyhow::ensure!(
        is_empty || is_run,
        "{} is not the folder of a run: move it away",
        folder.display()
    );
    fs::remove_dir_all(folder)
        .with_context(|| format!("cannot remove the incomplete run {}", folder.display()))
}

fn result_line(folder: &Path, name: &str) -> String {
    match summary::score(folder) {
        Ok(score) => {
            let protected: Vec<String> = score
                .loads
                .iter()
                .map(|load| {
                    load.protected_after_s
                        .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s"))
                })
                .collect();
            let stood = score.stalls.as_ref().map_or_else(String::new, |stood| {
                format!(
                    ", processors stood still {stood}, {} violating windows beside that",
                    stood.violating
                )
            });
            format!(
                "{name}: {:.1} % violating, protected after {}, goodput {:.1} %, machine busy {:.0} %{stood}",
                score.violating_percent,
                protected.join(" and "),
                score.goodput_percent,
                score.machine_busy_percent
            )
        }
        Err(problem) => format!("{name}: no score: {problem:#}"),
    }
}

/// Writes the report, and the archive if one is wanted.
fn finish(args: &CompareArgs) -> anyhow::Result<()> {
    let written = report::write(&args.out)?;
    say(&format!("\nthe report is {}", written.display()));
    if let Some(to) = &args.archive {
        store(&args.out, to)?;
        let written = report::write(to)?;
        say(&format!("raw logs and report are in {}", written.display()));
    }
    Ok(())
}

/// Stores all complete runs, and what failed.
fn store(out: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    archive::copy(&out.join(session::FILE), &to.join(session::FILE))?;
    for found in report::collect::folders(out)? {
        let law = Path::new(&found.scenario.folder()).join(found.law.folder());
        for number in found.runs {
            let run = law.join(number.to_string());
            if is_complete(&out.join(&run)) {
                archive::store(&out.join(&run), &to.join(&run))?;
            }
        }
        let failures = law.join(failure::FILE);
        if out.join(&failures).is_file() {
            fs::create_dir_all(to.join(&law))?;
            archive::copy(&out.join(&failures), &to.join(&failures))?;
        }
    }
    Ok(())
}

/// How long runs take, learned from those that were made.
#[derive(Debug, Default)]
struct Pace {
    planned: Duration,
    taken: Duration,
}

impl Pace {
    fn add(&mut self, scenario: &Scenario, taken: Duration) {
        self.planned += planned(scenario);
        self.taken += taken;
    }

    fn left<'a>(&self, open: impl Iterator<Item = &'a Scenario>) -> Duration {
        let planned: Duration = open.map(planned).sum();
        if self.planned.is_zero() {
            return planned;
        }
        planned.mul_f64(self.taken.as_secs_f64() / self.planned.as_secs_f64())
    }
}

fn planned(scenario: &Scenario) -> Duration {
    Duration::from_secs(scenario.seconds()) + AROUND_A_RUN
}

fn words(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    if minutes < 60 {
        format!("{minutes} min")
    } else {
        format!("{} h {} min", minutes / 60, minutes % 60)
    }
}
