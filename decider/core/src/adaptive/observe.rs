//! Samples to one observation: how the workloads stand against their targets, since when, and what best-effort sent meanwhile.

use crate::{
    intake::take_in,
    policy::{Critical, Policy, Targets},
    reason::{and_more, number},
    sample::Sample,
    state::State,
    tolerance::tolerated,
};

use super::{memory::Floor, propose::Window};

/// A window that ends by more than this before the newest one seen comes from a clock that was set back, milliseconds.
const CLOCK_STEP_MS: i64 = 60_000;

/// What one evaluation saw.
pub(super) struct Observation {
    /// Whether any sample was taken in that measured something or said idle.
    pub(super) is_new: bool,
    /// Why some workload cannot be called healthy, if so.
    pub(super) unknown: Option<String>,
    /// Whether every workload that sent news is idle.
    pub(super) idle: bool,
    /// What the new samples showed, the worst first. Empty: nothing measured came.
    pub(super) findings: Vec<Finding>,
    /// New windows that measured something, with the workload's index, whether it has targets or not.
    pub(super) windows: Vec<(usize, Window)>,
    /// What best-effort sent, from the newest sample that says so.
    pub(super) usage: Option<Seen>,
}

/// How one workload stands.
pub(super) struct Finding {
    pub(super) workload: usize,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) level: Level,
    /// Value over target of the worst signal.
    pub(super) ratio: f64,
    /// How much of the room between floor and target the worst signal uses: 0 none, 1 all.
    pub(super) used: f64,
    /// An estimate of the delay that a queue adds, milliseconds.
    pub(super) excess_ms: f64,
    /// Between which shares of the window's requests were slow.
    pub(super) slow: (f64, f64),
    /// Whether no signal has begun to rise: only then limits near what hurt are raised.
    pub(super) quiet: bool,
    /// Whether the histogram's buckets prove the violation.
    pub(super) proven: bool,
    /// In words.
    pub(super) text: String,
    pub(super) signals: Signals,
}

/// How near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Well within.
    Calm,
    /// Within, but a queue seems to build.
    Early,
    /// Above a target.
    Violating,
}

/// The signals that floors are kept of.
#[derive(Clone, Copy)]
pub(super) struct Signals {
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) mean_ms: Option<f64>,
    pub(super) jitter_ms: Option<f64>,
}

/// What best-effort sent.
pub(super) struct Seen {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) total_bps: f64,
    /// Per class in the policy's order: pods and the pod that sent most.
    pub(super) classes: Vec<(f64, f64)>,
}

/// Takes in the samples.
pub(super) fn observe(
    now_ms: i64,
    max_age_ms: u64,
    policy: &Policy,
    state: &mut State,
    floors: &mut [Floor],
    samples: &[Sample],
) -> Observation {
    let mut seen = Observation {
        is_new: false,
        unknown: None,
        idle: true,
        findings: Vec::new(),
        windows: Vec::new(),
        usage: None,
    };
    let mut unknowns = 0;

    let mut newest: Option<&Sample> = None;
    for (index, critical) in policy.critical.iter().enumerate() {
        let memory = &mut state.workloads[index];
        let mut last = None;
        let news = take_in(now_ms, max_age_ms, memory, samples, |_, sample| {
            last = Some(sample.sequence);
            missing(critical, sample).map_or(Ok(()), |name| {
                Err(format!("its sample {} has no {name}", sample.sequence))
            })
        });
        if let Some(why) = news.unknown {
            unknowns += 1;
            seen.unknown
                .get_or_insert_with(|| format!("{}: {why}", critical.workload));
        }
        if !news.is_new {
            continue;
        }
        seen.is_new = true;
        let sample = last.and_then(|sequence| {
            samples.iter().find(|s| {
                s.workload == critical.workload && s.sequence == sequence && s.is_well_formed()
            })
        });
        // An idle sample may be newer than the last measured one.
        let Some(sample) = sample.filter(|s| Some(s.sequence) == memory.last_sequence) else {
            continue;
        };
        seen.idle = false;
        if newest
            .is_none_or(|n| (n.window_end_ms, n.sequence) < (sample.window_end_ms, sample.sequence))
        {
            newest = Some(sample);
        }
        // A poll may find no newer scrape: the same window again is no second witness. A clock set back is one.
        let repeats = floors[index].seen_until_ms.is_some_and(|until| {
            (until.saturating_sub(CLOCK_STEP_MS)..=until).contains(&sample.window_end_ms)
        });
        if repeats {
            continue;
        }
        floors[index].seen_until_ms = Some(sample.window_end_ms);
        seen.windows.push((
            index,
            Window {
                end_ms: sample.window_end_ms,
                p95_ms: sample.p95_ms,
                p95_high_ms: sample.p95_high_ms,
                jitter_ms: sample.jitter_ms,
                jitter_high_ms: sample.jitter_high_ms,
            },
        ));
        let Some(mut finding) = judge(index, critical, &floors[index], sample) else {
            continue;
        };
        let is_above = finding.level == Level::Violating;
        if let Some(tolerance) = tolerated(critical.tolerate, &mut memory.missed, is_above) {
            // No reason to cut, none to raise, and none to learn a floor from.
            finding.level = Level::Early;
            finding.text = format!("{}, {tolerance}", finding.text);
        }
        seen.findings.push(finding);
    }
    if let Some(why) = &mut seen.unknown {
        why.push_str(&and_more(unknowns - 1));
    }
    seen.findings.sort_by(|a, b| {
        (b.level, b.ratio)
            .partial_cmp(&(a.level, a.ratio))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let violating = seen
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Violating)
        .count();
    if let Some(worst) = seen.findings.first_mut() {
        let name = &policy.critical[worst.workload].workload;
        worst.text = format!(
            "{name}: {}{}",
            worst.text,
            and_more(violating.saturating_sub(1))
        );
    }
    // Idle samples say what best-effort sends, too.
    let usage = newest.or_else(|| {
        samples
            .iter()
            .filter(|s| {
                s.is_well_formed()
                    && now_ms.saturating_sub(s.observed_at_ms)
                        <= i64::try_from(max_age_ms).unwrap_or(i64::MAX)
            })
            .max_by_key(|s| (s.window_end_ms, s.sequence))
    });
    seen.usage = usage.and_then(|sample| usage_of(policy, sample));
    seen
}

/// A signal that has a target, or is needed to learn one, and that a sample lacks.
fn missing(critical: &Critical, sample: &Sample) -> Option<&'static str> {
    if critical.auto && sample.p95_ms.is_none() {
        return Some("P95 latency");
    }
    critical
        .targets
        .readings(sample)
        .find(|reading| reading.value_ms.is_none())
        .map(|reading| reading.name)
}

struct Signal {
    name: &'static str,
    target: f64,
    value: f64,
    floor: Option<f64>,
    low: Option<f64>,
}

/// Compares one sample with targets and floor; `None` when it has none of the signals.
fn judge(workload: usize, critical: &Critical, floor: &Floor, sample: &Sample) -> Option<Finding> {
    let targets = &critical.targets;
    let signals = [
        (
            "P95 latency",
            targets.p95_ms,
            sample.p95_ms,
            floor.p95_ms,
            sample.p95_low_ms,
        ),
        (
            "P99 latency",
            targets.p99_ms,
            sample.p99_ms,
            floor.p99_ms,
            None,
        ),
        (
            "mean latency",
            targets.mean_ms,
            sample.mean_ms,
            floor.mean_ms,
            None,
        ),
        (
            "jitter",
            targets.jitter_ms,
            sample.jitter_ms,
            floor.jitter_ms,
            sample.jitter_low_ms,
        ),
    ]
    .into_iter()
    .filter_map(|(name, target, value, floor, low)| {
        Some(Signal {
            name,
            target: target?,
            value: value?,
            floor,
            low,
        })
    });
    let mut worst: Option<Signal> = None;
    let (mut early, mut quiet) = (false, true);
    let mut used = 0.0_f64;
    let mut proven = false;
    for signal in signals {
        let floor = signal.floor.unwrap_or(0.0).min(signal.target);
        let risen = (signal.value - floor) / (signal.target - floor).max(f64::MIN_POSITIVE);
        used = used.max(risen);
        early |= risen > 0.6;
        quiet &= risen < 0.25;
        // A bucket that straddles the target proves nothing; an edge at the target does.
        proven |= signal.value > signal.target
            && signal
                .low
                .is_none_or(|low| low >= signal.target || signal.value > 1.5 * signal.target);
        if worst
            .as_ref()
            .is_none_or(|worst| signal.value / signal.target > worst.value / worst.target)
        {
            worst = Some(signal);
        }
    }
    let worst = worst?;
    let ratio = worst.value / worst.target;
    let mean_risen = mean_rise(targets, floor, sample);
    early |= mean_risen > 1.0;
    quiet &= mean_risen < 0.5;
    let (level, relation) = if ratio > 1.0 {
        (Level::Violating, "above")
    } else if early {
        (Level::Early, "still within")
    } else {
        (Level::Calm, "within")
    };
    let slow = slow_share(targets, floor, sample);
    Some(Finding {
        workload,
        start_ms: sample.window_start_ms,
        end_ms: sample.window_end_ms,
        level,
        ratio,
        used,
        excess_ms: excess(floor, sample, slow.0),
        slow,
        quiet,
        proven,
        text: format!(
            "{} {} ms is {relation} its target of {} ms",
            worst.name,
            number(worst.value),
            number(worst.target)
        ),
        signals: Signals {
            p95_ms: sample.p95_ms,
            p99_ms: sample.p99_ms,
            mean_ms: sample.mean_ms,
            jitter_ms: sample.jitter_ms,
        },
    })
}

/// The strictest target in terms of latency, milliseconds.
fn strictest(targets: &Targets, floor: &Floor) -> f64 {
    let jitter = targets
        .jitter_ms
        .map(|jitter| jitter + floor.mean_ms.unwrap_or(0.0));
    [targets.p95_ms, targets.p99_ms, targets.mean_ms, jitter]
        .into_iter()
        .flatten()
        .fold(f64::INFINITY, f64::min)
}

/// The mean is exact whatever the buckets: a queue shows in it long before a coarse quantile moves. Its rise as a share of what
/// counts as an early sign: a fifth of the room below the target, or what the mean's own noise makes unremarkable.
fn mean_rise(targets: &Targets, floor: &Floor, sample: &Sample) -> f64 {
    let (Some(mean), Some(usual)) = (sample.mean_ms, floor.mean_ms) else {
        return 0.0;
    };
    let latency = [targets.p95_ms, targets.p99_ms, targets.mean_ms]
        .into_iter()
        .flatten()
        .fold(f64::INFINITY, f64::min);
    let nearest = if latency.is_finite() {
        latency
    } else {
        strictest(targets, floor)
    };
    let room = (nearest - usual).max(0.0);
    let noise = 4.0 * floor.deviation_ms.unwrap_or(0.0);
    (mean - usual)
        / (0.2 * room)
            .max(noise)
            .min(0.5 * room)
            .max(f64::MIN_POSITIVE)
}

/// Between which shares the requests of the window were slow, by where the quantiles stand.
fn slow_share(targets: &Targets, floor: &Floor, sample: &Sample) -> (f64, f64) {
    let slow = strictest(targets, floor);
    let is_slow = |value: Option<f64>| value.is_some_and(|value| value > slow);
    if is_slow(sample.p25_ms) {
        (0.75, 1.0)
    } else if is_slow(sample.p50_ms) {
        (0.5, 0.75)
    } else if is_slow(sample.p75_ms) {
        (0.25, 0.5)
    } else if is_slow(sample.p95_ms) {
        (0.05, 0.25)
    } else {
        (0.0, 0.05)
    }
}

/// The delay a queue adds at the end of the window. A coarse quantile overstates it, the mean of a window that is mostly slow bounds it.
fn excess(floor: &Floor, sample: &Sample, slow: f64) -> f64 {
    let above = |value: Option<f64>, floor: Option<f64>| {
        value.map(|value| (value - floor.unwrap_or(0.0)).max(0.0))
    };
    let tail = above(sample.p95_ms, floor.p95_ms).or(above(sample.p99_ms, floor.p99_ms));
    let mean = above(sample.mean_ms, floor.mean_ms);
    let upper = above(sample.p75_ms, floor.mean_ms).unwrap_or(f64::INFINITY);
    match (tail, mean) {
        // A lost packet's retransmission is in the tail, and is no queue.
        (Some(tail), Some(mean)) if slow >= 0.5 => tail.min(mean / slow).min(upper),
        (Some(tail), Some(_)) if slow >= 0.25 => tail.min(upper),
        (Some(tail), _) => tail,
        (None, Some(mean)) => mean / slow.max(0.5),
        (None, None) => above(sample.jitter_ms, floor.jitter_ms).unwrap_or(0.0),
    }
}

fn usage_of(policy: &Policy, sample: &Sample) -> Option<Seen> {
    let mut seen = Seen {
        start_ms: i64::MAX,
        end_ms: i64::MIN,
        total_bps: 0.0,
        classes: vec![(0.0, 0.0); policy.classes.len()],
    };
    let mut found = false;
    for (class, entry) in policy.classes.iter().zip(&mut seen.classes) {
        // Two entries of one class are one too many: which is true is not known.
        let mut entries = sample
            .usage
            .iter()
            .filter(|usage| usage.class == class.name);
        let Some(usage) = entries.next() else {
            continue;
        };
        if entries.next().is_some() {
            return None;
        }
        found = true;
        #[allow(clippy::cast_precision_loss)]
        let pods = usage.pods as f64;
        *entry = (pods, usage.top_pod_bps);
        seen.total_bps += usage.total_bps;
        seen.start_ms = seen
            .start_ms
            .min(usage.window_start_ms.unwrap_or(sample.window_start_ms));
        seen.end_ms = seen
            .end_ms
            .max(usage.window_end_ms.unwrap_or(sample.window_end_ms));
    }
    (found && seen.end_ms > seen.start_ms).then_some(seen)
}
