use std::collections::{BTreeMap, BTreeSet};

use laneguard_tests::binary;
use laneguard_tests::run::run;

/// The variables that DESIGN fixes, beside OpenTelemetry's.
const ALL: &[&str] = &[
    "NATS_URL",
    "NATS_CREDS",
    "NATS_CA",
    "NATS_REPLICAS",
    "NATS_MANAGE_STREAMS",
    "CLUSTER",
    "RUST_LOG",
    "LOG_FORMAT",
];
const SERVICES: &[&str] = &["ADMIN_ADDR", "MESSAGE_ENCODING"];
const COLLECTOR: &[&str] = &["PROMETHEUS_URL", "POLL_INTERVAL"];
const ACTUATOR: &[&str] = &[
    "KUBECONFIG",
    "POLICY_NAMESPACE",
    "CRITICAL_SELECTOR",
    "TARGET_JITTER_MS",
    "TARGET_LATENCY_MS",
    "MIN_BANDWIDTH_MBPS",
    "MAX_BANDWIDTH_MBPS",
    "EWMA_ALPHA",
    "COOLDOWN_PERIOD_SEC",
    "AGGRESSIVE_DECREASE_MBPS",
    "INCREASE_STEP_MBPS",
    "GENTLE_DECREASE_MBPS",
    "CRITICAL_WORKLOADS",
    "BEST_EFFORT_SELECTOR",
    "CONTROL_LAW",
    "LINK_BANDWIDTH_MBPS",
];

/// One flag or argument of a help text.
#[derive(Debug)]
struct Entry {
    /// As it is typed, with the name of its value.
    head: String,
    /// All that is said about it.
    text: String,
}

impl Entry {
    fn variable(&self) -> Option<&str> {
        let (_, rest) = self.text.split_once("[env: ")?;
        rest.split(['=', ']']).next()
    }

    fn value_name(&self) -> Option<&str> {
        let (_, rest) = self.head.split_once('<')?;
        rest.split('>').next()
    }

    fn long(&self) -> Option<&str> {
        let at = self.head.find("--")?;
        self.head[at + 2..].split([' ', '=']).next()
    }
}

/// The flags and arguments of a long help text: a head is indented by at most six, what is said about it by ten.
fn entries(help: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in help.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if (2..=6).contains(&indent) && (text.starts_with('-') || text.starts_with(['<', '['])) {
            entries.push(Entry {
                head: text.to_owned(),
                text: String::new(),
            });
        } else if indent >= 8
            && let Some(entry) = entries.last_mut()
        {
            entry.text.push_str(text);
            entry.text.push('\n');
        }
    }
    entries
}

/// Help of a binary and of all its subcommands, by command line.
pub(crate) async fn helps(binary: &str) -> BTreeMap<String, String> {
    let mut helps = BTreeMap::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run(binary, &[], &arguments).await.output().to_owned();
        for command in subcommands(&help) {
            let mut deeper = path.clone();
            deeper.push(command);
            open.push(deeper);
        }
        helps.insert(format!("{binary} {}", path.join(" ")), help);
    }
    helps
}

fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect()
}

/// Every variable that a binary's help names.
pub(crate) async fn variables(binary: &str) -> BTreeSet<String> {
    let helps = helps(binary).await;
    helps
        .values()
        .flat_map(|help| entries(help))
        .filter_map(|entry| entry.variable().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn every_variable_of_the_interface_is_in_the_help_of_its_binary() {
    for name in binary::ALL {
        let found = variables(name).await;
        let mut wanted = ALL.to_vec();
        if name != "lanectl" {
            wanted.extend(SERVICES);
        }
        match name {
            "laneguard-collector" => wanted.extend(COLLECTOR),
            "laneguard-actuator" => wanted.extend(ACTUATOR),
            _ => {}
        }
        let missing: Vec<_> = wanted.iter().filter(|v| !found.contains(**v)).collect();
        assert!(
            missing.is_empty(),
            "{name} --help does not name {missing:?}"
        );
    }
}

#[tokio::test]
async fn every_flag_says_what_it_does_its_variable_its_default_and_what_its_value_is() {
    let mut wrong = Vec::new();
    for name in binary::ALL {
        for (command, help) in helps(name).await {
            for entry in entries(&help) {
                let mut complain =
                    |what: &str| wrong.push(format!("{command} {}: {what}", entry.head));
                let said = entry
                    .text
                    .lines()
                    .next()
                    .is_some_and(|line| line.len() > 5 && !line.starts_with('['));
                if !said {
                    complain("says nothing about what it does");
                }
                let Some(long) = entry.long() else { continue };
                if ["help", "version"].contains(&long) {
                    continue;
                }
                // what a subcommand is told holds for that one call; settings hold for all
                let is_setting = !command.trim_end().contains(' ');
                if is_setting && entry.variable().is_none() {
                    complain("has no environment twin");
                }
                let Some(value) = entry.value_name() else {
                    continue; // a switch: off unless given
                };
                // what the usage line shows without brackets has to be given
                let must_be_given = help.contains(&format!(" --{long} <{value}>"))
                    && !help.contains(&format!("[--{long} <{value}>"))
                    && !is_setting;
                if !entry.text.contains("[default: ") && !must_be_given {
                    complain("does not say its default");
                }
                // clap's own name for a value is the flag's: then nobody thought about unit or kind
                let is_kind = ["FILE", "NAMESPACE"].contains(&value);
                if !is_kind && value == long.replace('-', "_").to_uppercase() {
                    complain("its value has neither unit nor kind");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_binary_says_its_version() {
    for name in binary::ALL {
        let said = run(name, &[], &["--version"]).await;
        assert_eq!(
            said.output().trim(),
            format!("{name} {}", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn a_flag_without_help_default_or_variable_is_seen_as_such() {
    let help = "Options:\n      --first <MS>\n          What it does, milliseconds\n          \n          [env: FIRST=]\n          [default: 5]\n\n      --second <SECOND>\n\n  -h, --help\n          Print help\n";
    let found = entries(help);
    let heads: Vec<_> = found.iter().filter_map(Entry::long).collect();
    assert_eq!(heads, ["first", "second", "help"]);
    assert_eq!(
        (found[0].variable(), found[0].value_name()),
        (Some("FIRST"), Some("MS"))
    );
    assert_eq!((found[1].variable(), found[1].text.as_str()), (None, ""));
}
