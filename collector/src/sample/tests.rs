use super::*;
use crate::series::{Series, sources, tests::METRIC, tests::classic};
use proptest::prelude::*;

const CLIENT: (&str, &str) = ("reporter", "client");
const SERVER: (&str, &str) = ("reporter", "server");
const DEFAULT: [&str; 3] = ["0.005", "0.01", "0.025"];

fn target(metric: Metric, ms: f64) -> Target {
    Target {
        metric,
        below: Duration::from_secs_f64(ms / 1000.0),
    }
}

fn targets() -> Vec<Target> {
    vec![target(Metric::P95, 10.0), target(Metric::Jitter, 5.0)]
}

fn scraped(series: &[Series]) -> Scraped {
    Scraped::of(sources(METRIC, series), None)
}

fn measured(now_ms: i64, series: &[Series], memory: Memory) -> (Measurement, Memory) {
    measured_against(&targets(), now_ms, series, memory)
}

fn measured_against(
    targets: &[Target],
    now_ms: i64,
    series: &[Series],
    memory: Memory,
) -> (Measurement, Memory) {
    let ask = Ask {
        metric: METRIC,
        targets,
        idle_after: Duration::from_secs(60),
    };
    measure(now_ms, &ask, Ok(&scraped(series)), memory)
}

/// Scrapes each second up to `end_ms`, each with `per_scrape` new observations per bucket (5, 10, 25 ms, more), 8 ms on average.
fn steady(labels: &[(&str, &str)], end_ms: i64, scrapes: i64, per_scrape: [f64; 4]) -> Vec<Series> {
    let rows: Vec<(i64, Vec<f64>, f64)> = (0..scrapes)
        .map(|n| {
            let mut below = 0.0;
            let cumulative: Vec<f64> = per_scrape
                .iter()
                .map(|c| {
                    below += c * n as f64;
                    below
                })
                .collect();
            let sum = below * 0.008;
            (end_ms - (scrapes - 1 - n) * 1000, cumulative, sum)
        })
        .collect();
    let rows: Vec<(i64, &[f64], f64)> = rows
        .iter()
        .map(|(at, c, s)| (*at, c.as_slice(), *s))
        .collect();
    classic(labels, &DEFAULT, &rows)
}

fn ms(value: Option<f64>) -> f64 {
    (value.unwrap() * 1e6).round() / 1e6
}

#[test]
fn everything_below_5_ms_reads_as_the_known_constants() {
    let series = steady(&[CLIENT], 100_000, 12, [200.0, 0.0, 0.0, 0.0]);
    let (m, _) = measured(100_400, &series, Memory::default());
    let raw = m.raw.unwrap();
    assert_eq!(ms(raw.signals.p95_ms), 4.75);
    assert_eq!(ms(raw.signals.p99_ms), 4.95);
    assert_eq!(ms(raw.signals.jitter_ms), 2.5);
    assert_eq!(
        raw.p95,
        Some(Span {
            low_ms: 0.0,
            high_ms: Some(5.0)
        })
    );
    assert_eq!(
        raw.jitter,
        Some(Span {
            low_ms: 0.0,
            high_ms: Some(5.0)
        })
    );
    // both targets lie on bounds, so even this source can tell
    assert_eq!(m.quality, Quality::Good, "{}", m.reason);
    assert_eq!(m.reason, "200 requests in 1.0 s, newest scrape 0.4 s old");
}

#[test]
fn one_scrape_is_enough_when_it_holds_enough_requests() {
    // 100 in (5, 10], 100 in (10, 25] each second: p95 rank 190 is the 90th of 100 there: 10 + 15 * 0.9
    let series = steady(&[CLIENT], 100_000, 12, [0.0, 100.0, 100.0, 0.0]);
    let (m, _) = measured(100_400, &series, Memory::default());
    let raw = m.raw.unwrap();
    assert_eq!(
        m.window,
        Some(Window {
            start_ms: 99_000,
            end_ms: 100_000
        })
    );
    assert_eq!((m.count, m.request_rate), (Some(200.0), Some(200.0)));
    assert_eq!(ms(raw.signals.p95_ms), 23.5);
    assert_eq!(ms(raw.signals.p25_ms), 7.5);
    assert_eq!(ms(raw.signals.p75_ms), 17.5);
    assert_eq!(ms(raw.signals.jitter_ms), 10.0);
    assert_eq!(ms(raw.signals.mean_ms), 8.0);
    // p25 in (5, 10], p75 in (10, 25]: the jitter may be anything from 0 to 20
    assert_eq!(
        raw.jitter,
        Some(Span {
            low_ms: 0.0,
            high_ms: Some(20.0)
        })
    );
    assert_eq!(m.source, "hubble_http_request_duration_seconds/client");
    assert_eq!(m.quality, Quality::Coarse);
    assert!(
        m.reason
            .contains("Jitter target 5 ms lies within 0 to 20 ms"),
        "{}",
        m.reason
    );
    assert!(
        !m.reason.contains("P95"),
        "10 to 25 ms is provably over 10 ms: {}",
        m.reason
    );
}

#[test]
fn older_scrapes_are_added_until_there_are_enough_requests() {
    let series = steady(&[CLIENT], 100_000, 16, [8.0, 0.0, 0.0, 0.0]);
    let (m, _) = measured(100_000, &series, Memory::default());
    // 8 + 8 + 8 + 8 >= 30
    assert_eq!(
        m.window,
        Some(Window {
            start_ms: 96_000,
            end_ms: 100_000
        })
    );
    assert_eq!((m.count, m.request_rate), (Some(32.0), Some(8.0)));
}

#[test]
fn a_window_never_reaches_further_than_ten_seconds() {
    let series = steady(&[CLIENT], 100_000, 16, [2.0, 0.0, 0.0, 0.0]);
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(
        m.window,
        Some(Window {
            start_ms: 90_000,
            end_ms: 100_000
        })
    );
    assert_eq!(m.count, Some(20.0));
    assert_eq!(m.quality, Quality::Good);
}

#[test]
fn when_requests_stop_what_was_before_is_not_news() {
    let mut series = steady(&[CLIENT], 97_000, 12, [200.0, 0.0, 0.0, 0.0]);
    let still: Vec<f64> = series.iter().map(|s| s.values.last().unwrap().1).collect();
    for (series, value) in series.iter_mut().zip(still) {
        series
            .values
            .extend([98_000, 99_000, 100_000].map(|at| (at, value)));
    }
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(m.quality, Quality::NoData);
    assert_eq!(m.reason, "0 requests in 3.0 s, at least 5 are needed");
}

#[test]
fn a_target_inside_the_bucket_is_unmeasurable() {
    let series = steady(&[CLIENT], 100_000, 3, [0.0, 200.0, 0.0, 0.0]);
    let targets = [
        target(Metric::P95, 7.5),
        target(Metric::P99, 25.0),
        target(Metric::Mean, 8.5),
    ];
    let (m, _) = measured_against(&targets, 100_000, &series, Memory::default());
    assert_eq!(m.quality, Quality::Coarse);
    assert_eq!(
        m.reason,
        "the P95 target 7.5 ms lies within 5 to 10 ms, which is all the buckets tell: unmeasurable by this source"
    );
}

#[test]
fn a_target_beyond_the_last_bound_is_unmeasurable_when_the_quantile_is_there() {
    let series = steady(&[CLIENT], 100_000, 3, [0.0, 0.0, 100.0, 100.0]);
    let (m, _) = measured_against(
        &[target(Metric::P95, 30.0)],
        100_000,
        &series,
        Memory::default(),
    );
    assert_eq!(m.quality, Quality::Coarse);
    assert!(m.reason.contains("25 to infinity"), "{}", m.reason);
    assert_eq!(
        m.raw.unwrap().p95,
        Some(Span {
            low_ms: 25.0,
            high_ms: None
        })
    );
}

#[test]
fn the_clients_side_is_preferred_and_never_added_to_the_servers() {
    let mut series = steady(&[SERVER], 100_000, 5, [50.0, 0.0, 0.0, 0.0]);
    series.extend(steady(&[CLIENT], 100_000, 5, [0.0, 0.0, 40.0, 0.0]));
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(m.count, Some(40.0));
    assert!(m.source.ends_with("/client"));
}

#[test]
fn the_server_counts_where_the_client_has_nothing() {
    let mut series = steady(&[SERVER], 100_000, 5, [50.0, 0.0, 0.0, 0.0]);
    series.extend(steady(&[CLIENT], 100_000, 5, [0.0; 4]));
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!((m.count, m.source.ends_with("/server")), (Some(50.0), true));
    let (m, _) = measured(
        100_000,
        &steady(&[], 100_000, 5, [50.0, 0.0, 0.0, 0.0]),
        Memory::default(),
    );
    assert!(m.source.ends_with("/unknown"));
}

#[test]
fn a_client_that_falls_silent_is_not_replaced_by_a_healthy_looking_server() {
    let client = |end, per_scrape| steady(&[CLIENT], end, 16, [0.0, 0.0, per_scrape, 0.0]);
    let (first, memory) = measured(100_000, &client(100_000, 40.0), Memory::default());
    assert_eq!(first.quality, Quality::Coarse);

    let mut series = client(120_000, 0.0);
    series.extend(steady(&[SERVER], 120_000, 16, [50.0, 0.0, 0.0, 0.0]));
    let (m, memory) = measured(120_000, &series, memory);
    assert_eq!(m.quality, Quality::NoData, "{}", m.reason);
    assert!(m.reason.starts_with("0 requests in 10.0 s"), "{}", m.reason);

    // also when its scrapes stop
    let mut series = client(100_000, 40.0);
    series.extend(steady(&[SERVER], 121_000, 16, [50.0, 0.0, 0.0, 0.0]));
    let (m, memory) = measured(121_000, &series, memory);
    assert_eq!(m.quality, Quality::Stale, "{}", m.reason);

    // after idleAfter the server is what there is
    let mut series = client(160_000, 0.0);
    series.extend(steady(&[SERVER], 160_000, 16, [50.0, 0.0, 0.0, 0.0]));
    let (m, _) = measured(160_000, &series, memory);
    assert!(m.source.ends_with("/server"));
    assert!(m.quality.usable());
}

#[test]
fn instances_are_summed_with_their_own_scrape_times() {
    let mut series = steady(
        &[CLIENT, ("instance", "a")],
        100_000,
        5,
        [10.0, 0.0, 0.0, 0.0],
    );
    series.extend(steady(
        &[CLIENT, ("instance", "b")],
        100_600,
        5,
        [30.0, 0.0, 0.0, 0.0],
    ));
    let (m, _) = measured(100_700, &series, Memory::default());
    assert_eq!(
        m.window,
        Some(Window {
            start_ms: 99_000,
            end_ms: 100_600
        })
    );
    assert_eq!((m.count, m.request_rate), (Some(40.0), Some(40.0)));
}

#[test]
fn an_instance_without_news_is_left_out_and_said() {
    let mut series = steady(
        &[CLIENT, ("instance", "a")],
        100_000,
        12,
        [50.0, 0.0, 0.0, 0.0],
    );
    series.extend(steady(
        &[CLIENT, ("instance", "b")],
        97_000,
        12,
        [0.0, 0.0, 50.0, 0.0],
    ));
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(m.count, Some(50.0));
    assert!(
        m.reason
            .ends_with("1 of 2 sources are late and not counted"),
        "{}",
        m.reason
    );
}

#[test]
fn a_failed_query_says_why_and_no_series_is_no_data() {
    let ask = Ask {
        metric: METRIC,
        targets: &targets(),
        idle_after: Duration::from_secs(60),
    };
    let (m, _) = measure(1, &ask, Err("no answer within 2s"), Memory::default());
    assert_eq!(
        (m.quality, m.reason.as_str()),
        (Quality::Failed, "the query failed: no answer within 2s")
    );
    assert_eq!((m.raw, m.window), (None, None));
    let (m, _) = measured(1, &[], Memory::default());
    assert_eq!(m.quality, Quality::NoData);
}

#[test]
fn one_scrape_tells_nothing() {
    let (m, _) = measured(
        100_500,
        &steady(&[CLIENT], 100_000, 1, [50.0; 4]),
        Memory::default(),
    );
    assert_eq!(m.quality, Quality::NoData);
    assert!(m.reason.contains("no two scrapes"), "{}", m.reason);
}

#[test]
fn four_requests_are_too_few() {
    let mut series = steady(&[CLIENT], 99_000, 11, [0.0; 4]);
    let jump = classic(
        &[CLIENT],
        &DEFAULT,
        &[(100_000, &[4.0, 4.0, 4.0, 4.0], 0.016)],
    );
    for (all, new) in series.iter_mut().zip(jump) {
        all.values.extend(new.values);
    }
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(m.quality, Quality::NoData);
    assert_eq!(m.reason, "4 requests in 10.0 s, at least 5 are needed");
    assert_eq!((m.raw, m.count), (None, Some(4.0)));
}

#[test]
fn the_newest_scrape_gets_stale_by_three_intervals_or_five_seconds() {
    let series = steady(&[CLIENT], 100_000, 12, [200.0, 0.0, 0.0, 0.0]);
    assert_eq!(
        measured(105_000, &series, Memory::default()).0.quality,
        Quality::Good
    );
    let (m, _) = measured(105_001, &series, Memory::default());
    assert_eq!((m.quality, m.raw), (Quality::Stale, None));
    assert_eq!(m.reason, "the newest scrape is 5.0 s old, more than 5.0 s");
}

#[test]
fn a_hole_in_the_scrapes_is_not_measured_across() {
    let series = classic(
        &[CLIENT],
        &["0.005"],
        &[
            (38_000, &[1.0, 1.0], 0.1),
            (39_000, &[1.0, 1.0], 0.1),
            (40_000, &[1.0, 1.0], 0.1),
            (100_000, &[9000.0, 9000.0], 9.1),
        ],
    );
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(m.quality, Quality::NoData, "{}", m.reason);
}

#[test]
fn quiet_becomes_idle_only_after_idle_after() {
    let mut memory = Memory::default();
    let mut idle_from = None;
    for now in (100..=180).map(|s| s * 1000) {
        let (m, next) = measured(now, &steady(&[CLIENT], now, 16, [0.0; 4]), memory);
        memory = next;
        match m.quality {
            Quality::Idle => idle_from = idle_from.or(Some(now)),
            other => assert_eq!((other, idle_from), (Quality::NoData, None), "{now}"),
        }
    }
    // the first window already covered 10 quiet seconds
    assert_eq!(idle_from, Some(150_000));
    let busy = steady(&[CLIENT], 181_000, 16, [200.0, 0.0, 0.0, 0.0]);
    let (m, memory) = measured(181_000, &busy, memory);
    assert_eq!(m.quality, Quality::Good);
    let (m, _) = measured(200_000, &steady(&[CLIENT], 200_000, 16, [0.0; 4]), memory);
    assert_eq!(m.quality, Quality::NoData);
}

#[test]
fn no_series_and_stale_series_are_never_idle() {
    let quiet = steady(&[CLIENT], 100_000, 16, [0.0; 4]);
    let (_, memory) = measured(100_000, &quiet, Memory::default());
    for (now, series) in [(170_000, &quiet[..]), (170_000, &[])] {
        let (m, memory) = measured(now, series, memory);
        assert!(matches!(m.quality, Quality::Stale | Quality::NoData));
        assert_eq!(memory.quiet, None);
    }
    // nor does a gap in polling count as quiet
    let (m, _) = measured(170_000, &steady(&[CLIENT], 170_000, 16, [0.0; 4]), memory);
    assert_eq!(m.quality, Quality::NoData);
}

#[test]
fn another_collector_goes_on_where_the_last_one_was() {
    let idle_after = Duration::from_secs(60);
    let idle = Memory::resumed(Quality::Idle, "m/client", 100_000, idle_after);
    let (m, _) = measured(101_000, &steady(&[CLIENT], 101_000, 16, [0.0; 4]), idle);
    assert_eq!(m.quality, Quality::Idle);
    let good = Memory::resumed(Quality::Good, "m/client", 100_000, idle_after);
    assert_eq!(good.reporter, Some((Reporter::Client, 100_000)));
}

#[test]
fn a_source_without_buckets_still_has_a_mean() {
    let mut series = steady(&[CLIENT], 100_000, 3, [200.0, 0.0, 0.0, 0.0]);
    series.retain(|s| s.label("le").is_empty());
    let (m, _) = measured_against(
        &[target(Metric::Mean, 10.0)],
        100_000,
        &series,
        Memory::default(),
    );
    assert_eq!(
        (m.quality, ms(m.raw.unwrap().signals.mean_ms)),
        (Quality::Good, 8.0)
    );
    let (m, _) = measured(100_000, &series, Memory::default());
    assert_eq!(
        (m.quality, m.reason.as_str()),
        (Quality::NoData, "the source does not measure P95, Jitter")
    );
}

proptest! {
    /// Whatever is scraped, nothing that is not a finite number comes out, and jitter and quantiles lie within their bounds.
    #[test]
    fn what_comes_out_is_finite_and_within_its_bounds(
        rows in prop::collection::vec((1i64..3000, prop::array::uniform4(prop_oneof![
            9 => (0u32..500).prop_map(f64::from), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)])), 0..14),
        late in 0i64..8000,
    ) {
        let mut at = 0;
        let rows: Vec<(i64, [f64; 4])> = rows.into_iter().map(|(step, c)| { at += step; (at, c) }).collect();
        let rows: Vec<(i64, &[f64], f64)> = rows.iter().map(|(at, c)| (*at, c.as_slice(), c[3] * 0.01)).collect();
        let (m, _) = measured(at + late, &classic(&[CLIENT], &DEFAULT, &rows), Memory::default());
        prop_assert!(!m.reason.is_empty());
        prop_assert!(m.count.is_none_or(f64::is_finite) && m.request_rate.is_none_or(f64::is_finite));
        prop_assert_eq!(m.quality.usable() && m.raw.is_none(), false);
        let Some(raw) = m.raw else { return Ok(()) };
        let s = raw.signals;
        for value in [s.p25_ms, s.p50_ms, s.p75_ms, s.p95_ms, s.p99_ms, s.mean_ms, s.jitter_ms].into_iter().flatten() {
            prop_assert!(value.is_finite() && value >= 0.0);
        }
        for (value, span) in [(s.p95_ms, raw.p95), (s.p99_ms, raw.p99), (s.jitter_ms, raw.jitter)] {
            if let (Some(value), Some(span)) = (value, span) {
                prop_assert!(span.low_ms <= value + 1e-9 && span.high_ms.is_none_or(|h| value <= h + 1e-9), "{} {:?}", value, span);
            }
        }
    }
}
