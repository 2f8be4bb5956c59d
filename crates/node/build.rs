//! Generates the etcd services from the protocol files that `wire` keeps; the messages are
//! `wire`'s. No `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

/// Where the protocol is written down.
const PROTO: &str = "../wire/proto";

/// Packages whose messages `wire` has generated, and where.
const PACKAGES: [(&str, &str); 6] = [
    (".authpb", "::wire::proto::authpb"),
    (".etcdserverpb", "::wire::proto::etcdserverpb"),
    (".mvccpb", "::wire::proto::mvccpb"),
    (".v3electionpb", "::wire::proto::v3electionpb"),
    (".v3lockpb", "::wire::proto::v3lockpb"),
    (".grpc.health.v1", "::wire::proto::health"),
];

/// Where the services stand.
const ROOTS: [&str; 4] = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];

/// What is generated.
const GENERATED: [&str; 4] =
    ["etcdserverpb.rs", "v3electionpb.rs", "v3lockpb.rs", "grpc.health.v1.rs"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let mut compiler = protox::Compiler::new([PROTO])?;
    compiler.include_imports(true).include_source_info(true).open_files(ROOTS)?;
    // For reflection.
    let encoded = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(encoded, compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    let builder = tonic_prost_build::configure()
        // Clients are for this crate's own tests.
        .client_mod_attribute(".", "#[cfg(test)]");
    PACKAGES
        .into_iter()
        .fold(builder, |builder, (package, path)| builder.extern_path(package, path))
        .compile_fds(descriptors)?;
    GENERATED.into_iter().try_for_each(excuse_publicity)
}

/// What is generated is public, in modules of ours that are not: the lint is added to those that
/// the generator turns off itself.
fn excuse_publicity(file: &str) -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join(file);
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(path, text.replace("#![allow(", "#![allow(unreachable_pub,"))?;
    Ok(())
}
