//! The PromQL we send. Pure; nothing else in the collector writes PromQL.
//!
//! Latency and usage are asked for as raw samples (a range selector in an instant query), so that the times are the scrapes' own
//! and no `rate` extrapolates; only the cluster-wide drop and flow rates, of which there may be very many series, are summed by
//! Prometheus.

use std::collections::BTreeSet;

/// Some deployments report the Deployment's name where others report the workload's: both mean the same.
const DEPLOYMENT_SUFFIX: &str = "-deployment";

/// A critical workload as telemetry names it. Policies that share one share the query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Its namespace; empty: any.
    pub namespace: String,
    /// Its name, without `-deployment`.
    pub workload: String,
}

impl Selector {
    /// The workload of this name; `robot` and `robot-deployment` are the same one.
    pub fn new(namespace: &str, workload: &str) -> Self {
        let base = workload.strip_suffix(DEPLOYMENT_SUFFIX);
        Self {
            namespace: namespace.to_owned(),
            workload: base
                .filter(|base| !base.is_empty())
                .unwrap_or(workload)
                .to_owned(),
        }
    }
}

/// A quoted PromQL string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A pattern that matches exactly this text (Prometheus anchors patterns at both ends).
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/') || !c.is_ascii()) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn any_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let literals: Vec<String> = texts.into_iter().map(literal).collect();
    quoted(&literals.join("|"))
}

/// The histogram `metric` of requests to a workload, as native histogram and as classic series, over the last seconds.
///
/// A missing namespace label matches: Hubble's metrics have one only when told so.
pub fn latency(metric: &str, selector: &Selector, window_s: i64) -> String {
    let base = selector.workload.as_str();
    let deployment = format!("{base}{DEPLOYMENT_SUFFIX}");
    let name = quoted(&format!("{}(_bucket|_sum|_count)?", literal(metric)));
    let workload = any_of([base, &deployment]);
    let namespace = if selector.namespace.is_empty() {
        String::new()
    } else {
        format!(
            ",destination_namespace=~{}",
            any_of([selector.namespace.as_str(), ""])
        )
    };
    format!("{{__name__=~{name},destination_workload=~{workload}{namespace}}}[{window_s}s]")
}

/// What pods in these namespaces sent, per interface, over the last seconds.
pub fn usage(metric: &str, namespaces: &BTreeSet<String>, window_s: i64) -> String {
    let namespaces = any_of(namespaces.iter().map(String::as_str));
    format!("{metric}{{namespace=~{namespaces},pod!=\"\",interface!=\"lo\"}}[{window_s}s]")
}

/// The label by which [`cluster`]'s values are told apart.
pub const SIGNAL: &str = "signal";
/// Drops per second.
pub const DROPS: &str = "drops";
/// Flows per second.
pub const FLOWS: &str = "flows";
/// Scrapes of these counters in the last minute.
pub const SCRAPES: &str = "scrapes";
/// When drops were last scraped, seconds since the Unix epoch.
pub const SCRAPED: &str = "scraped";
/// Prometheus' clock, seconds since the Unix epoch.
pub const NOW: &str = "now";

/// Drop and flow rate of the whole cluster over the last seconds, how often both are scraped, when drops last were, and Prometheus' own time (by which
/// the age of scrapes is told, whatever our clock says): all in one query.
pub fn cluster(drops: &str, flows: &str, window_s: i64) -> String {
    let named = |name: &str, expression: &str| {
        format!("label_replace({expression},\"{SIGNAL}\",\"{name}\",\"\",\"\")")
    };
    let rate = |metric: &str| format!("sum(rate({metric}[{window_s}s]))");
    let scrapes = format!("max(count_over_time({drops}[1m])) or max(count_over_time({flows}[1m]))");
    [
        named(DROPS, &rate(drops)),
        named(FLOWS, &rate(flows)),
        named(SCRAPES, &scrapes),
        named(SCRAPED, &format!("max(timestamp({drops}))")),
        named(NOW, "vector(time())"),
    ]
    .join(" or ")
}

/// The window for the rates in [`cluster`], seconds: four scrapes, by the number of scrapes in the last minute.
pub fn rate_window_s(scrapes_per_minute: Option<f64>) -> i64 {
    match scrapes_per_minute {
        Some(n) if n >= 2.0 => ((240.0 / n).ceil() as i64).clamp(4, 300),
        // a single scrape or none in a minute
        Some(_) => 300,
        None => 60,
    }
}

/// The scrape interval, milliseconds, by the number of scrapes in the last minute; a minute while it is unknown.
pub fn scrape_interval_ms(scrapes_per_minute: Option<f64>) -> i64 {
    (60_000.0 / scrapes_per_minute.unwrap_or(1.0).max(1.0)) as i64
}

/// Whether a text can stand where PromQL wants a metric's name.
pub fn is_metric_name(text: &str) -> bool {
    let first = text.bytes().next();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    first.is_some_and(|b| !b.is_ascii_digit()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: &str = "hubble_http_request_duration_seconds";

    #[test]
    fn both_workload_names_and_a_missing_namespace_label_match() {
        let expected = r#"{__name__=~"hubble_http_request_duration_seconds(_bucket|_sum|_count)?",destination_workload=~"robot-factory|robot-factory-deployment",destination_namespace=~"factory|"}[16s]"#;
        for name in ["robot-factory", "robot-factory-deployment"] {
            assert_eq!(
                latency(LATENCY, &Selector::new("factory", name), 16),
                expected
            );
        }
    }

    #[test]
    fn without_a_namespace_none_is_asked_for() {
        assert!(!latency(LATENCY, &Selector::new("", "robot"), 16).contains("namespace"));
    }

    #[test]
    fn names_are_taken_literally() {
        let query = latency(LATENCY, &Selector::new("a.b", "x\"} or up{a=~\".*"), 5);
        assert!(
            query.contains(r#"destination_namespace=~"a\\.b|""#),
            "{query}"
        );
        assert!(
            query.contains(r#"x\\\"\\}\\ or\\ up\\{a\\=\\~\\\"\\.\\*"#),
            "{query}"
        );
    }

    #[test]
    fn every_query_we_can_send_parses() {
        let namespaces = BTreeSet::from(["factory".to_owned(), "a.b".to_owned()]);
        let mut queries = vec![usage(
            "container_network_transmit_bytes_total",
            &namespaces,
            60,
        )];
        for scrapes in [None, Some(0.0), Some(1.0), Some(6.0), Some(60.0), Some(1e9)] {
            let window = rate_window_s(scrapes);
            queries.push(cluster(
                "hubble_drop_total",
                "hubble_flows_processed_total",
                window,
            ));
        }
        for namespace in ["", "factory", "a.b", "\"\\\n"] {
            for workload in [
                "robot",
                "-deployment",
                "a.b-deployment",
                "x\"} or up{a=~\".*",
            ] {
                queries.push(latency(LATENCY, &Selector::new(namespace, workload), 300));
            }
        }
        for query in queries {
            if let Err(e) = promql_parser::parser::parse(&query) {
                panic!("{query}: {e}");
            }
        }
    }

    #[test]
    fn the_rate_window_covers_four_scrapes() {
        assert_eq!(rate_window_s(Some(60.0)), 4);
        assert_eq!(rate_window_s(Some(12.0)), 20);
        assert_eq!(rate_window_s(Some(1.0)), 300);
        assert_eq!(rate_window_s(None), 60);
    }

    #[test]
    fn only_names_pass_as_metric_names() {
        assert!(is_metric_name("hubble_drop_total") && is_metric_name("job:latency:5m"));
        assert!(!is_metric_name("") && !is_metric_name("1a") && !is_metric_name("up{}"));
    }
}
