//! One rate for all best-effort pods together, divided evenly: what `Watermark` and `Headroom` have in common.

use crate::{
    Action, Evaluation, LimitChange,
    intake::take_in,
    policy::Policy,
    reason::{limits, mbit},
    sample::Sample,
    state::State,
};

/// What all best-effort pods may send together.
pub(crate) struct Shared {
    /// Bits per second.
    pub(crate) total_bps: f64,
    /// Why.
    pub(crate) why: String,
}

/// What critical traffic sends, bits per second: requests times their size. Needs a rate of every workload.
pub(crate) fn critical_bps(
    now_ms: i64,
    max_age_ms: u64,
    request_bits: f64,
    state: &mut State,
    samples: &[Sample],
) -> Result<f64, String> {
    let mut total = 0.0;
    let mut unknown = None;
    let mut is_new = false;
    for memory in &mut state.workloads {
        let news = take_in(now_ms, max_age_ms, memory, samples, |memory, sample| {
            memory.request_rate = sample.request_rate;
            sample
                .request_rate
                .map(|_| ())
                .ok_or_else(|| format!("its sample {} has no request rate", sample.sequence))
        });
        is_new |= news.is_new;
        if memory.evidence.is_some_and(|evidence| evidence.idle) {
            memory.request_rate = Some(0.0);
        }
        match (news.unknown, memory.request_rate) {
            (None, Some(rate)) => total += rate * request_bits,
            (Some(why), _) => {
                unknown.get_or_insert(format!("{}: {why}", memory.workload));
            }
            (None, None) => {
                unknown.get_or_insert(format!("{}: its rate is not known yet", memory.workload));
            }
        }
    }
    match unknown {
        Some(why) => Err(format!("{why}, and without data no limit is raised")),
        None if !is_new => Err("No sample came since the last evaluation".to_owned()),
        None => Ok(total),
    }
}

/// Sets every limit to an even share of the rate, within the classes' bounds.
pub(crate) fn share_out(
    policy: &Policy,
    mut state: State,
    samples: &[Sample],
    shared: Result<Shared, String>,
) -> Evaluation {
    let newest = samples
        .iter()
        .filter(|sample| sample.is_well_formed() && !sample.usage.is_empty())
        .max_by_key(|sample| (sample.window_end_ms, sample.sequence));
    #[allow(clippy::cast_precision_loss)]
    let pods: f64 = newest.map_or(0.0, |sample| {
        policy
            .classes
            .iter()
            .flat_map(|class| {
                sample
                    .usage
                    .iter()
                    .filter(|usage| usage.class == class.name)
            })
            .map(|usage| usage.pods as f64)
            .sum()
    });
    let decided = shared.and_then(|shared| {
        if pods > 0.0 {
            Ok((shared.total_bps / pods, shared))
        } else {
            Err(format!(
                "{}, but how many pods share the rest is not known",
                shared.why
            ))
        }
    });
    let mut changes = Vec::with_capacity(policy.classes.len());
    let (mut rises, mut falls) = (false, false);
    for (class, limit) in policy.classes.iter().zip(&mut state.limits) {
        let before_bps = limit.limit_bps;
        let inside_bps = class.clamp(before_bps);
        limit.limit_bps = match &decided {
            Ok((each_bps, _)) => class.clamp(*each_bps),
            Err(_) => inside_bps,
        };
        rises |= limit.limit_bps > inside_bps;
        falls |= limit.limit_bps < inside_bps;
        changes.push(LimitChange {
            class: class.name.clone(),
            before_bps,
            after_bps: limit.limit_bps,
        });
    }
    // Bounds may lift one class while the level falls for another.
    let action = match (rises, falls) {
        (false, false) => Action::Hold,
        (true, false) => Action::Increase,
        (_, true) => Action::CongestionThrottle,
    };
    let text = limits(&changes);
    let reason = match &decided {
        Ok((_, shared)) => format!(
            "{}: {pods} best-effort pods share {} ({text}).",
            shared.why,
            mbit(shared.total_bps)
        ),
        Err(why) => format!("{why}. No limit changes: {text}."),
    };
    Evaluation {
        action,
        reason,
        limits: changes,
        state,
    }
}
