//! What the benchmarks share: what a sample shows, a process' cost, and quantiles.

use anyhow::Context as _;
use laneguard_proto::v1::Signals;

/// Processor time in seconds and resident memory in MiB of a process.
pub(crate) fn usage(id: u32) -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .context("stat")
    };
    // USER_HZ is 100 on every Linux that we run on
    let seconds = (ticks(11)? + ticks(12)?) / 100.0;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .context("VmRSS")?;
    Ok((seconds, memory / 1024.0))
}

/// Median, P99 and the greatest.
pub(crate) fn quantiles(values: &mut [f64]) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let rank = ((values.len() as f64 * q).ceil() as usize).max(1);
        values.get(rank - 1).copied()
    };
    Some([at(0.5)?, at(0.99)?, at(1.0)?])
}

/// Signals of requests of 1 ms, of which a quarter and more take longer by so much.
pub(crate) fn signals(jitter_ms: f64) -> Signals {
    Signals {
        p25_ms: Some(1.0),
        p50_ms: Some(1.0),
        p75_ms: Some(1.0 + jitter_ms),
        p95_ms: Some(2.0 + jitter_ms),
        p99_ms: Some(3.0 + jitter_ms),
        mean_ms: Some(1.0 + jitter_ms / 2.0),
        jitter_ms: Some(jitter_ms),
        ..Signals::default()
    }
}
