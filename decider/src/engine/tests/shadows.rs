//! Laws in shadow beside the one in force.

use super::*;
use crate::shadow::Totals;

fn shadowed(mode: &str) -> serde_json::Value {
    let mut spec = spec(mode);
    spec["control"]["shadow"] = json!([
        {"name": "steps", "law": "Threshold", "alpha": 1.0, "threshold": {"cooldown": "0s", "aggressiveDecrease": "1M"}},
        {"law": "Adaptive"},
    ]);
    spec
}

fn names(decisions: &[v1::Decision]) -> Vec<&str> {
    decisions.iter().map(|d| d.shadow_name.as_str()).collect()
}

#[test]
fn every_shadow_says_what_it_would_do_and_the_law_in_force_is_what_it_is_without() {
    let mut alone = Bench::new(plan_of("u", 1, spec("Enforce")));
    let mut bench = Bench::new(plan_of("u", 1, shadowed("Enforce")));
    for _ in 0..3 {
        alone.congested();
        bench.congested();
    }
    let without_totals = |bench: &Bench| -> Vec<v1::Decision> {
        let bare = |d: &v1::Decision| v1::Decision {
            comparison: None,
            ..d.clone()
        };
        bench.decisions.iter().map(bare).collect()
    };
    assert_eq!(without_totals(&bench), without_totals(&alone));
    assert_eq!(
        bench.commands, alone.commands,
        "no command follows a shadow"
    );
    assert_eq!(bench.engine.memory(), alone.engine.memory());

    let shadows = bench.engine.shadow_decisions();
    assert_eq!(names(&shadows), ["steps", "Adaptive"]);
    let in_force = bench.last_decision();
    for shadow in &shadows {
        assert!(shadow.shadow);
        assert_eq!(
            (shadow.term, shadow.sequence),
            (in_force.term, in_force.sequence),
            "it never counts as newer than the decision in force before it"
        );
        assert_eq!(shadow.samples, in_force.samples);
        assert_eq!(decide::differences(shadow).unwrap(), Vec::<String>::new());
    }
    let steps = &shadows[0].limits[0];
    assert_eq!(
        (steps.before_bps, steps.after_bps),
        (Some(98e6), Some(97e6)),
        "from where the law in force began, by steps of its own"
    );
    let totals = Totals::of(&shadows[0]).unwrap();
    assert!(totals.applied);
    assert_eq!(totals.no_control.windows, 3);
    assert_eq!(totals.shadow.unwrap().account.cuts, 3);
    assert_eq!(bench.engine.shadow_decisions(), [], "each is given once");
}

#[test]
fn after_a_takeover_shadows_are_silent_until_the_law_in_force_has_spoken_in_the_new_term() {
    let mut bench = Bench::new(plan_of("u", 1, shadowed("Enforce")));
    bench.congested();
    let mut next = Bench::with(
        plan_of("u", 1, shadowed("Enforce")),
        None,
        found_after(&bench),
    );
    next.sequence = bench.sequence;
    next.pass(1.0);
    next.hear("ns_robot", 40.0, 20.0, v1::sample::Quality::Good);
    let Step::Commit(proposal) = next.engine.step(next.now(), next.now_ms()) else {
        panic!("a decision")
    };
    // the race for the commit is lost, and what is stored is taken over
    next.engine.abandon(&proposal);
    let stored = next.engine.memory().clone();
    next.engine.reign(stored);
    assert_eq!(next.engine.shadow_decisions(), []);
    next.congested();
    let in_force = next.last_decision().clone();
    let shadows = next.engine.shadow_decisions();
    assert!(!shadows.is_empty());
    for shadow in shadows {
        assert_eq!(
            (shadow.term, shadow.sequence),
            (in_force.term, in_force.sequence)
        );
    }
}

#[test]
fn an_unchanged_shadow_speaks_every_ten_seconds_with_a_count() {
    let mut spec = shadowed("Observe");
    spec["control"]["shadow"] = json!([{"name": "steps", "law": "Threshold"}]);
    let mut bench = Bench::new(plan_of("u", 1, spec));
    let mut repeats = Vec::new();
    for _ in 0..25 {
        bench.blind();
        repeats.extend(bench.engine.shadow_decisions().iter().map(|d| d.repeats));
    }
    assert_eq!(repeats, [0, 9, 9]);
}

#[test]
fn the_next_owner_goes_on_with_what_the_shadows_know_unless_the_object_is_another() {
    let mut bench = Bench::new(plan_of("u", 1, shadowed("Observe")));
    for _ in 0..3 {
        bench.congested();
    }
    let mut found = found_after(&bench);
    // the subject's last message is a shadow's: it stands for the decision in force that it followed
    found.decision = bench.engine.shadow_decisions().pop();
    let kept = found.memory.clone().unwrap();
    found
        .memory
        .as_mut()
        .unwrap()
        .keep(bench.last_decision())
        .unwrap();
    let cuts = |bench: &Bench| {
        let kept = bench.engine.shadow_memory().unwrap();
        kept.ledger.shadows[0].account.cuts
    };
    let placement = placed(&[("bulk", Some(100e6))]);
    let mut next = Bench::with(
        plan_of("u", 1, shadowed("Observe")),
        placement.clone(),
        found.clone(),
    );
    assert_eq!(next.engine.memory().sequence, kept.sequence);
    assert_eq!(
        next.engine.unpublished(&found),
        None,
        "a shadow that followed a decision proves that it was published"
    );
    next.sequence = bench.sequence;
    next.congested();
    assert_eq!(cuts(&next), 4);

    let other = Bench::with(plan_of("v", 1, shadowed("Observe")), placement, found);
    assert!(other.engine.shadow_memory().unwrap().ledger.is_empty());
}

#[test]
fn what_is_kept_of_the_shadows_goes_through_json_unchanged() {
    let mut bench = Bench::new(plan_of("u", 1, shadowed("Enforce")));
    for _ in 0..3 {
        bench.congested();
    }
    let kept = bench.engine.shadow_memory().unwrap();
    let json = serde_json::to_vec(&kept).unwrap();
    assert_eq!(
        serde_json::from_slice::<crate::shadow::Kept>(&json).unwrap(),
        kept
    );
}

#[test]
fn without_a_placement_nothing_is_compared() {
    let mut bench = Bench::with(plan_of("u", 1, shadowed("Enforce")), None, Found::default());
    bench.congested();
    assert_eq!(bench.engine.shadow_decisions(), []);
    assert_eq!(bench.last_decision().comparison, None);
}
