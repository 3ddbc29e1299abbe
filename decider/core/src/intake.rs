//! Which samples count as data, and the memory of them. Shared by the laws.
//!
//! A sample counts if it is well formed, newer in sequence than the last one taken in, was observed recently enough and
//! is of a quality that measured something. All else leaves the averages alone; missing data is not good data.
//!
//! A collector asks more often than targets are scraped, so several samples may show one window. For laws that count what they see, one
//! window is one measurement: a sample that shows it again only says that it still holds.

use crate::{
    reason::seconds,
    sample::{Quality, Sample},
    state::{Evidence, Window, Workload},
};

/// What an evaluation's samples brought for one workload.
pub(crate) struct News {
    /// Whether the newest sample taken in by this evaluation measured something or said idle.
    pub(crate) is_new: bool,
    /// Why the workload cannot be called healthy at present, if so.
    pub(crate) unknown: Option<String>,
}

/// Takes the new samples of one workload into its memory, oldest first.
///
/// `learn` gets each measured sample; it says which signal it misses, if any. Samples that were taken in before, or that
/// arrive after a newer one, are ignored, so re-delivery changes nothing.
pub(crate) fn take_in(
    now_ms: i64,
    max_age_ms: u64,
    memory: &mut Workload,
    samples: &[Sample],
    learn: impl FnMut(&mut Workload, &Sample) -> Result<(), String>,
) -> News {
    take(now_ms, max_age_ms, memory, samples, false, learn)
}

/// As [`take_in`], but `learn` gets each window once: a sample that shows the last one again refreshes the evidence and is not new.
pub(crate) fn take_in_once(
    now_ms: i64,
    max_age_ms: u64,
    memory: &mut Workload,
    samples: &[Sample],
    learn: impl FnMut(&mut Workload, &Sample) -> Result<(), String>,
) -> News {
    take(now_ms, max_age_ms, memory, samples, true, learn)
}

fn take(
    now_ms: i64,
    max_age_ms: u64,
    memory: &mut Workload,
    samples: &[Sample],
    once: bool,
    mut learn: impl FnMut(&mut Workload, &Sample) -> Result<(), String>,
) -> News {
    let mut fresh: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.workload == memory.workload)
        .filter(|sample| {
            memory
                .last_sequence
                .is_none_or(|last| sample.sequence > last)
        })
        .filter(|sample| sample.is_well_formed())
        .collect();
    fresh.sort_by_key(|sample| sample.sequence);
    fresh.dedup_by_key(|sample| sample.sequence);

    let mut news = News {
        is_new: false,
        unknown: None,
    };
    let mut shown_again = fresh.is_empty();
    for sample in &fresh {
        let age_ms = age_ms(now_ms, sample.observed_at_ms);
        let is_recent = age_ms <= max_age_ms;
        let is_idle = sample.quality == Quality::Idle;
        let says_something = is_recent && (sample.quality.is_measured() || is_idle);
        memory.last_sequence = Some(sample.sequence);
        let known = memory
            .window
            .filter(|window| once && says_something && window.end_ms == sample.window_end_ms);
        if let Some(window) = known {
            memory.evidence = window.complete.then_some(Evidence {
                observed_at_ms: sample.observed_at_ms,
                idle: is_idle,
            });
            shown_again = true;
            continue;
        }
        shown_again = false;
        news.is_new = says_something;
        news.unknown = if !is_recent {
            Some(too_old(sample.sequence, age_ms, max_age_ms))
        } else if is_idle {
            None
        } else if sample.quality.is_measured() {
            learn(memory, sample).err()
        } else {
            let (sequence, quality) = (sample.sequence, sample.quality.as_str());
            Some(format!("its sample {sequence} is {quality}"))
        };
        memory.advanced = news.unknown.is_none();
        memory.evidence = memory.advanced.then_some(Evidence {
            observed_at_ms: sample.observed_at_ms,
            idle: is_idle,
        });
        if once && says_something {
            memory.window = Some(Window {
                end_ms: sample.window_end_ms,
                complete: memory.advanced,
            });
        }
    }
    if shown_again && !news.is_new {
        news.unknown = unknown_without_news(now_ms, max_age_ms, memory);
    }
    news
}

fn unknown_without_news(now_ms: i64, max_age_ms: u64, memory: &Workload) -> Option<String> {
    match (memory.last_sequence, memory.evidence) {
        (None, _) => Some("no sample of it has come yet".to_owned()),
        (Some(last), None) => Some(format!("its last sample {last} could not be used")),
        (Some(last), Some(evidence)) => {
            let age_ms = age_ms(now_ms, evidence.observed_at_ms);
            (age_ms > max_age_ms).then(|| too_old(last, age_ms, max_age_ms))
        }
    }
}

/// Zero for a sample from the future, which differing clocks make.
fn age_ms(now_ms: i64, observed_at_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(observed_at_ms)).unwrap_or(0)
}

fn too_old(sequence: u64, age_ms: u64, max_age_ms: u64) -> String {
    format!(
        "its sample {sequence} was observed {} ago, more than the {} allowed",
        seconds(age_ms),
        seconds(max_age_ms)
    )
}

/// The moving average after one more value: `alpha * value + (1 - alpha) * previous`, starting at the first value.
pub(crate) fn ewma(previous: Option<f64>, value: f64, alpha: f64) -> f64 {
    match previous {
        Some(previous) => alpha * value + (1.0 - alpha) * previous,
        None => value,
    }
}
