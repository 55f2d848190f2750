//! Builds `rik-guest`, the program inside microVMs, as one static file that the runtime carries.
//!
//! A build of its own, because its flags are others: linked statically, for size, and for the machine that it is to run on.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// What it is made of.
const SOURCES: [&str; 4] = ["../guest/src", "../guest/Cargo.toml", "../filecopy/src", "../../Cargo.lock"];
/// What the outer build tells its own compilers, and this one must not hear.
const FOREIGN: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    match build() {
        Ok(program) => {
            println!("cargo::rustc-env=RIK_GUEST={}", program.display());
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("cargo::error=building rik-guest, the program inside microVMs: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<PathBuf, String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let (cargo, target) = (variable("CARGO")?, variable("TARGET")?);
    let dir = Path::new(&variable("OUT_DIR")?).join("guest");
    let manifest = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../guest/Cargo.toml");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--profile", "guest", "--features", "program"])
        .args(["--bin", "rik-guest", "--target", &target])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&dir);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = command.status().map_err(|error| error.to_string())?;
    if !status.success() {
        let hint =
            "it is linked with the static C library: install libc6-dev (Debian) or glibc-static (Fedora)";
        return Err(format!("cargo ended with {status}; {hint}"));
    }
    Ok(dir.join(target).join("guest").join("rik-guest"))
}
