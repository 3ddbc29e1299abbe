//! The command line of `laneguard-lab`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use crate::cluster::Cluster;
use crate::compare::{self, CompareArgs};
use crate::deploy;
use crate::isolate::{self, Place};
use crate::law::Law;
use crate::live::{self, Live, say};
use crate::run::{self, Plan};
use crate::scenario::{Name, Scenario, ScenarioArgs};
use crate::score::Score;
use crate::services;
use crate::stalls::{self, StallsArgs};
use crate::summary;
use crate::tools;
use crate::traffic::client::{self, ClientArgs};
use crate::traffic::datagrams::{self, DatagramsArgs};
use crate::traffic::server::{self, ServerArgs};

/// How long a cluster may take to give up the lab's workloads after an interruption.
const CLEANUP: Duration = Duration::from_secs(8);

/// Exit code for a command line that cannot be used, as of all of Laneguard's programs.
const BAD_CONFIGURATION: u8 = 64;

const ABOUT_SETTINGS: &str = "\
The services run the law Adaptive with their own defaults: targets, and limits from 10 to 1000 Mbit/s a pod. With --law Threshold or \
DropRate they get settings for runs of a minute or two: a cooldown of 4 s, and limits and steps in proportion to the link (on the \
default one limits from 10 to 100 Mbit/s a pod, steps of -40, -6 and +1). MIN_BANDWIDTH_MBPS, MAX_BANDWIDTH_MBPS, \
AGGRESSIVE_DECREASE_MBPS, GENTLE_DECREASE_MBPS, INCREASE_STEP_MBPS, COOLDOWN_PERIOD_SEC, TARGET_LATENCY_MS and TARGET_JITTER_MS in \
the environment win, and any other variable of the services is passed on.

Programs are looked for in $LANEGUARD_TOOLS/bin, then in PATH: nats-server, prometheus, iperf3, ip, tc, and util-linux. \
Everything runs in namespaces of its own and ends with this program, however it ends.";

#[derive(Debug, Parser)]
#[command(
    name = "laneguard-lab",
    version,
    about = "Laneguard as a whole on one Linux machine, protecting real traffic on a real kernel network"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the same load twice, without and with Laneguard, and compares; exits 1 if protection was no better
    #[command(after_help = ABOUT_SETTINGS)]
    Demo(DemoArgs),
    /// Runs one scenario once, with or without Laneguard
    #[command(after_help = ABOUT_SETTINGS)]
    Run(RunArgs),
    /// Runs several laws on the same scenarios, several times each, and writes one report to open in a browser
    #[command(after_help = ABOUT_SETTINGS)]
    Compare(CompareArgs),
    /// Recomputes every number of a run or demo from its raw logs, and writes summary.json
    Score {
        /// Folder of a run or of a demo
        dir: PathBuf,
    },
    /// Finds out whether this machine can run the lab, without starting anything that stays
    Check,
    /// The critical service, as the lab runs it in a pod
    #[command(hide = true)]
    Server(ServerArgs),
    /// The critical client, as the lab runs it in a pod
    #[command(hide = true)]
    Client(ClientArgs),
    /// UDP at a fixed rate, as the lab runs it in a pod
    #[command(hide = true)]
    Datagrams(DatagramsArgs),
    /// Writes down when a processor stood still, until it is killed
    #[command(hide = true)]
    Stalls(StallsArgs),
}

#[derive(Debug, Args)]
struct DemoArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    scenario: ScenarioArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Which plan to follow
    #[arg(long = "scenario", env = "LANEGUARD_LAB_SCENARIO", value_enum, default_value_t = Name::Congestion)]
    name: Name,
    /// Run Laneguard's services (the default)
    #[arg(long, conflicts_with = "without")]
    with: bool,
    /// Run no services: the same load unprotected, as with --law none
    #[arg(long, env = "LANEGUARD_LAB_WITHOUT", conflicts_with = "law")]
    without: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    scenario: ScenarioArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Folder for raw logs, server logs and summary; it must be new or empty [default: lab-runs/TIME]
    #[arg(long, env = "LANEGUARD_LAB_OUT", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use the API server of this kubeconfig instead of the stand-in; the lab creates nodes lab-node-a and lab-node-b and the
    /// namespace factory there, and removes them in the end [default: none]
    #[arg(long, env = "LANEGUARD_LAB_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Folder of the services' binaries [default: the lab's own]
    #[arg(long, env = "LANEGUARD_LAB_BINARIES", value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// The control law: none, Adaptive, Adaptive:forecast=false, Threshold, DropRate, Watermark, Headroom, Autorate, Fixed:LIMIT (one
    /// limit for each pod, such as Fixed:66M), or External (the decider in Python) [default: CONTROL_LAW, else Adaptive]
    #[arg(long, env = "LANEGUARD_LAB_LAW", value_name = "LAW")]
    law: Option<Law>,
    /// Folder of the decider in Python, for --law External [default: examples/python-decider of the repository]
    #[arg(long, env = "LANEGUARD_LAB_DECIDER", value_name = "DIR")]
    decider: Option<PathBuf>,
}

impl CommonArgs {
    fn law(&self) -> anyhow::Result<Law> {
        match self.law {
            Some(law) => Ok(law),
            None => services::law(|name| std::env::var(name).ok()),
        }
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        let folder = self.out.clone().unwrap_or_else(|| {
            let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
            Path::new("lab-runs").join(now.to_string().replace(':', "-"))
        });
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let used = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .next()
            .is_some();
        anyhow::ensure!(!used, "the folder {} is not empty", folder.display());
        Ok(folder)
    }
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it any more, then.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                BAD_CONFIGURATION
            } else {
                0
            });
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error)),
    };
    let code = runtime
        .block_on(dispatch(cli.command))
        .unwrap_or_else(|error| failed(&error));
    // Nothing is worth waiting for: what still runs ends with its guards or with the namespace.
    runtime.shutdown_background();
    code
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("laneguard-lab: {error:#}");
    ExitCode::FAILURE
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Server(args) => server::serve(args).await?,
        Command::Client(args) => client::run(args).await?,
        Command::Datagrams(args) => datagrams::send(&args)?,
        Command::Stalls(args) => stalls::watch(&args)?,
        Command::Score { dir } => print!("{}", summary::score_folder(&dir)?),
        Command::Compare(args) => {
            if !args.only_report {
                check_programs()?;
            }
            return compare::compare(&args, scenario_of).await;
        }
        Command::Check => {
            check_programs()?;
            isolate::rehearse().await?;
            say("this machine can run the lab");
        }
        Command::Demo(args) => return isolated(&args.common.kubeconfig, demo(&args)).await,
        Command::Run(args) => return isolated(&args.common.kubeconfig, run_once(&args)).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Does the work inside the lab's namespaces, and stops when asked to.
async fn isolated(
    kubeconfig: &Option<PathBuf>,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let Place::Inside(rights) = isolate::place() else {
        check_programs()?;
        return isolate::run_inside().await;
    };
    isolate::settle(rights).await?;
    tokio::select! {
        result = work => result,
        () = isolate::stop_requested() => {
            if kubeconfig.is_some() {
                clean_up(kubeconfig.as_deref()).await?;
            }
            eprintln!("laneguard-lab: interrupted");
            Ok(ExitCode::from(130))
        }
    }
}

fn check_programs() -> anyhow::Result<()> {
    for program in [
        "ip",
        "tc",
        "unshare",
        "nsenter",
        "setpriv",
        "chrt",
        "mount",
        "sleep",
        "iperf3",
        "prometheus",
        "nats-server",
    ] {
        tools::find(program)?;
    }
    Ok(())
}

async fn clean_up(kubeconfig: Option<&Path>) -> anyhow::Result<()> {
    let removal = async {
        let cluster = Cluster::open(kubeconfig, Path::new(".")).await?;
        deploy::remove(&cluster.client).await
    };
    timeout(CLEANUP, removal)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it takes too long")))
        .context("the lab's workloads are still in the cluster (label laneguard.dev/lab=true)")
}

async fn run_once(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let folder = args.common.folder()?;
    log_to(&folder)?;
    let plan = plan(
        &args.common,
        Scenario::new(args.name, &args.scenario),
        &folder,
        if args.without {
            Law::None
        } else {
            args.common.law()?
        },
        "",
    );
    let score = watched(&plan).await?;
    say(&format!(
        "\n{}",
        summary::table(&[(word(plan.law), &score)])
    ));
    for finding in summary::findings(&folder)? {
        say(&finding.to_string());
    }
    say(&format!("everything is in {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}

async fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let law = args.common.law()?;
    anyhow::ensure!(
        law.is_protected(),
        "a demo compares a law with none; run the law none by itself with: laneguard-lab run"
    );
    let folder = args.common.folder()?;
    log_to(&folder)?;
    let scenario = Scenario::new(Name::Demo, &args.scenario);
    say(&format!(
        "The same load of {} s runs twice, first without Laneguard, then with it: {} best-effort pods with {} TCP flows each\n\
         and {} critical requests a second share a link of {} Mbit/s. Control law: {} (see --help).\n",
        scenario.seconds(),
        scenario.pods,
        scenario.flows,
        scenario.requests_per_second,
        scenario.link.rate_bps / 1_000_000,
        law
    ));
    let without = plan(
        &args.common,
        scenario.clone(),
        &folder.join(summary::WITHOUT),
        Law::None,
        "1/2 ",
    );
    let without = watched(&without).await?;
    let with = plan(
        &args.common,
        scenario,
        &folder.join(summary::WITH),
        law,
        "2/2 ",
    );
    let with = watched(&with).await?;
    summary::write_both(&folder, &without, &with)?;
    say(&format!("\n{}", summary::comparison(&without, &with)));
    say(&format!("everything is in {}", folder.display()));
    if summary::is_better(&without, &with) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("laneguard-lab: protection was no better than none");
    Ok(ExitCode::FAILURE)
}

/// The scenario of a `run` with these arguments.
fn scenario_of(arguments: &[String]) -> anyhow::Result<Scenario> {
    let line = std::iter::once("laneguard-lab").chain(arguments.iter().map(String::as_str));
    match Cli::try_parse_from(line)?.command {
        Command::Run(args) => Ok(Scenario::new(args.name, &args.scenario)),
        _ => anyhow::bail!("{} is not a run", arguments.join(" ")),
    }
}

fn plan(common: &CommonArgs, scenario: Scenario, folder: &Path, law: Law, number: &str) -> Plan {
    Plan {
        scenario,
        law,
        folder: folder.to_owned(),
        kubeconfig: common.kubeconfig.clone(),
        binaries: common.binaries.clone(),
        decider: common.decider.clone(),
        title: format!("{number}{}", word(law)),
    }
}

fn word(law: Law) -> &'static str {
    if law.is_protected() {
        "with Laneguard"
    } else {
        "without"
    }
}

async fn watched(plan: &Plan) -> anyhow::Result<Score> {
    let (sender, receiver) = watch::channel(Live::default());
    let display = tokio::spawn(live::show(receiver));
    let result = run::run(plan, &sender).await;
    drop(sender);
    display.await?;
    result
}

/// The lab's own log goes to a file: standard error belongs to the display.
fn log_to(folder: &Path) -> anyhow::Result<()> {
    let file = File::create(folder.join("lab.log")).context("cannot write lab.log")?;
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("LANEGUARD_LAB_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let args = CommonArgs {
            out: Some(folder.path().to_owned()),
            kubeconfig: None,
            binaries: None,
            law: None,
            decider: None,
        };
        assert_eq!(args.folder().unwrap(), folder.path());
        fs::write(folder.path().join("x"), "").unwrap();
        assert!(args.folder().is_err());
    }
}
