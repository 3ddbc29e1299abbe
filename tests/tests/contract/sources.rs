use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use laneguard_tests::binary;
use serde_json::Value;

/// Which crates of the workspace each crate may use in what it ships. Tests may use more.
const LAYERS: &[(&str, &[&str])] = &[
    ("laneguard-proto", &[]),
    ("laneguard-runtime", &["laneguard-proto"]),
    ("laneguard-decider-core", &[]),
    (
        "laneguard-collector",
        &["laneguard-proto", "laneguard-runtime"],
    ),
    (
        "laneguard-decider",
        &[
            "laneguard-decider-core",
            "laneguard-proto",
            "laneguard-runtime",
        ],
    ),
    (
        "laneguard-actuator",
        &["laneguard-proto", "laneguard-runtime"],
    ),
    (
        "lanectl",
        &[
            "laneguard-decider",
            "laneguard-decider-core",
            "laneguard-proto",
            "laneguard-runtime",
        ],
    ),
    ("laneguard-lab-kube", &[]),
    (
        "laneguard-lab",
        &[
            "laneguard-lab-kube",
            "laneguard-decider",
            "laneguard-decider-core",
            "laneguard-proto",
            "laneguard-runtime",
        ],
    ),
    ("xtask", &["laneguard-proto"]),
];

/// What the pure core may use at all: nothing that does I/O or tells the time.
const CORE: &[&str] = &["serde", "serde_json", "thiserror"];

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(binary::repository())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    metadata["packages"].as_array().cloned().unwrap()
}

/// What a package ships with: its dependencies but those of its tests.
fn shipped(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|d| d["kind"] != "dev")
        .filter_map(|d| d["name"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn services_know_each_other_only_through_messages_and_the_core_knows_nobody() {
    let packages: BTreeMap<String, BTreeSet<String>> = packages()
        .iter()
        .map(|p| (p["name"].as_str().unwrap().to_owned(), shipped(p)))
        .collect();
    for (name, allowed) in LAYERS {
        let found = packages
            .get(*name)
            .unwrap_or_else(|| panic!("there is no crate {name}"));
        let wrong: Vec<_> = found
            .iter()
            .filter(|d| packages.contains_key(*d) && !allowed.contains(&d.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
    let wrong: Vec<_> = packages["laneguard-decider-core"]
        .iter()
        .filter(|d| !CORE.contains(&d.as_str()))
        .collect();
    assert!(wrong.is_empty(), "the core must not depend on {wrong:?}");
}

/// Every file that belongs to the repository: those git tracks, or all where there is no git.
fn files() -> Vec<String> {
    let root = binary::repository();
    let tracked = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&root)
        .output();
    match tracked {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = String::from_utf8_lossy(&output.stdout).into_owned();
            names.split_terminator('\0').map(str::to_owned).collect()
        }
        _ => {
            let mut found = Vec::new();
            walk(&root, Path::new(""), &mut found);
            found
        }
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let name = folder.join(entry.unwrap().file_name());
        let skipped = [".git", "target", "lab-runs"]
            .iter()
            .any(|s| name == Path::new(s));
        if skipped {
            continue;
        }
        if root.join(&name).is_dir() {
            walk(root, &name, found);
        } else {
            found.push(name.display().to_string());
        }
    }
}

#[test]
fn no_file_depends_on_the_machine_it_was_written_on() {
    // put together here, or this file would be the first that has them
    let homes = ["work", "home", "root"].map(|folder| format!("/{folder}/"));
    let root = binary::repository();
    let mut wrong = Vec::new();
    for name in files() {
        // pictures are no text
        let Ok(text) = std::fs::read_to_string(root.join(&name)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let found = homes.iter().any(|home| {
                line.match_indices(home.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_ascii_alphanumeric() || "._-/~}*".contains(c))
                })
            });
            if found {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
