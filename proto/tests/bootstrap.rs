//! The generated code is committed, so that a build needs no `protoc`. This test generates it again from the schema and fails when
//! what is committed differs. `LANEGUARD_REGENERATE=1 cargo test -p laneguard-proto --test bootstrap` writes it anew.

use std::path::Path;

use prost_build::Config;

#[test]
fn committed_code_is_what_the_schema_generates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/gen");
    let fresh = tempfile::tempdir().unwrap();

    let descriptors = protox::compile(["laneguard/v1/laneguard.proto"], [root]).unwrap();
    let descriptor_file = fresh.path().join("laneguard.v1.bin");
    std::fs::write(
        &descriptor_file,
        prost_reflect::prost::Message::encode_to_vec(&descriptors),
    )
    .unwrap();
    Config::new()
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();

    let regenerate = std::env::var_os("LANEGUARD_REGENERATE").is_some();
    for name in ["laneguard.v1.rs", "laneguard.v1.bin"] {
        let generated = std::fs::read(fresh.path().join(name)).unwrap();
        if regenerate {
            std::fs::create_dir_all(&committed).unwrap();
            std::fs::write(committed.join(name), &generated).unwrap();
        }
        let kept = std::fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            kept == generated,
            "proto/src/gen/{name} is not what laneguard.proto generates; \
             run LANEGUARD_REGENERATE=1 cargo test -p laneguard-proto --test bootstrap"
        );
    }
}
