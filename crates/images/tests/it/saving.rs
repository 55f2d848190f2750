//! Images that leave the store again, and what others make of them.

use std::{
    fs::File,
    io::{self, Cursor, Write},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use images::{Digest, SaveError};

use crate::support::picture::{Layer, Packing, Picture, archive_of};
use crate::support::rawtar::Member;
use crate::support::tree::tree;
use crate::support::{Lab, name, names_in, soon, text};

/// An image with every kind of file that an ordinary one has, in layers of which the uppermost takes some away.
fn rich(upper_packing: Packing) -> Picture {
    let long = "long/".to_owned() + &"n".repeat(200);
    let target = "/".to_owned() + &"t".repeat(180);
    // A file's capability to listen on low ports, as the kernel keeps it (linux/capability.h, version 2).
    let capability = [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat();
    let lower = [
        Member::dir("./").mode(0o751).owner(7, 8),
        Member::dir("bin").mode(0o711).mtime(1_600_000_000),
        Member::file("bin/tool", "tool").mode(0o4755).owner(3, 4),
        Member::hardlink("bin/same", "bin/tool"),
        Member::symlink("bin/link", "/bin/tool").owner(9, 9).mtime(1_400_000_000),
        Member::file("bin/capable", "x").mode(0o755).pax("SCHILY.xattr.security.capability", capability),
        Member::file("attributes", "x").pax("SCHILY.xattr.user.mime", "text/plain"),
        Member::dir("tmp").mode(0o1777),
        Member::dir("long"),
        Member::file(long, "long"),
        Member::symlink("far", target),
        Member::file(b"odd\xff name\n", "odd"),
        Member::file("big/owner", "x").owner(4_000_000, 5_000_000),
        Member::file("fine", "x").pax("mtime", "1234567890.5"),
        Member::file("empty", ""),
        Member::of_kind(b'6', "pipe").mode(0o620),
        Member::file("gone", "x"),
        Member::file("gone-tree/deep/file", "x"),
        Member::file("hidden/old", "x"),
        Member::dir("veil").mode(0o700),
        Member::dir("lid").mode(0o711).owner(5, 6).pax("SCHILY.xattr.user.lid", "on"),
    ];
    // Directories that a lower layer describes, one that nobody does, and one that is gone in the end.
    let middle = [Member::file("veil/x", "x"), Member::file("lid/deep/x", "x")];
    let upper = [
        Member::file(".wh.gone", ""),
        Member::file(".wh.gone-tree", ""),
        Member::file(".wh.veil", ""),
        Member::dir("hidden").mode(0o700),
        Member::file("hidden/.wh..wh..opq", ""),
        Member::file("hidden/new", "y").mode(0o600),
        Member::file("bin/tool", "newer").mode(0o755),
    ];
    Picture::of(vec![
        Layer::of(&lower, Packing::Gzip),
        Layer::of(&middle, Packing::Plain),
        Layer::of(&upper, upper_packing),
    ])
}

/// Somewhere to write that can be looked at afterwards.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn saved(lab: &Lab, reference: &str) -> Vec<u8> {
    let kept = Kept::default();
    soon(lab.store.save(&name(reference), kept.clone()))
        .await
        .unwrap_or_else(|fault| panic!("{}", text(&fault)));
    kept.0.lock().unwrap().clone()
}

#[tokio::test]
async fn a_saved_image_is_the_same_wherever_it_is_loaded() {
    let (here, there) = (Lab::new(), Lab::new());
    let image = soon(here.store.load(Cursor::new(archive_of(&rich(Packing::Zstd), "app:1"))))
        .await
        .unwrap()
        .remove(0);
    let archive = saved(&here, "app:1").await;
    let other = soon(there.store.load(Cursor::new(archive.clone()))).await.unwrap().remove(0);
    assert_eq!((&other.reference, &other.config), (&image.reference, &image.config));
    assert_eq!(
        (image.layers.len(), other.layers.len()),
        (4, 4),
        "one for directories that are not described"
    );
    for (one, two) in image.layers.iter().zip(&other.layers) {
        assert_eq!(tree(one, true), tree(two, true));
    }
    // Once more, and from the copy: always the same.
    assert_eq!(Digest::of(&saved(&here, "app:1").await), Digest::of(&archive));
    assert_eq!(Digest::of(&saved(&there, "app:1").await), Digest::of(&archive));
    assert_eq!(names_in(&here.root().join("tmp")), Vec::<String>::new(), "nothing is put on this disk");
}

#[tokio::test]
async fn what_is_not_here_or_has_no_tag_is_not_saved() {
    let lab = Lab::new();
    let fault = lab.store.save(&name("none:1"), Kept::default()).await.unwrap_err();
    assert!(matches!(fault, SaveError::NotFound { .. }), "{fault}");
    let image =
        soon(lab.store.load(Cursor::new(archive_of(&rich(Packing::Zstd), "app:1")))).await.unwrap().remove(0);
    let by_digest = name(&format!("app@{}", image.digest));
    let fault = lab.store.save(&by_digest, Kept::default()).await.unwrap_err();
    assert!(matches!(fault, SaveError::ByDigest { .. }), "{fault}");
}

/// Unpacks an archive as skopeo and umoci do.
fn unpack_by_umoci(archive: &Path, scratch: &Path) -> std::path::PathBuf {
    let run = |command: &mut Command| {
        let done = command.output().expect("skopeo and umoci are installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let layout = format!("{}:app", scratch.join("layout").display());
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("oci:{layout}")));
    run(Command::new("umoci").args(["unpack", "--image", &layout]).arg(scratch.join("bundle")));
    scratch.join("bundle/rootfs")
}

#[tokio::test]
async fn an_image_is_file_by_file_what_skopeo_and_umoci_make_of_it_and_so_is_what_is_saved() {
    let lab = Lab::new();
    let scratch = lab.scratch.path();
    let original = scratch.join("original.tar");
    // umoci knows no zstd.
    std::fs::write(&original, archive_of(&rich(Packing::Gzip), "app:1")).unwrap();
    let image = soon(lab.store.load(File::open(&original).unwrap())).await.unwrap().remove(0);
    let pod = scratch.join("pods/one");
    std::fs::create_dir_all(&pod).unwrap();
    let rootfs = soon(lab.store.mount_rootfs(&image, &pod, None)).await.unwrap();
    // Where others will be mounted, for which we make room.
    let directories = ["dev", "etc", "proc", "sys"].map(|name| format!("{name:?} directory 755 "));
    let files = ["hosts", "hostname", "resolv.conf"].map(|name| format!("\"etc/{name}\" "));
    let room = [directories.as_slice(), files.as_slice()].concat();
    let ours: Vec<String> = tree(&rootfs, false);
    let ours: Vec<String> =
        ours.into_iter().filter(|line| !room.iter().any(|own| line.starts_with(own))).collect();
    for dir in ["first", "second"] {
        std::fs::create_dir(scratch.join(dir)).unwrap();
    }
    assert_eq!(ours, tree(&unpack_by_umoci(&original, &scratch.join("first")), false));
    let again = scratch.join("again.tar");
    std::fs::write(&again, saved(&lab, "app:1").await).unwrap();
    assert_eq!(ours, tree(&unpack_by_umoci(&again, &scratch.join("second")), false));
    soon(lab.store.unmount_rootfs(&pod)).await.unwrap();
}
