//! Compiles the contracts without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let contracts = protox::compile(["proto/rik.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(contracts)?;
    Ok(())
}
