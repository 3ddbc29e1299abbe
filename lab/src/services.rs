//! Laneguard's three services as the lab runs them: real binaries, configured by environment alone.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::law::{self, Law};
use crate::process::{self, Process};
use crate::raw::{self, Footprint};
use crate::scenario::{CRITICAL_SERVICE, NAMESPACE, Scenario};
use crate::score::{JITTER_LIMIT_MS, P95_LIMIT_MS};
use crate::servers::{free_address, wait_ready};
use crate::tools::Tool;

/// Name of the cluster in subjects and keys.
pub const CLUSTER: &str = "lab";
/// The services in the order they are started.
const NAMES: [&str; 3] = ["actuator", DECIDER, "collector"];
const DECIDER: &str = "decider";
/// What defines a policy in the services' environment.
const POLICY_VARIABLES: [&str; 12] = [
    "TARGET_JITTER_MS",
    "TARGET_LATENCY_MS",
    "MIN_BANDWIDTH_MBPS",
    "MAX_BANDWIDTH_MBPS",
    "EWMA_ALPHA",
    "COOLDOWN_PERIOD_SEC",
    "AGGRESSIVE_DECREASE_MBPS",
    "GENTLE_DECREASE_MBPS",
    "INCREASE_STEP_MBPS",
    "CRITICAL_WORKLOADS",
    "BEST_EFFORT_SELECTOR",
    "CONTROL_LAW",
];
/// How long a service may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The law that `CONTROL_LAW` names, else the services' own default.
///
/// # Errors
/// When it is none that the lab knows.
pub fn law(ours: impl Fn(&str) -> Option<String>) -> anyhow::Result<Law> {
    match ours("CONTROL_LAW") {
        Some(text) => text
            .parse()
            .map_err(|error| anyhow::anyhow!("CONTROL_LAW: {error}")),
        None => Ok(Law::Adaptive { forecast: true }),
    }
}

/// The control settings. Laws that find the link themselves or are told its rate get targets and the services' default bounds. For laws of
/// fixed steps they are for runs of a minute or two on this scenario's link: shares of what one pod could have of it, so that the first cut
/// from the top (1.5 shares) lands just below a share, and the way up is slow.
#[must_use]
pub fn settings(scenario: &Scenario, law: Law) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("CONTROL_LAW", law.control().to_owned()),
        ("TARGET_LATENCY_MS", P95_LIMIT_MS.to_string()),
        ("TARGET_JITTER_MS", JITTER_LIMIT_MS.to_string()),
    ];
    match law {
        Law::Threshold | Law::DropRate => {}
        Law::Fixed(bps) => {
            let mbit = (bps as f64 / 1e6).to_string();
            settings.extend([
                ("MIN_BANDWIDTH_MBPS", mbit.clone()),
                ("MAX_BANDWIDTH_MBPS", mbit),
            ]);
            return settings;
        }
        _ => return settings,
    }
    let share_mbit = scenario.link.rate_bps as f64 / 1e6 / f64::from(scenario.pods);
    let mbit = |part: f64| (part * share_mbit).round().max(1.0).to_string();
    settings.extend([
        ("MIN_BANDWIDTH_MBPS", mbit(0.15)),
        ("MAX_BANDWIDTH_MBPS", mbit(1.5)),
        ("AGGRESSIVE_DECREASE_MBPS", mbit(0.6)),
        ("GENTLE_DECREASE_MBPS", mbit(0.09)),
        ("INCREASE_STEP_MBPS", mbit(0.015)),
        ("COOLDOWN_PERIOD_SEC", "4".to_owned()),
    ]);
    settings
}

/// Where the services find the rest of the lab.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Of the NATS server.
    pub nats_url: &'a str,
    /// Of Prometheus.
    pub prometheus_url: &'a str,
    /// Of the Kubernetes API.
    pub kubeconfig: &'a Path,
}

/// The running services.
#[derive(Debug)]
pub struct Services {
    running: Vec<(&'static str, Process)>,
    launch: Launch,
}

/// How a service is started.
#[derive(Debug)]
struct Launch {
    binaries: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    /// Whether the environment defines the policy; else what the lab's own says of one is kept from the services.
    defines_policy: bool,
    logs: PathBuf,
}

impl Launch {
    fn start(&self, name: &str) -> anyhow::Result<(Process, SocketAddr)> {
        let admin = free_address().context("no free port")?;
        let tool = Tool {
            path: binary(self.binaries.as_deref(), &format!("laneguard-{name}"))?,
            library_path: None,
        };
        let mut command = process::command(&tool, None)?;
        if !self.defines_policy {
            for variable in POLICY_VARIABLES {
                command.env_remove(variable);
            }
        }
        command
            .envs(&self.environment)
            .env("ADMIN_ADDR", admin.to_string())
            .env_remove("NATS_CREDS")
            .env_remove("NATS_CA");
        let log = self.logs.join(format!("{name}.log"));
        let process = Process::start(&format!("the {name}"), command, &log)?;
        Ok((process, admin))
    }
}

impl Services {
    /// Starts all three and waits until each says that it is ready.
    ///
    /// # Errors
    /// When a binary is missing or a service does not become ready.
    pub async fn start(
        binaries: Option<&Path>,
        settings: &BTreeMap<String, String>,
        surroundings: Surroundings<'_>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let environment = environment(settings, surroundings);
        let mut listing = String::new();
        for (name, value) in &environment {
            // Writing to a String cannot fail.
            let _ = writeln!(listing, "{name}={value}");
        }
        fs::write(folder.join("services.env"), listing).context("cannot write services.env")?;

        let launch = Launch {
            binaries: binaries.map(Path::to_owned),
            environment,
            defines_policy: !settings.is_empty(),
            logs: folder.join("logs"),
        };
        let mut started: Vec<(&'static str, Process, SocketAddr)> = Vec::new();
        for name in NAMES {
            let (process, admin) = launch.start(name)?;
            started.push((name, process, admin));
        }
        for (_, process, admin) in &mut started {
            wait_ready(process, &format!("http://{admin}/readyz")).await?;
        }
        let running = started
            .into_iter()
            .map(|(name, process, _)| (name, process));
        Ok(Self {
            running: running.collect(),
            launch,
        })
    }

    /// Kills the decider; from then on it is not missed.
    pub async fn kill_decider(&mut self) {
        for (name, process) in &mut self.running {
            if *name == DECIDER {
                process.kill().await;
            }
        }
        self.running.retain(|(name, _)| *name != DECIDER);
    }

    /// Starts the decider that was killed, without waiting until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restore_decider(&mut self) -> anyhow::Result<()> {
        let (process, _) = self.launch.start(DECIDER)?;
        self.running.push((DECIDER, process));
        Ok(())
    }

    /// Finds out whether all still run.
    ///
    /// # Errors
    /// When one has ended.
    pub fn check(&mut self) -> Result<(), process::Exited> {
        self.running
            .iter_mut()
            .try_for_each(|(_, process)| process.check())
    }

    /// What each has used so far.
    #[must_use]
    pub fn footprints(&self) -> Vec<Footprint> {
        self.running
            .iter()
            .filter_map(|(name, process)| {
                let usage = process.usage()?;
                Some(Footprint {
                    unix_ns: raw::unix_ns(),
                    service: (*name).to_owned(),
                    cpu_ms: u64::try_from(usage.cpu.as_millis()).unwrap_or(u64::MAX),
                    rss_bytes: usage.rss_bytes,
                })
            })
            .collect()
    }

    /// Ends all in an orderly way.
    pub async fn stop(mut self) {
        for (_, process) in &mut self.running {
            process.stop(GRACE).await;
        }
    }
}

/// The control settings, and what the lab's own environment says of them instead. The law itself is the run's.
#[must_use]
pub fn merged(
    scenario: &Scenario,
    law: Law,
    ours: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    settings(scenario, law)
        .into_iter()
        .map(|(name, value)| {
            let given = if name == "CONTROL_LAW" {
                None
            } else {
                ours(name)
            };
            (name.to_owned(), given.unwrap_or(value))
        })
        .collect()
}

/// Writes the policy into the folder of the run and applies it as an operator would, with `lanectl`.
///
/// # Errors
/// When the file cannot be written, or with lanectl's own words when it refuses.
pub async fn apply(
    binaries: Option<&Path>,
    policy: &str,
    nats_url: &str,
    folder: &Path,
) -> anyhow::Result<()> {
    let file = folder.join(law::POLICY_FILE);
    fs::write(&file, policy).with_context(|| format!("cannot write {}", file.display()))?;
    let tool = Tool {
        path: binary(binaries, "lanectl")?,
        library_path: None,
    };
    let output = process::command(&tool, None)?
        .args(["policy", "apply", "--file"])
        .arg(&file)
        .env("NATS_URL", nats_url)
        .env("CLUSTER", CLUSTER)
        .env_remove("NATS_CREDS")
        .env_remove("NATS_CA")
        .kill_on_drop(true)
        .output()
        .await
        .context("lanectl cannot be run")?;
    anyhow::ensure!(
        output.status.success(),
        "lanectl does not apply {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The services' environment. Without settings the environment defines no policy; then it must not do so through the lab's own either.
fn environment(
    settings: &BTreeMap<String, String>,
    surroundings: Surroundings<'_>,
) -> BTreeMap<String, String> {
    let mut environment = settings.clone();
    for (name, value) in [
        ("NATS_URL", surroundings.nats_url.to_owned()),
        ("PROMETHEUS_URL", surroundings.prometheus_url.to_owned()),
        ("KUBECONFIG", surroundings.kubeconfig.display().to_string()),
        ("CLUSTER", CLUSTER.to_owned()),
        ("POLICY_NAMESPACE", NAMESPACE.to_owned()),
        // Its lease must not meet that of an installation in the same cluster.
        ("LEASE_NAMESPACE", NAMESPACE.to_owned()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    if !settings.is_empty() {
        environment.insert(
            "CRITICAL_WORKLOADS".to_owned(),
            format!("{NAMESPACE}/{CRITICAL_SERVICE}"),
        );
    }
    environment
}

/// A binary of this repository: in the given folder, else beside the lab's own.
///
/// # Errors
/// When it is not there.
pub fn binary(folder: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => env::current_exe()?
            .parent()
            .context("the lab's own folder is unknown")?
            .to_owned(),
    };
    let path = folder.join(name);
    anyhow::ensure!(
        path.is_file(),
        "{} is not there; build it with: cargo build --workspace",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Name, ScenarioArgs};

    fn scenario(args: &[&str]) -> Scenario {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: ScenarioArgs,
        }
        let line = ["lab"].iter().chain(args);
        Scenario::new(
            Name::Demo,
            &<Command as clap::Parser>::parse_from(line).args,
        )
    }

    #[test]
    fn settings_follow_the_link_and_the_pods() {
        let value = |scenario: &Scenario, wanted: &str| {
            settings(scenario, Law::Threshold)
                .into_iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let default = scenario(&[]);
        assert_eq!(
            value(&default, "MAX_BANDWIDTH_MBPS").as_deref(),
            Some("100")
        );
        assert_eq!(
            value(&default, "AGGRESSIVE_DECREASE_MBPS").as_deref(),
            Some("40")
        );
        let narrow = scenario(&["--rate-mbit", "50", "--pods", "6"]);
        assert_eq!(value(&narrow, "MAX_BANDWIDTH_MBPS").as_deref(), Some("13"));
        assert_eq!(value(&narrow, "INCREASE_STEP_MBPS").as_deref(), Some("1"));
    }

    #[test]
    fn the_labs_own_environment_overrides_settings_but_not_surroundings() {
        let surroundings = Surroundings {
            nats_url: "nats://127.0.0.1:1",
            prometheus_url: "http://127.0.0.1:2",
            kubeconfig: Path::new("/kubeconfig"),
        };
        let settings = merged(&scenario(&[]), Law::Threshold, |name| match name {
            "CONTROL_LAW" => Some("Adaptive".to_owned()),
            "COOLDOWN_PERIOD_SEC" => Some("30".to_owned()),
            "NATS_URL" => Some("nats://elsewhere".to_owned()),
            _ => None,
        });
        assert_eq!(settings["CONTROL_LAW"], "Threshold");
        let environment = environment(&settings, surroundings);
        assert_eq!(environment["COOLDOWN_PERIOD_SEC"], "30");
        assert_eq!(environment["NATS_URL"], "nats://127.0.0.1:1");
        assert_eq!(environment["MAX_BANDWIDTH_MBPS"], "100");
        assert_eq!(environment["CRITICAL_WORKLOADS"], "factory/robot-factory");
    }

    #[test]
    fn one_limit_for_all_is_least_and_greatest() {
        let settings = merged(&scenario(&[]), Law::Fixed(66_500_000), |_| None);
        assert_eq!(settings["MIN_BANDWIDTH_MBPS"], "66.5");
        assert_eq!(settings["MAX_BANDWIDTH_MBPS"], "66.5");
    }

    #[test]
    fn a_law_in_the_environment_is_followed_and_an_unknown_one_is_named() {
        let named = |text: &str| {
            let text = text.to_owned();
            law(move |_| Some(text.clone()))
        };
        assert_eq!(named("DropRate").unwrap(), Law::DropRate);
        assert!(named("X").unwrap_err().to_string().contains("CONTROL_LAW"));
        assert_eq!(law(|_| None).unwrap().control(), "Adaptive");
    }
}
