//! Archives of every kind, good and bad.

use std::io::Cursor;
use std::process::Command;

use images::archive::{PackFile, PackSpec, pack};
use images::{Digest, LoadError};
use serde_json::{Value, json};

use crate::support::picture::{Layer, Packing, Picture, descriptor, gzip, index_of};
use crate::support::rawtar::{Member, tar_of};
use crate::support::{Lab, name, names_in, soon, text};

fn spec(reference: &str) -> PackSpec {
    let file = |path: &str, mode, content: &str| PackFile {
        path: path.to_owned(),
        mode,
        bytes: content.as_bytes().to_vec(),
    };
    PackSpec {
        reference: reference.to_owned(),
        files: vec![file("/bin/hello", 0o755, "program"), file("/srv/page", 0o644, "page")],
        entrypoint: vec!["/bin/hello".to_owned()],
        env: vec![("PORT".to_owned(), "8080".to_owned())],
        exposed_ports: vec!["8080/tcp".to_owned()],
        ..PackSpec::default()
    }
}

fn packed(reference: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(&spec(reference), &mut archive).unwrap();
    archive
}

/// An OCI layout of these images, each with its name (or none), in reverse order: blobs first.
fn layout(images: &[(Option<&str>, &Picture)]) -> Vec<u8> {
    let mut members = Vec::new();
    let mut entries = Vec::new();
    for (name, picture) in images {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &picture.manifest_bytes());
        if let Some(name) = name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        entries.push(entry);
        for (digest, bytes) in picture.blobs() {
            members.insert(0, Member::file(format!("blobs/sha256/{}", digest.hex()), bytes));
        }
    }
    members.push(Member::file("index.json", index_of(&entries).to_string()));
    members.push(Member::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    tar_of(&members)
}

async fn refusal(archive: Vec<u8>) -> String {
    let lab = Lab::new();
    let fault = soon(lab.store.load(Cursor::new(archive))).await.expect_err("it was accepted");
    assert!(lab.store.list().is_empty());
    assert_eq!(lab.leftovers(), Vec::<String>::new());
    text(&fault)
}

#[tokio::test]
async fn a_packed_archive_becomes_an_image_that_needs_no_registry() {
    let lab = Lab::new();
    let loaded = soon(lab.store.load(Cursor::new(packed("hello:1")))).await.unwrap();
    assert_eq!(loaded.len(), 1);
    let image = soon(lab.store.ensure(&name("hello:1"))).await.unwrap();
    assert_eq!(image, loaded[0]);
    assert_eq!(image.config.entrypoint, ["/bin/hello"]);
    assert_eq!(image.config.exposed_ports, ["8080/tcp"]);
    assert_eq!(image.config.env, [("PORT".to_owned(), "8080".to_owned())]);
    assert_eq!(std::fs::read_to_string(image.layers[0].join("srv/page")).unwrap(), "page");
    assert!(image.size_bytes > 0);
    let pinned = name(&format!("hello@{}", image.digest));
    assert_eq!(soon(lab.store.ensure(&pinned)).await.unwrap().layers, image.layers);
    assert!(names_in(&lab.root().join("tmp")).is_empty());
}

#[tokio::test]
async fn a_layout_in_any_order_and_compressed_is_read() {
    let one = Picture::of(vec![
        Layer::of(&[Member::file("a", "1")], Packing::Plain),
        Layer::of(&[Member::file("b", "2")], Packing::Zstd),
    ]);
    let two = Picture::simple("two");
    let archive = layout(&[(Some("one:1"), &one), (Some("host.example:5000/two"), &two)]);
    for archive in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        let lab = Lab::new();
        let loaded = soon(lab.store.load(Cursor::new(archive))).await.unwrap();
        let names: Vec<_> = loaded.iter().map(|image| image.reference.to_string()).collect();
        assert_eq!(names, ["host.example:5000/two:latest", "docker.io/library/one:1"]);
        assert_eq!(loaded[1].digest, one.digest());
        assert_eq!(std::fs::read_to_string(loaded[1].layers[1].join("b")).unwrap(), "2");
    }
}

#[tokio::test]
async fn loading_a_name_again_replaces_it() {
    let lab = Lab::new();
    for content in ["old", "new"] {
        let archive = layout(&[(Some("app:1"), &Picture::simple(content))]);
        soon(lab.store.load(Cursor::new(archive))).await.unwrap();
    }
    let image = lab.store.get(&name("app:1")).unwrap();
    assert_eq!(std::fs::read_to_string(image.layers[0].join("file")).unwrap(), "new");
    assert_eq!(lab.store.list().len(), 1);
}

/// What `docker save` wrote for many years: layers in folders, one of them a link to another.
fn saved(tags: &Value, layer_name: &str) -> Vec<u8> {
    let layer = Layer::of(&[Member::file("file", "saved")], Packing::Plain);
    let picture = Picture::of(vec![layer.clone(), layer.clone()]);
    let config = picture.config_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let manifest =
        json!([{ "Config": config_name, "RepoTags": tags, "Layers": ["aaa/layer.tar", "bbb/layer.tar"] }]);
    tar_of(&[
        Member::symlink("bbb/layer.tar", "../aaa/layer.tar"),
        Member::dir("aaa"),
        Member::file(layer_name, layer.carried),
        Member::file(config_name, config),
        Member::file("manifest.json", manifest.to_string()),
        Member::file("repositories", "{}"),
    ])
}

#[tokio::test]
async fn what_docker_saves_is_read() {
    let lab = Lab::new();
    let archive = saved(&json!(["app:1", "app:2"]), "aaa/layer.tar");
    let loaded = soon(lab.store.load(Cursor::new(archive))).await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].digest, loaded[1].digest);
    // The same layer twice is needed once.
    assert_eq!(loaded[0].layers.len(), 1);
    assert_eq!(std::fs::read_to_string(loaded[0].layers[0].join("file")).unwrap(), "saved");
    assert!(refusal(saved(&Value::Null, "aaa/layer.tar")).await.contains("does not name its image"));
    assert!(refusal(saved(&json!(["app:1"]), "other")).await.contains("has no \"aaa/layer.tar\""));
    assert!(refusal(saved(&json!(["oci:/etc"]), "aaa/layer.tar")).await.contains("leave out \"oci:\""));
}

#[tokio::test]
async fn bad_archives_are_refused_with_their_reason() {
    let good = Picture::simple("x");
    let mut other_diff_id = good.clone();
    other_diff_id.config["rootfs"]["diff_ids"] = json!([Digest::of(b"other")]);
    let mut foreign = good.clone();
    foreign.config["architecture"] = json!("s390x");
    let pinned = format!("app@{}", Digest::of(b"other"));
    let flipped = {
        let mut bytes = layout(&[(Some("app:1"), &good)]);
        let at = bytes.windows(4).position(|window| window == [0x1f, 0x8b, 8, 0]).unwrap();
        bytes[at + 4] ^= 1;
        bytes
    };
    let hostile =
        Picture::of(vec![Layer::of(&[Member::symlink("a", "/"), Member::file("../x", "x")], Packing::Gzip)]);
    let cases = [
        (tar_of(&[Member::file("readme", "x")]), "not an image archive"),
        (b"no archive".repeat(200), "cannot read the archive"),
        (Vec::new(), "not an image archive"),
        (layout(&[(None, &good)]), "does not name its image"),
        (layout(&[(Some("UPPER"), &good)]), "upper-case"),
        (layout(&[(Some(&pinned), &good)]), "digest mismatch"),
        (layout(&[(Some("app:1"), &other_diff_id)]), "the configuration expects"),
        (layout(&[(Some("app:1"), &foreign)]), "it offers linux/s390x"),
        (layout(&[(Some("app:1"), &hostile)]), "leaves its directory"),
        (flipped, "digest mismatch"),
        (layout(&[]), "has no images"),
        (tar_of(&[Member::file("index.json", "{}")]), "neither an image manifest nor an image index"),
        (layout(&[(Some("app:1"), &good)])[..2000].to_vec(), "cannot read the archive"),
    ];
    for (archive, reason) in cases {
        let text = refusal(archive).await;
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[tokio::test]
async fn a_reader_that_fails_ends_the_load() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the line went dead"))
        }
    }
    let fault = soon(Lab::new().store.load(Broken)).await.unwrap_err();
    assert!(matches!(fault, LoadError::Read { .. }));
    assert!(text(&fault).contains("the line went dead"), "{}", text(&fault));
}

#[tokio::test]
async fn archives_of_other_tools_are_read_and_they_read_ours() {
    let lab = Lab::new();
    let ours = lab.scratch.path().join("ours.tar");
    std::fs::write(&ours, packed("hello:1")).unwrap();
    let docker = lab.scratch.path().join("docker.tar");
    let oci = lab.scratch.path().join("oci.tar");
    for target in [
        format!("docker-archive:{}:hello:docker", docker.display()),
        format!("oci-archive:{}:hello:oci", oci.display()),
    ] {
        let done = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci-archive:{}", ours.display()))
            .arg(&target)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    for (path, tag) in [(docker, "docker"), (oci, "oci")] {
        let loaded = soon(lab.store.load(std::fs::File::open(path).unwrap())).await.unwrap();
        assert_eq!(loaded[0].reference, name(&format!("hello:{tag}")));
        assert_eq!(loaded[0].config.entrypoint, ["/bin/hello"]);
        assert_eq!(std::fs::read_to_string(loaded[0].layers[0].join("bin/hello")).unwrap(), "program");
    }
}
