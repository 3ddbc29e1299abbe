//! The binaries under test, as the workspace's build left them.

use std::path::PathBuf;

/// Every binary that operators start.
pub const ALL: [&str; 4] = [
    "laneguard-collector",
    "laneguard-decider",
    "laneguard-actuator",
    "lanectl",
];

/// The three services.
pub const SERVICES: [&str; 3] = [ALL[0], ALL[1], ALL[2]];

/// Where a binary is: beside the folder of the running test.
///
/// # Panics
/// When it was not built: tests of this crate do not build the others' binaries.
pub fn path(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // target/debug/deps/NAME-HASH
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps")
        .join(name);
    assert!(
        path.is_file(),
        "{} is not built; run the tests with `cargo xtask test`, or `cargo build --workspace --bins` before",
        path.display()
    );
    path
}

/// The repository's folder.
///
/// # Panics
/// Never: the crate lies in it.
pub fn repository() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("the crate lies in the repository")
        .to_owned()
}
