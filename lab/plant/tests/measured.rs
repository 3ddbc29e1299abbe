//! The plant against the kernel network, on the runs that are kept in the repository: fitted on short ones, checked on a long one.

use std::path::{Path, PathBuf};

use laneguard_lab_plant::fit::{
    Fitted,
    check::{Comparison, check, passage_error},
    fit,
    measured::Measured,
};

fn folder(run: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../measurements/2026-11-24")
        .join(run)
}

fn measured(run: &str) -> Measured {
    Measured::read(&folder(run)).unwrap_or_else(|error| panic!("{error}"))
}

fn fitted_on_the_demo() -> Fitted {
    fit(&["demo/with", "demo/without"].map(measured))
}

fn assert_alike(comparison: &Comparison) {
    assert!(comparison.agreement_percent() >= 97.0, "{comparison:?}");
    assert!(comparison.queue_correlation >= 0.97, "{comparison:?}");
    assert!(comparison.queue_rms_percent <= 6.0, "{comparison:?}");
    assert!(comparison.goodput_error.abs() <= 0.5, "{comparison:?}");
    assert!(comparison.calm_p95_error_ms.abs() <= 1.0, "{comparison:?}");
    assert!(
        comparison.congested_p95_error_ms.abs() <= 5.0,
        "{comparison:?}"
    );
}

#[test]
fn fitted_parameters_are_those_that_the_lab_had_set() {
    let fitted = fitted_on_the_demo();
    let is_near = |name: &str, set: f64| {
        let value = fitted.value(name).unwrap();
        assert!((value / set - 1.0).abs() < 0.02, "{name}: {value}");
    };
    is_near("link_bps", 200e6);
    is_near("fifo_bits", 12e6);
    is_near("request_rate", 200.0);
    for name in ["news_delay_low", "actuation_delay_low", "start_delay"] {
        let seconds = fitted.value(name).unwrap();
        assert!((0.0..0.5).contains(&seconds), "{name}: {seconds}");
    }
}

#[test]
fn a_held_out_run_under_a_law_is_foretold() {
    let run = measured("congestion-adaptive");
    let comparison = check(&run, &fitted_on_the_demo(), 1);
    assert_alike(&comparison);
    let fills = passage_error(&comparison.fills).unwrap();
    let drains = passage_error(&comparison.drains).unwrap();
    assert!(fills < 0.3 && drains < 0.3, "{comparison:?}");
}

#[test]
fn a_held_out_run_without_control_is_foretold() {
    let run = measured("demo/without");
    let comparison = check(&run, &fit(&[measured("congestion-adaptive")]), 1);
    assert!(comparison.measured_violating >= 40, "{comparison:?}");
    assert_alike(&comparison);
}

#[test]
fn a_plant_with_half_the_queue_is_told_from_the_kernel_network() {
    let mut fitted = fitted_on_the_demo();
    let fifo = fitted.parameters.get_mut("fifo_bits").unwrap();
    fifo.value /= 2.0;
    let comparison = check(&measured("demo/without"), &fitted, 1);
    assert!(comparison.congested_p95_error_ms < -15.0, "{comparison:?}");
}

#[test]
fn a_fitted_plant_reads_back_as_it_was_written() {
    let fitted = fitted_on_the_demo();
    let json = serde_json::to_string(&fitted).unwrap();
    assert_eq!(serde_json::from_str::<Fitted>(&json).unwrap(), fitted);
}

#[test]
fn a_broken_log_is_named_with_its_line() {
    let copy = std::env::temp_dir().join(format!("laneguard-plant-{}", std::process::id()));
    std::fs::create_dir_all(&copy).unwrap();
    for file in std::fs::read_dir(folder("demo/without")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    std::fs::write(copy.join("bottleneck.csv"), "unix_ns\n1,2,3\n").unwrap();
    let error = Measured::read(&copy).unwrap_err().to_string();
    std::fs::remove_dir_all(&copy).unwrap();
    assert!(error.contains("bottleneck.csv: line 2"), "{error}");
}
