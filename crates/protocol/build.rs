//! Generates the messages and the service from `proto/egressd/v1` without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../../proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile(["egressd/v1/stream.proto"], [PROTO])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
