//! Generates the messages of the protobuf protocols from `proto/`. `protox` compiles the
//! descriptors, so that no `protoc` is needed; services are generated where they are served or
//! called (`node`, `harness`), from the same files.

use std::error::Error;

/// Everything that is not a service of one file or another imports it.
const ROOTS: [&str; 4] = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(ROOTS, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .type_attribute(".", "#[doc = \"As named in the protocol's public definition.\"]")
        .field_attribute(".", "#[doc = \"As named in the protocol's public definition.\"]")
        .compile_fds(descriptors)?;
    Ok(())
}
