//! Generates the gRPC code and the descriptors from `proto/`, with no protoc on the machine.

use std::{env, error::Error, fs, path::Path};

const PROTOS: [&str; 3] = [
    "proto/plaque/v1/latest_video.proto",
    "proto/grpc/health/v1/health.proto",
    // The types of the details of errors, so that clients such as grpcurl can show them.
    "proto/google/rpc/error_details.proto",
];

/// What stores keep: no part of the API, which reflection shows.
const STORED: &str = "proto/plaque/store/v1/kept.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        // Comments and all: reflection shows them to whoever runs `grpcurl describe`.
        .include_source_info(true)
        .include_imports(true)
        .open_files(PROTOS)?;

    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        // rustdoc would take the tables in the proto's comments for code to run.
        .disable_comments(["."])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(compiler.file_descriptor_set())?;
    tonic_prost_build::configure()
        .disable_comments(["."])
        .compile_fds(protox::compile([STORED], ["proto"])?)?;
    Ok(())
}
