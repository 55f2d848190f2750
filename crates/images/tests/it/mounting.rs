//! Root filesystems of real overlays.

use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use images::{Image, SnapshotError, Users, check_rootfs};

use crate::support::picture::{Layer, Packing, Picture};
use crate::support::rawtar::Member;
use crate::support::site::{Shelf, Site};
use crate::support::{Lab, names_in, soon, text};

/// A store with one image of these layers.
struct Bench {
    lab: Lab,
    image: Arc<Image>,
}

impl Bench {
    async fn with(layers: &[&[Member]]) -> Self {
        let layers = layers.iter().map(|members| Layer::of(members, Packing::Plain)).collect();
        let site = Site::of(Shelf::with(&Picture::of(layers), "app", "1")).await;
        let lab = Lab::new();
        let image = soon(lab.store.ensure(&site.reference("app:1"))).await.unwrap();
        Self { lab, image }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.lab.scratch.path().join("pods").join(name)
    }

    async fn mount(&self, name: &str) -> Result<PathBuf, SnapshotError> {
        soon(self.lab.store.mount_rootfs(&self.image, &self.dir(name), None)).await
    }

    async fn unmount(&self, name: &str) {
        soon(self.lab.store.unmount_rootfs(&self.dir(name))).await.unwrap();
    }
}

fn read(root: &Path, name: &str) -> String {
    std::fs::read_to_string(root.join(name)).unwrap()
}

fn exists(root: &Path, name: &str) -> bool {
    std::fs::symlink_metadata(root.join(name)).is_ok()
}

#[tokio::test]
async fn two_containers_share_layers_and_nothing_else() {
    let bench = Bench::with(&[&[Member::dir("etc"), Member::file("etc/motd", "image")]]).await;
    let (one, two) = (bench.mount("one").await.unwrap(), bench.mount("two").await.unwrap());
    std::fs::write(one.join("etc/motd"), "changed").unwrap();
    std::fs::write(one.join("new"), "new").unwrap();
    assert_eq!(read(&two, "etc/motd"), "image");
    assert!(!exists(&two, "new"));
    assert_eq!(read(&bench.image.layers[0], "etc/motd"), "image");
    std::fs::remove_file(two.join("etc/motd")).unwrap();
    assert_eq!(read(&one, "etc/motd"), "changed");
    bench.unmount("one").await;
    bench.unmount("two").await;
    let fresh = bench.mount("one").await.unwrap();
    assert_eq!(read(&fresh, "etc/motd"), "image");
    assert!(!exists(&fresh, "new"));
}

#[tokio::test]
async fn user_namespace_sees_the_owners_of_the_image_without_a_copy() {
    let layer = [Member::file("etc/own", "image").owner(7, 8), Member::file("bin/tool", "image")];
    let bench = Bench::with(&[&layer, &[Member::file("etc/more", "image").owner(0, 9)]]).await;
    let ids = userns::IdRange { first: 1_900_000_000, count: 65_536 };
    let newborn = userns::Newborn::new("test", Some(ids)).unwrap();
    let namespace = std::fs::File::open(newborn.namespace(userns::Kind::User)).unwrap();
    let users = Users { namespace: Arc::new(namespace.into()), ids };
    let dir = bench.dir("one");
    let rootfs = soon(bench.lab.store.mount_rootfs(&bench.image, &dir, Some(users))).await.unwrap();
    let owner = |path: PathBuf| {
        let found = std::fs::metadata(path).unwrap();
        (found.uid().wrapping_sub(ids.first), found.gid().wrapping_sub(ids.first))
    };
    for (name, expected) in
        [("", (0, 0)), ("etc/own", (7, 8)), ("bin/tool", (0, 0)), ("etc/more", (0, 9)), ("proc", (0, 0))]
    {
        assert_eq!(owner(rootfs.join(name)), expected, "{name}");
    }
    // What is written keeps its owner, and the layers stay as they are.
    std::fs::write(rootfs.join("etc/own"), "changed").unwrap();
    assert_eq!(owner(rootfs.join("etc/own")), (7, 8));
    assert_eq!(owner(dir.join("upper/etc/own")), (7, 8));
    let layer = std::fs::metadata(bench.image.layers[0].join("etc/own")).unwrap();
    assert_eq!((layer.uid(), layer.gid()), (7, 8));
    assert!(!exists(&dir, "mapped"), "the mounts with mapped owners were for a moment");
    bench.unmount("one").await;
}

#[tokio::test]
async fn upper_layers_hide_what_they_say() {
    let lower = [
        Member::file("gone", "x"),
        Member::file("hidden/below", "x"),
        Member::file("replaced/below", "x"),
        Member::file("was-file", "x"),
        Member::file("was-directory/below", "x"),
        Member::file("kept/below", "x"),
    ];
    let upper = [
        Member::file(".wh.gone", ""),
        Member::file("hidden/.wh..wh..opq", ""),
        Member::file("hidden/own", "x"),
        Member::file(".wh.replaced", ""),
        Member::dir("replaced"),
        Member::dir("was-file"),
        Member::file("was-directory", "now a file"),
        Member::file("kept/own", "x"),
    ];
    let bench = Bench::with(&[&lower, &upper]).await;
    let root = bench.mount("pod").await.unwrap();
    for (name, there) in [
        ("gone", false),
        ("hidden/below", false),
        ("hidden/own", true),
        ("replaced", true),
        ("replaced/below", false),
        ("was-file", true),
        ("kept/below", true),
        ("kept/own", true),
    ] {
        assert_eq!(exists(&root, name), there, "{name}");
    }
    assert_eq!(read(&root, "was-directory"), "now a file");
}

#[tokio::test]
async fn a_layer_that_hides_everything_ends_the_stack() {
    let bench = Bench::with(&[
        &[Member::file("below", "x")],
        &[Member::file(".wh..wh..opq", ""), Member::file("own", "x")],
    ])
    .await;
    assert_eq!(bench.image.layers.len(), 1);
    let root = bench.mount("pod").await.unwrap();
    assert!(exists(&root, "own") && !exists(&root, "below"));
}

#[tokio::test]
async fn many_layers_and_repeated_ones_mount() {
    let numbered: Vec<Vec<Member>> = (0..126).map(|at| vec![Member::file("top", at.to_string())]).collect();
    let mut layers: Vec<&[Member]> = numbered.iter().map(Vec::as_slice).collect();
    layers.insert(0, &numbered[50]);
    layers.push(&numbered[50]);
    assert_eq!(layers.len(), 128);
    let bench = Bench::with(&layers).await;
    assert_eq!(bench.image.layers.len(), 126);
    let root = bench.mount("pod").await.unwrap();
    assert_eq!(read(&root, "top"), "50");
}

#[tokio::test]
async fn the_root_directory_looks_like_the_images() {
    let bench = Bench::with(&[&[Member::dir("./").mode(0o751).owner(7, 8), Member::file("f", "x")]]).await;
    let root = bench.mount("pod").await.unwrap();
    let stat = std::fs::metadata(root).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o751, 7, 8));
}

#[tokio::test]
async fn device_nodes_do_not_work_on_a_root_filesystem() {
    let bench = Bench::with(&[&[Member::file("f", "x")]]).await;
    let root = bench.mount("pod").await.unwrap();
    let node = root.join("zero");
    let device = rustix::fs::makedev(1, 5);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, rustix::fs::Mode::from_raw_mode(0o666), device)
        .unwrap();
    assert_eq!(std::fs::File::open(&node).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn directories_that_mounts_go_to_are_real() {
    let bench = Bench::with(&[&[Member::dir("etc").mode(0o700)]]).await;
    let root = bench.mount("pod").await.unwrap();
    for (name, mode) in [("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("etc", 0o700)] {
        let stat = std::fs::symlink_metadata(root.join(name)).unwrap();
        assert!(stat.is_dir(), "{name}");
        assert_eq!(stat.permissions().mode() & 0o7777, mode, "{name}");
    }
    check_rootfs(&root).unwrap();
    assert_eq!(names_in(&bench.image.layers[0]), ["etc"]);
    let cases = [
        (Member::symlink("dev", "/tmp"), "a symbolic link at /dev"),
        (Member::symlink("proc", "../../.."), "a symbolic link at /proc"),
        (Member::file("sys", "x"), "a file at /sys"),
        (Member::of_kind(b'6', "etc"), "a special file at /etc"),
    ];
    for (member, reason) in cases {
        let bench = Bench::with(&[&[member]]).await;
        let fault = bench.mount("pod").await.unwrap_err();
        assert!(text(&fault).contains(reason), "{}", text(&fault));
        assert!(names_in(&bench.dir("pod")).is_empty());
        soon(bench.lab.store.remove(&bench.image.reference)).await.unwrap();
    }
}

#[tokio::test]
async fn unmounting_twice_or_what_never_was_is_fine() {
    let bench = Bench::with(&[&[Member::file("f", "x")]]).await;
    bench.unmount("never").await;
    bench.mount("pod").await.unwrap();
    let again = bench.mount("pod").await.unwrap_err();
    assert!(matches!(again, SnapshotError::AlreadyMounted { .. }));
    bench.unmount("pod").await;
    assert!(names_in(&bench.dir("pod")).is_empty());
    bench.unmount("pod").await;
    std::fs::remove_dir(bench.dir("pod")).unwrap();
    bench.unmount("pod").await;
}

#[tokio::test]
async fn a_root_filesystem_with_open_files_is_unmounted() {
    let bench = Bench::with(&[&[Member::file("f", "x")]]).await;
    let root = bench.mount("pod").await.unwrap();
    let held = std::fs::File::open(root.join("f")).unwrap();
    bench.unmount("pod").await;
    assert!(names_in(&bench.dir("pod")).is_empty());
    drop(held);
}

#[tokio::test]
async fn a_mount_after_a_reboot_starts_afresh() {
    let bench = Bench::with(&[&[Member::file("f", "x")]]).await;
    let root = bench.mount("pod").await.unwrap();
    std::fs::write(root.join("old"), "x").unwrap();
    // A reboot takes the mount away and leaves the directories.
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::empty()).unwrap();
    let root = bench.mount("pod").await.unwrap();
    assert!(!exists(&root, "old"));
}

#[tokio::test]
async fn an_image_from_an_archive_mounts_as_well() {
    let lab = Lab::new();
    let file = images::archive::PackFile { path: "bin/a".to_owned(), mode: 0o755, bytes: b"a".to_vec() };
    let spec = images::archive::PackSpec {
        reference: "a:1".to_owned(),
        files: vec![file],
        ..images::archive::PackSpec::default()
    };
    let mut archive = Vec::new();
    images::archive::pack(&spec, &mut archive).unwrap();
    let image = soon(lab.store.load(Cursor::new(archive))).await.unwrap().remove(0);
    let bench = Bench { lab, image };
    let root = bench.mount("pod").await.unwrap();
    assert_eq!(read(&root, "bin/a"), "a");
    assert_eq!(std::fs::metadata(root.join("bin/a")).unwrap().mode() & 0o7777, 0o755);
}
