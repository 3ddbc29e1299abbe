//! The reference laws: their formulas, computed by hand.

use laneguard_decider_core::{
    Action::{CongestionThrottle, Hold, Increase},
    autorate, headroom,
    policy::{Law, Policy},
    sample::{Quality, Sample, Usage},
    watermark,
};

use crate::fixture::{Loop, ROBOT, at, of_quality, policy};

fn under(law: Law) -> Policy {
    Policy {
        law,
        ..policy(&[ROBOT])
    }
}

/// Two pods, and critical requests per second.
fn requests(sequence: u64, seconds: f64, rate: f64) -> Sample {
    Sample {
        request_rate: Some(rate),
        usage: vec![usage(100.0, 50.0)],
        ..at(ROBOT, sequence, seconds)
    }
}

fn usage(total_mbit: f64, top_mbit: f64) -> Usage {
    Usage {
        class: "bulk".into(),
        total_bps: total_mbit * 1e6,
        pods: 2,
        top_pod_bps: top_mbit * 1e6,
        ..Usage::default()
    }
}

#[test]
fn watermark_knows_two_rates() {
    let mut control = Loop::new(
        under(Law::Watermark(watermark::Parameters::default())),
        1000.0,
    );
    // 40 % of 1 Gbit/s for two pods.
    let low = control.step(1.0, &[requests(1, 1.0, 99_999.0)]);
    assert_eq!(low, (CongestionThrottle, 200.0));
    // 100 000 requests of 8 kbit are 80 % of the link: 10 % for best-effort.
    let high = control.step(2.0, &[requests(2, 2.0, 100_000.0)]);
    assert_eq!(high, (CongestionThrottle, 50.0));
    let bad = of_quality(ROBOT, 3, 3.0, Quality::Stale);
    assert_eq!(control.step(3.0, &[bad]), (Hold, 50.0));
    assert_eq!(
        control.step(4.0, &[requests(4, 4.0, 0.0)]),
        (Increase, 200.0)
    );
}

#[test]
fn headroom_leaves_the_reserve() {
    let mut control = Loop::new(
        under(Law::Headroom(headroom::Parameters::default())),
        1000.0,
    );
    // 1000 - 80 - max(50, 8) = 870 for two pods.
    let step = control.step(1.0, &[requests(1, 1.0, 10_000.0)]);
    assert_eq!(step, (CongestionThrottle, 435.0));
    // 1000 - 800 - max(50, 80) = 120.
    let step = control.step(2.0, &[requests(2, 2.0, 100_000.0)]);
    assert_eq!(step, (CongestionThrottle, 60.0));
}

fn delay(sequence: u64, seconds: f64, mean_ms: f64, top_mbit: f64) -> Sample {
    Sample {
        mean_ms: Some(mean_ms),
        usage: vec![usage(2.0 * top_mbit, top_mbit)],
        ..at(ROBOT, sequence, seconds)
    }
}

#[test]
fn autorate_needs_three_delayed_of_six_and_cuts_by_the_mean_delta() {
    let mut control = Loop::new(under(Law::Autorate(autorate::Parameters::default())), 100.0);
    // Baseline 1 ms; busy and no delay: times 1.04.
    let (action, limit) = control.step(1.0, &[delay(1, 1.0, 1.0, 90.0)]);
    assert_eq!(action, Increase);
    assert!((limit - 104.0).abs() < 1e-9, "{limit}");
    // Not busy, no base: stays.
    assert_eq!(control.step(2.0, &[delay(2, 2.0, 1.0, 10.0)]).0, Hold);
    // One delayed of three: the mean delta is 33.3 ms, so that nothing is raised either.
    assert_eq!(control.step(3.0, &[delay(3, 3.0, 101.0, 90.0)]).0, Hold);
    assert_ne!(
        control.step(4.0, &[delay(4, 4.0, 101.0, 90.0)]).0,
        CongestionThrottle
    );
    // Three of five, mean delta 60 ms (the baseline rose by a thousandth of each): times 0.75.
    let before = control.state.limits[0].limit_bps / 1e6;
    let (action, limit) = control.step(5.0, &[delay(5, 5.0, 101.0, 90.0)]);
    assert_eq!(action, CongestionThrottle);
    assert!((limit / before - 0.75).abs() < 0.002, "{limit} of {before}");
}

#[test]
fn autorate_returns_to_its_base_by_a_percent_a_second() {
    let law = autorate::Parameters {
        base_bps: Some(50e6),
        ..autorate::Parameters::default()
    };
    let mut control = Loop::new(under(Law::Autorate(law)), 100.0);
    assert_eq!(
        control.step(1.0, &[delay(1, 1.0, 1.0, 10.0)]),
        (CongestionThrottle, 99.0)
    );
    let bad = of_quality(ROBOT, 2, 2.0, Quality::NoData);
    assert_eq!(control.step(2.0, &[bad]), (Hold, 99.0));
}
