//! Which samples count as data, and the memory of them. Shared by the laws.
//!
//! A sample counts if it is well formed, newer in sequence than the last one taken in, was observed recently enough and
//! is of a quality that measured something. All else leaves the averages alone; missing data is not good data.

use crate::{
    reason::seconds,
    sample::{Quality, Sample},
    state::{Evidence, Workload},
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
    for sample in &fresh {
        let age_ms = age_ms(now_ms, sample.observed_at_ms);
        let is_recent = age_ms <= max_age_ms;
        memory.last_sequence = Some(sample.sequence);
        news.is_new =
            is_recent && (sample.quality.is_measured() || sample.quality == Quality::Idle);
        news.unknown = if !is_recent {
            Some(too_old(sample.sequence, age_ms, max_age_ms))
        } else if sample.quality == Quality::Idle {
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
            idle: sample.quality == Quality::Idle,
        });
    }
    if fresh.is_empty() {
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
