use std::path::{Path, PathBuf};

use laneguard_tests::binary;

use crate::help::variables;

/// README, ARCHITECTURE and what lies in `docs/`, as far as they exist.
pub(crate) fn documents() -> Vec<(PathBuf, String)> {
    let root = binary::repository();
    let mut found = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        read(&root.join(name), &mut found);
    }
    walk(&root.join("docs"), &mut found);
    found
}

/// Dashboards and alert rules.
pub(crate) fn dashboards() -> Vec<(PathBuf, String)> {
    let root = binary::repository();
    let mut found = Vec::new();
    for folder in ["dashboards", "charts", "deploy"] {
        walk(&root.join(folder), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            read(&path, found);
        }
    }
}

fn read(path: &Path, found: &mut Vec<(PathBuf, String)>) {
    // pictures are no text
    if let Ok(text) = std::fs::read_to_string(path) {
        found.push((path.to_owned(), text));
    }
}

/// Whether a word stands in a text as a word of its own.
fn names(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[tokio::test]
async fn the_readme_names_every_binary_and_every_variable_of_their_help() {
    let readme = std::fs::read_to_string(binary::repository().join("README.md"))
        .expect("the repository has a README.md");
    let mut missing = Vec::new();
    for binary in binary::ALL {
        if !names(&readme, binary) {
            missing.push(binary.to_owned());
        }
        for variable in variables(binary).await {
            if !names(&readme, &variable) {
                missing.push(format!("{variable} of {binary}"));
            }
        }
    }
    missing.dedup();
    assert!(missing.is_empty(), "README.md does not name {missing:#?}");
}

#[test]
fn every_file_that_a_document_links_to_exists() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        let folder = path.parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|s| s.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.contains("://") || file.starts_with("mailto:") || file.is_empty();
            if !elsewhere && !folder.join(file).exists() {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn words_are_told_from_parts_of_words() {
    assert!(names("set `NATS_URL`, then", "NATS_URL"));
    assert!(!names("set MY_NATS_URL, then", "NATS_URL"));
    assert!(!names("NATS_URLS", "NATS_URL"));
}
