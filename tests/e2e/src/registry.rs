//! A real registry on loopback, filled with images of ours.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::archive::PackSpec;

use crate::daemon::Daemon;
use crate::network::Host;
use crate::wait::{SHORT, wait_until};
use crate::{image, programs};

/// The port in each namespace where it listens on 127.0.0.1. Namespaces of the lab are empty, so it is free.
pub const PORT: u16 = 5080;

/// A running registry. Several, one for each namespace, may serve the same folder.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    daemons: Vec<Daemon>,
}

impl Registry {
    /// Starts the registry in `hosts`; images and logs go below `root`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn start(root: &Path, logs: &Path, hosts: &[Host]) -> Self {
        let folder = root.join("registry");
        fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("failed to make {}: {error}", folder.display()));
        let configuration = root.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: \
             true}}}}\nhttp: {{addr: \"127.0.0.1:{PORT}\"}}\n",
            folder.display()
        );
        fs::write(&configuration, text)
            .unwrap_or_else(|error| panic!("failed to configure the registry: {error}"));
        let program = programs::installed("docker-registry").unwrap_or_else(|| programs::needed("registry"));
        let daemons = hosts
            .iter()
            .map(|host| {
                let mut command = host.command(&program);
                Daemon::start(
                    &format!("registry-{}", host.name()),
                    logs,
                    command.arg("serve").arg(&configuration),
                )
            })
            .collect();
        let registry = Self { folder, daemons };
        if hosts.contains(&Host::here()) {
            wait_until(SHORT, "the registry to listen", || TcpStream::connect(("127.0.0.1", PORT)).map(drop));
        }
        registry
    }

    /// The full reference of an image in it.
    #[must_use]
    pub fn reference(&self, image: &str) -> String {
        format!("127.0.0.1:{PORT}/{image}")
    }

    /// Puts an image into it under the name and tag in its specification; gives the full reference.
    ///
    /// # Panics
    /// When it cannot be packed or is not taken.
    #[track_caller]
    pub fn push(&self, spec: &PackSpec) -> String {
        let archive = self.folder.with_extension("push.tar");
        image::write(spec, &archive);
        let reference = self.reference(&spec.reference);
        let output = Command::new(programs::needed("skopeo"))
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"))
            .output();
        let output = output.unwrap_or_else(|error| panic!("failed to run skopeo: {error}"));
        assert!(output.status.success(), "{reference}: {}", String::from_utf8_lossy(&output.stderr));
        let _ = fs::remove_file(archive);
        reference
    }

    /// Changes one byte in every blob of at least `size` bytes: their digests are lies from now on.
    ///
    /// # Panics
    /// When there is no such blob.
    #[track_caller]
    pub fn corrupt_blobs(&self, size: usize) {
        let blobs = crate::cgroups::walk(&self.folder.join("docker/registry/v2/blobs/sha256"));
        let mut changed = 0;
        for data in blobs.iter().map(|folder| folder.join("data")) {
            let Ok(mut bytes) = fs::read(&data) else { continue };
            if bytes.len() >= size {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xFF;
                fs::write(&data, bytes)
                    .unwrap_or_else(|error| panic!("failed to write {}: {error}", data.display()));
                changed += 1;
            }
        }
        assert!(changed > 0, "the registry holds no blob of {size} bytes");
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.daemons.drain(..).for_each(Daemon::kill);
    }
}
