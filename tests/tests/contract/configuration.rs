use laneguard_tests::binary;
use laneguard_tests::run::run;

/// Binary, variable, a value that cannot be used, and what the refusal has to mention.
const UNUSABLE: &[(&str, &str, &str, &str)] = &[
    (
        "laneguard-collector",
        "PROMETHEUS_URL",
        "prometheus:9090",
        "URL",
    ),
    (
        "laneguard-collector",
        "PROMETHEUS_CA",
        "/nonexistent/ca.pem",
        "/nonexistent/ca.pem",
    ),
    ("laneguard-collector", "POLL_INTERVAL", "10ms", "100ms"),
    ("laneguard-collector", "POLL_INTERVAL", "soon", "soon"),
    ("laneguard-collector", "PROMETHEUS_TIMEOUT", "2h", "1m"),
    ("laneguard-collector", "PROMETHEUS_CONCURRENCY", "0", "0"),
    ("laneguard-collector", "LATENCY_METRIC", "up{}", "up{}"),
    (
        "laneguard-actuator",
        "KUBECONFIG",
        "/nonexistent/kubeconfig",
        "/nonexistent/kubeconfig",
    ),
    (
        "laneguard-actuator",
        "CRITICAL_SELECTOR",
        "a in (b",
        "a in (b",
    ),
    ("laneguard-actuator", "WRITE_CONCURRENCY", "0", "0"),
    ("laneguard-actuator", "TARGET_JITTER_MS", "fast", "fast"),
    ("laneguard-actuator", "TARGET_LATENCY_MS", "-1", "-1"),
    ("laneguard-actuator", "MIN_BANDWIDTH_MBPS", "0.1", "0.1"),
    (
        "laneguard-actuator",
        "MAX_BANDWIDTH_MBPS",
        "5",
        "MIN_BANDWIDTH_MBPS",
    ),
    ("laneguard-actuator", "EWMA_ALPHA", "1.5", "1.5"),
    ("laneguard-actuator", "COOLDOWN_PERIOD_SEC", "NaN", "NaN"),
    (
        "laneguard-actuator",
        "AGGRESSIVE_DECREASE_MBPS",
        "-50",
        "-50",
    ),
    ("laneguard-actuator", "GENTLE_DECREASE_MBPS", "x", "x"),
    ("laneguard-actuator", "INCREASE_STEP_MBPS", "inf", "inf"),
    (
        "laneguard-actuator",
        "CRITICAL_WORKLOADS",
        "robot-factory",
        "robot-factory",
    ),
    ("laneguard-actuator", "BEST_EFFORT_SELECTOR", "=", "="),
    ("laneguard-actuator", "CONTROL_LAW", "Magic", "Magic"),
    ("laneguard-actuator", "LINK_BANDWIDTH_MBPS", "0.5", "0.5"),
];

/// The same for every service.
const UNUSABLE_EVERYWHERE: &[(&str, &str, &str)] = &[
    ("NATS_URL", "http://[", "http://["),
    (
        "NATS_CREDS",
        "/nonexistent/user.creds",
        "/nonexistent/user.creds",
    ),
    ("NATS_CA", "/nonexistent/ca.pem", "/nonexistent/ca.pem"),
    ("NATS_REPLICAS", "9", "9"),
    ("NATS_MANAGE_STREAMS", "maybe", "maybe"),
    ("CLUSTER", "a.b", "a.b"),
    ("ADMIN_ADDR", "localhost", "localhost"),
    ("ADMIN_ADDR", "192.0.2.1:80", "192.0.2.1:80"),
    ("LOG_FORMAT", "xml", "xml"),
    ("RUST_LOG", "laneguard=loud=very", "RUST_LOG"),
    ("MESSAGE_ENCODING", "xml", "xml"),
];

/// The flag of a variable, as clap's own refusals name it.
fn flag(variable: &str) -> String {
    let name = match variable {
        "RUST_LOG" => "log".to_owned(),
        other => other.to_lowercase().replace('_', "-"),
    };
    format!("--{name}")
}

async fn refusal(service: &str, kubeconfig: &str, variable: &str, value: &str) -> String {
    let surroundings = [
        ("NATS_URL", "nats://127.0.0.1:9"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
        ("PROMETHEUS_URL", "http://127.0.0.1:9"),
        ("KUBECONFIG", kubeconfig),
    ];
    let mut environment: Vec<(&str, &str)> = surroundings
        .into_iter()
        .filter(|(name, _)| *name != variable)
        .collect();
    environment.push((variable, value));
    println!("{service} {variable}={value:?}");
    let refused = run(service, &environment, &[]).await;
    let context = format!("{service} {variable}={value:?}: {refused:#?}");
    assert_eq!(refused.code(), Some(64), "{context}");
    assert_eq!(refused.stdout, "", "{context}");
    let lines: Vec<&str> = refused
        .stderr
        .lines()
        .filter(|line| !line.contains(" INFO "))
        .collect();
    assert_eq!(lines.len(), 1, "one line: {context}");
    assert!(
        lines[0].contains(variable) || lines[0].contains(&flag(variable)),
        "it names the setting: {context}"
    );
    lines[0].to_owned()
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_ends_with_64_and_one_line_that_names_it_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(
        &kubeconfig,
        laneguard_lab_kube::kubeconfig("http://127.0.0.1:9"),
    )
    .unwrap();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let everywhere = binary::SERVICES.iter().flat_map(|service| {
        let cases = UNUSABLE_EVERYWHERE.iter();
        cases.map(|(variable, value, mention)| (*service, *variable, *value, *mention))
    });
    for (service, variable, value, mention) in UNUSABLE.iter().copied().chain(everywhere) {
        let line = refusal(service, kubeconfig, variable, value).await;
        assert!(
            line.contains(mention),
            "{service} {variable}={value:?} says why: {line}"
        );
    }
}

#[tokio::test]
async fn an_unknown_flag_is_bad_configuration_too() {
    for name in binary::ALL {
        let refused = run(name, &[], &["--no-such-flag"]).await;
        let line = refused.failure(64);
        assert!(line.contains("--no-such-flag"), "{name}: {line}");
        assert_eq!(line.lines().count(), 1, "{name}: {line}");
    }
}
