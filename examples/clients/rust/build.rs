//! Generates the client.

use std::error::Error;

const PROTOS: &str = "../../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let descriptors = protox::compile(["plaque/v1/latest_video.proto"], [PROTOS])?;
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
