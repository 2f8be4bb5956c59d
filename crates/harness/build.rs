//! Generates etcd client stubs from the protocol files that `wire` keeps; no `protoc` is needed.

use std::error::Error;

/// Where the protocol is written down.
const PROTO: &str = "../wire/proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let descriptors = protox::compile(["rpc.proto"], [PROTO])?;
    let doc = "#[doc = \"As named in the protocol's public definition.\"]";
    tonic_prost_build::configure()
        .build_server(false)
        .type_attribute(".", doc)
        .field_attribute(".", doc)
        .compile_fds(descriptors)?;
    Ok(())
}
