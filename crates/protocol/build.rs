//! Generates the messages and the services from `proto/egressd/v1` without a `protoc` on the machine, and the
//! description of the flow subscription that its server shows to those who ask by reflection.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../../proto";
    const FLOWS: &str = "egressd/v1/flows.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let flows = protox::compile([FLOWS], [PROTO])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("flows.binpb"), flows.encode_to_vec())?;
    let all = protox::compile(["egressd/v1/stream.proto", FLOWS], [PROTO])?;
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}
