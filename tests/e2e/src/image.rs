//! The images that stories run, packed from static programs of this machine: no registry or internet is needed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use images::archive::{PackFile, PackSpec};

use crate::programs;

/// Permission bits of a program.
const PROGRAM_MODE: u32 = 0o755;

/// An image with one static program, which is its entrypoint.
///
/// # Errors
/// When the program cannot be read.
pub fn of_program(reference: &str, program: &Path) -> Result<PackSpec> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("/bin/{name}");
    let bytes = fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
    Ok(PackSpec {
        reference: reference.to_owned(),
        files: vec![PackFile { path: path.clone(), mode: PROGRAM_MODE, bytes }],
        entrypoint: vec![path],
        env: vec![("PATH".into(), "/bin".into())],
        exposed_ports: vec!["8080/tcp".into()],
        ..PackSpec::default()
    })
}

/// The web server of `examples/hello`.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn hello(reference: &str) -> PackSpec {
    of_program(reference, &programs::hello()).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A shell and its tools as one program, `/bin/busybox`; a container of it sleeps until it is told otherwise.
///
/// # Panics
/// When busybox is not installed.
#[must_use]
pub fn busybox(reference: &str) -> PackSpec {
    let mut spec =
        of_program(reference, &programs::needed("busybox")).unwrap_or_else(|error| panic!("{error:#}"));
    spec.files.push(PackFile {
        path: "/etc/passwd".into(),
        mode: 0o644,
        bytes: b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n".to_vec(),
    });
    spec.files.push(PackFile { path: "/srv/motd".into(), mode: 0o644, bytes: b"from the image\n".to_vec() });
    spec.entrypoint = vec![];
    spec.cmd = ["/bin/busybox", "sh", "-c", SLEEP].map(String::from).to_vec();
    spec.env.push(("FLAVOUR".into(), "image".into()));
    spec
}

/// Sleeps for ever, and ends at once when asked to.
const SLEEP: &str = "trap 'exit 0' TERM; while true; do busybox sleep 3600 & wait $!; done";

/// Writes `spec` as an archive to `path`.
///
/// # Panics
/// When it cannot be written.
pub fn write(spec: &PackSpec, path: &Path) {
    let file =
        fs::File::create(path).unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
    images::archive::pack(spec, file)
        .unwrap_or_else(|error| panic!("failed to pack {}: {error}", spec.reference));
}
