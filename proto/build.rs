//! Compiles the schemas. `protox` is a protobuf compiler in Rust, so no `protoc` has to be installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let statement = protox::compile(["statement.proto"], ["schema"])?;
    prost_build::Config::new().bytes(["."]).out_dir(&out).compile_fds(statement)?;
    let wire = protox::compile(["link.proto", "join.proto", "pki.proto", "row.proto"], ["schema"])?;
    prost_build::Config::new()
        .bytes(["."])
        .extern_path(".tram.statement.v1", "crate::wire::statement")
        .out_dir(&out)
        .compile_fds(wire)?;

    if std::env::var_os("CARGO_FEATURE_LOCAL").is_some() {
        let local = protox::compile(["local.proto"], ["schema"])?;
        tonic_prost_build::configure().bytes(".").build_transport(false).out_dir(&out).compile_fds(local)?;
    }
    Ok(())
}
