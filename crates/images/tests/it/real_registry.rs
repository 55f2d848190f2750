//! Pulls from a real registry on loopback, of images that other tools put there.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use images::archive::{PackFile, PackSpec, host_architecture, pack};
use serde_json::json;

use crate::support::picture::{Layer, OCI_INDEX, Packing, Picture};
use crate::support::rawtar::{Member, tar_of};
use crate::support::{Lab, PATIENCE, name, soon, text};

/// How often another port is tried when somebody takes ours between looking and starting.
const PORT_TRIES: usize = 5;

/// A registry process; ends when dropped.
struct Registry {
    process: Child,
    host: String,
    _scratch: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        (0..PORT_TRIES).find_map(|_| Self::try_start()).expect("no port for the registry")
    }

    fn try_start() -> Option<Self> {
        let scratch = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = scratch.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            scratch.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let mut registry = Self { process, host, _scratch: scratch };
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if registry.process.try_wait().unwrap().is_some() {
                return None;
            }
            if answers(&registry.host) {
                return Some(registry);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the registry does not answer");
    }

    fn copy(&self, from: &str, to: &str, more: &[&str]) {
        let done = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(more)
            .arg(from)
            .arg(format!("docker://{}/{to}", self.host))
            .output()
            .expect("skopeo is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Puts a document there, as a builder of several platforms does.
    fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, body: &str) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.host).unwrap();
        write!(
            stream,
            "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

/// Whether a registry answers there.
fn answers(host: &str) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(host) else { return false };
    let mut answer = String::new();
    write!(stream, "GET /v2/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write_archive(path: &Path) -> String {
    let file =
        |path: &str, content: &[u8]| PackFile { path: path.to_owned(), mode: 0o755, bytes: content.to_vec() };
    let busybox = std::fs::read("/bin/busybox").expect("busybox is installed");
    let spec = PackSpec {
        reference: "hello:1".to_owned(),
        files: vec![file("bin/busybox", &busybox), file("etc/motd", b"hi")],
        cmd: vec!["/bin/busybox".to_owned()],
        ..PackSpec::default()
    };
    pack(&spec, std::fs::File::create(path).unwrap()).unwrap();
    format!("oci-archive:{}", path.display())
}

/// An OCI layout with a zstd layer.
fn write_zstd_layout(path: &Path) -> String {
    let layer = Layer::of(&[Member::dir("etc"), Member::file("etc/motd", "zstd")], Packing::Zstd);
    let picture = Picture::of(vec![layer]);
    let entry = picture.entry("linux", host_architecture());
    let mut members: Vec<Member> = picture
        .blobs()
        .into_iter()
        .map(|(digest, bytes)| Member::file(format!("blobs/sha256/{}", digest.hex()), bytes))
        .collect();
    members.push(Member::file("index.json", json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()));
    members.push(Member::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    std::fs::write(path, tar_of(&members)).unwrap();
    format!("oci-archive:{}", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_other_tools_come_from_a_real_registry() {
    let registry = Registry::start();
    let lab = Lab::new();
    let archive = write_archive(&lab.scratch.path().join("gzip.tar"));
    registry.copy(&archive, "team/hello:gzip", &[]);
    registry.copy(&archive, "team/hello:docker", &["--format", "v2s2"]);
    registry.copy(&write_zstd_layout(&lab.scratch.path().join("zstd.tar")), "team/hello:zstd", &[]);
    let busybox = std::fs::read("/bin/busybox").unwrap();
    for tag in ["gzip", "docker"] {
        let reference = name(&format!("{}/team/hello:{tag}", registry.host));
        let image = soon(lab.store.ensure(&reference))
            .await
            .unwrap_or_else(|fault| panic!("{tag}: {}", text(&fault)));
        assert!(std::fs::read(image.layers[0].join("bin/busybox")).unwrap() == busybox, "{tag}");
        assert_eq!(image.config.cmd, ["/bin/busybox"]);
    }
    let zstd = soon(lab.store.ensure(&name(&format!("{}/team/hello:zstd", registry.host)))).await.unwrap();
    assert_eq!(std::fs::read_to_string(zstd.layers[0].join("etc/motd")).unwrap(), "zstd");
    let bytes = |digest: images::Digest| {
        std::fs::metadata(lab.root().join("blobs/sha256").join(digest.hex())).unwrap().len()
    };
    let entry = |architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": zstd.manifest,
            "size": bytes(zstd.manifest), "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry("s390x"), entry(host_architecture())],
    });
    registry.put_manifest("team/hello", "multi", OCI_INDEX, &index.to_string());
    let multi = soon(lab.store.ensure(&name(&format!("{}/team/hello:multi", registry.host)))).await.unwrap();
    assert_eq!(multi.manifest, zstd.manifest);
    let missing = name(&format!("{}/team/hello:none", registry.host));
    let fault = soon(lab.store.ensure(&missing)).await.unwrap_err();
    assert_eq!(text(&fault), format!("manifest for {missing} not found in registry {}", registry.host));
}
