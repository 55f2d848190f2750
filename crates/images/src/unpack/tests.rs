//! Hostile and ordinary layers against a directory that stands beside a canary.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Promise, UnpackError, unpack};
use crate::Digest;
use crate::limits::EXTENDED_HEADER_BYTES_MAX;
use rawtar::{Member, pax_record, tar_of, unfinished_tar_of};

#[path = "../../tests/it/support/rawtar.rs"]
mod rawtar;

/// A directory to unpack into, and things beside it that must never change.
struct Lab {
    scratch: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

/// All that can be seen of one file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    content: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        fs::create_dir_all(outside.join("etc")).unwrap();
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::write(outside.join("etc/passwd"), "root:x:0:0").unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink("secret", outside.join("link")).unwrap();
        let before = seen(&outside);
        Self { scratch, before }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn outside(&self) -> String {
        self.scratch.path().join("outside").to_str().unwrap().to_owned()
    }

    /// Unpacks, and proves that nothing outside was touched and nothing but the tree is left.
    fn unpack_bytes(&self, tar: &[u8]) -> Result<u64, UnpackError> {
        let promise = Promise { carried: None, diff_id: Some(Digest::of(tar)) };
        let bin = self.scratch.path().join("bin");
        let done = unpack(tar, promise, &self.root(), &bin);
        assert_eq!(seen(Path::new(&self.outside())), self.before, "the canary changed");
        if done.is_ok() {
            assert_eq!(fs::read_dir(bin).unwrap().count(), 0, "the bin is not empty");
        }
        done.map(|unpacked| unpacked.bytes)
    }

    fn unpack(&self, members: &[Member]) -> Result<u64, UnpackError> {
        self.unpack_bytes(&tar_of(members))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap()
    }
}

fn seen(top: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if stat.is_file() {
            fs::read(&path).unwrap()
        } else {
            format!("{:?}", stat.file_type()).into_bytes()
        };
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let owner = (stat.uid(), stat.gid());
        let modified = (stat.mtime(), stat.mtime_nsec());
        all.insert(
            path.strip_prefix(top).unwrap().to_owned(),
            Seen { mode: stat.mode(), owner, links, modified, content },
        );
    }
    all
}

/// The whole chain of reasons, as a person reads it.
fn text(fault: &UnpackError) -> String {
    let mut text = fault.to_string();
    let mut source = std::error::Error::source(fault);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn refusal(members: &[Member]) -> String {
    text(&Lab::new().unpack(members).unwrap_err())
}

fn is_whiteout(stat: &fs::Metadata) -> bool {
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, super::OPAQUE, &mut value).is_ok()
}

#[test]
fn an_ordinary_tree_is_as_gnu_tar_makes_it() {
    let lab = Lab::new();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let members = [
        Member::dir("./").mode(0o711),
        Member::dir("bin/").mode(0o755).mtime(1_600_000_000),
        Member::file("bin/tool", "tool").mode(0o4755).owner(1000, 1001).mtime(1_500_000_000),
        Member::hardlink("bin/same", "bin/tool"),
        Member::symlink("bin/absolute", "/bin/tool"),
        Member::hardlink("bin/link-of-link", "bin/absolute"),
        Member::symlink("lib", "usr/lib").owner(5, 6),
        Member::dir("usr/lib"),
        Member::dir("tmp").mode(0o1777),
        Member::file(&long, "long").mode(0o600),
        Member::file("pax", "x")
            .pax("path", "caf\u{e9}\nnext")
            .pax("mtime", "1234567890.5")
            .pax("uid", "70000"),
        Member::of_kind(b'6', "pipe").mode(0o620).owner(3, 4),
        Member::file("empty", "").mode(0),
        Member::file("bin/tool2", "first"),
        Member::file("bin/tool2", "second"),
    ];
    let tar = tar_of(&members);
    lab.unpack_bytes(&tar).unwrap();
    let oracle = lab.scratch.path().join("oracle");
    fs::create_dir(&oracle).unwrap();
    let archive = lab.scratch.path().join("layer.tar");
    fs::write(&archive, &tar).unwrap();
    let done = Command::new("tar")
        .args([
            "--extract",
            "--same-owner",
            "--same-permissions",
            "--numeric-owner",
            "--delay-directory-restore",
            "--file",
        ])
        .arg(&archive)
        .arg("--directory")
        .arg(&oracle)
        .status()
        .unwrap();
    assert!(done.success());
    // Directories that no entry describes are 0755 here, and after the umask there.
    fs::set_permissions(oracle.join("usr"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let forget_implied = |mut all: BTreeMap<PathBuf, Seen>| {
        for implied in ["usr", &long[..90]] {
            all.get_mut(Path::new(implied)).unwrap().modified = (0, 0);
        }
        all
    };
    assert_eq!(forget_implied(seen(&lab.root())), forget_implied(seen(&oracle)));
    assert_eq!(lab.stat("bin/tool").mode() & 0o7777, 0o4755);
    assert_eq!(lab.stat("bin/tool").ino(), lab.stat("bin/same").ino());
}

#[test]
fn a_name_that_leaves_the_image_is_refused() {
    for path in ["../x", "a/../../x", "..", "a/../b"] {
        let text = refusal(&[Member::file(path, "x")]);
        assert!(text.contains("leaves its directory by '..'"), "{path}: {text}");
    }
    let deep = "a/".repeat(3000);
    assert!(refusal(&[Member::dir(&deep)]).contains("longer than 4095"));
    assert!(refusal(&[Member::file("f".repeat(300), "x")]).contains("cannot create the file"));
    assert!(refusal(&[Member::file("x", "x").pax("path", "a\0b")]).contains("NUL"));
    assert!(refusal(&[Member::file("", "x")]).contains("name is empty"));
    assert!(refusal(&[Member::file(".", "x")]).contains("root of the image, but no directory"));
    assert!(refusal(&[Member::symlink("/", "/etc")]).contains("root of the image, but no directory"));
}

#[test]
fn absolute_and_odd_names_stay_inside() {
    let lab = Lab::new();
    let absolute = format!("{}/secret", lab.outside());
    lab.unpack(&[
        Member::file(&absolute, "inside"),
        Member::file("./a/./b//c", "c"),
        Member::file(b"\xff\xfe", "raw"),
        Member::dir("a".repeat(255)),
        Member::file("old-directory/", ""),
    ])
    .unwrap();
    assert_eq!(lab.read(&absolute[1..]), "inside");
    assert_eq!(lab.read("a/b/c"), "c");
    assert!(lab.stat("old-directory").is_dir());
}

#[test]
fn very_deep_trees_are_made_and_removed() {
    let lab = Lab::new();
    let deep = "d/".repeat(2000);
    lab.unpack(&[Member::file(format!("{deep}f"), "x"), Member::file("d", "a file instead")]).unwrap();
    assert_eq!(lab.read("d"), "a file instead");
}

#[test]
fn writes_through_links_stay_inside() {
    let lab = Lab::new();
    let outside = lab.outside();
    lab.unpack(&[
        Member::dir("etc"),
        Member::symlink("root", "/"),
        Member::file("root/etc/one", "1"),
        Member::symlink("up", "../../../../../../../.."),
        Member::file("up/etc/two", "2"),
        Member::symlink("here", "."),
        Member::file("here/here/etc/three", "3"),
        Member::symlink("file", format!("{outside}/secret")),
        Member::file("file", "replaced"),
        Member::symlink("slash/", "/etc"),
        Member::dir("made"),
        Member::symlink("made", format!("{outside}/etc")),
        Member::dir("made").mode(0o700),
        Member::file("made/passwd", "mine"),
    ])
    .unwrap();
    for (name, content) in [("one", "1"), ("two", "2"), ("three", "3")] {
        assert_eq!(lab.read(&format!("etc/{name}")), content);
    }
    assert_eq!(lab.read("file"), "replaced");
    assert!(lab.stat("slash").is_symlink());
    assert!(lab.stat("made").is_dir());
    assert_eq!(lab.read("made/passwd"), "mine");
}

#[test]
fn links_that_lead_nowhere_inside_are_refused_as_parents() {
    let lab = Lab::new();
    let outside = lab.outside();
    let dangling = [Member::symlink("out", &outside), Member::file("out/secret", "x")];
    assert!(text(&lab.unpack(&dangling).unwrap_err()).contains("cannot make its directory"));
    let circle = [Member::symlink("a", "b"), Member::symlink("b", "a"), Member::file("a/x", "x")];
    assert!(refusal(&circle).contains("cannot open its directory"));
    let magic = [Member::symlink("p", "/proc/self/root"), Member::file("p/x", "x")];
    assert!(refusal(&magic).contains("cannot make its directory"));
    assert!(
        refusal(&[Member::file("f", "x"), Member::file("f/g", "x")]).contains("cannot make its directory")
    );
    assert!(refusal(&[Member::symlink("l", "")]).contains("links to nothing"));
}

#[test]
fn modes_and_owners_never_pass_through_a_link() {
    let lab = Lab::new();
    let outside = lab.outside();
    lab.unpack(&[
        Member::symlink("a", format!("{outside}/secret")).mode(0o777).owner(7, 8),
        Member::symlink("b", format!("{outside}/etc")),
        Member::dir("b").mode(0o777).owner(9, 9),
        Member::symlink("c", format!("{outside}/secret")),
        Member::of_kind(b'6', "c").mode(0o666),
    ])
    .unwrap();
    assert_eq!((lab.stat("a").uid(), lab.stat("a").gid()), (7, 8));
    assert!(lab.stat("b").is_dir());
    assert!(lab.stat("c").file_type().is_fifo());
}

#[test]
fn hard_links_reach_only_what_the_layer_has() {
    let targets = ["/etc/passwd", "../../etc/passwd", "missing", "..", "/", ""];
    for target in targets {
        let text = refusal(&[Member::hardlink("x", target)]);
        assert!(text.contains("entry \"x\""), "{target}: {text}");
    }
    let lab = Lab::new();
    let outside = lab.outside();
    let through = [Member::symlink("out", &outside), Member::hardlink("x", "out/secret")];
    assert!(text(&lab.unpack(&through).unwrap_err()).contains("find the target"));
    let of_directory = [Member::dir("d"), Member::hardlink("x", "d")];
    assert!(refusal(&of_directory).contains("cannot create the hard link"));
    let of_whiteout = [Member::file("a/.wh.gone", ""), Member::hardlink("x", "a/gone")];
    assert!(refusal(&of_whiteout).contains("find the target"));
    let lab = Lab::new();
    let target = format!("{}/secret", lab.outside());
    let of_link = [Member::symlink("l", &target), Member::hardlink("x", "l"), Member::file("x", "own")];
    lab.unpack(&of_link).unwrap();
    assert_eq!(lab.read("x"), "own");
    assert!(lab.stat("l").is_symlink());
    let lab = Lab::new();
    lab.unpack(&[Member::file("x", "kept"), Member::hardlink("x", "x")]).unwrap();
    assert_eq!(lab.read("x"), "kept");
}

#[test]
fn whiteouts_take_the_overlay_form() {
    let lab = Lab::new();
    lab.unpack(&[
        Member::dir("d"),
        Member::file("d/.wh.gone", "with content"),
        Member::file("d/new", "n"),
        Member::file("o/.wh..wh..opq", ""),
        Member::file("o/kept", "k"),
        Member::file("late/kept", "k"),
        Member::file(".wh.late", ""),
        Member::file(".wh.early", ""),
        Member::dir("early"),
        Member::file(".wh.deep", ""),
        Member::file("deep/er/file", "f"),
        Member::file(".wh.replaced", ""),
        Member::file("replaced", "r"),
        Member::dir(".wh..wh.plnk"),
        Member::file(".wh..wh.plnk/1.2", ""),
        Member::symlink("way", "d"),
        Member::file("way/.wh.other", ""),
    ])
    .unwrap();
    assert!(is_whiteout(&lab.stat("d/gone")));
    assert!(is_whiteout(&lab.stat("d/other")));
    assert_eq!(lab.read("replaced"), "r");
    assert_eq!(lab.read("deep/er/file"), "f");
    for (directory, opaque) in [("o", true), ("late", true), ("early", true), ("deep", true), ("d", false)] {
        assert_eq!(is_opaque(&lab.root().join(directory)), opaque, "{directory}");
    }
    let names = seen(&lab.root());
    assert!(names.keys().all(|path| !path.to_string_lossy().contains(".wh.")), "{:?}", names.keys());
}

#[test]
fn malformed_whiteouts_are_refused() {
    for path in [".wh.", "a/.wh.", ".wh..", "a/.wh...", ".wh.a/b"] {
        let text = refusal(&[Member::file(path, "")]);
        assert!(text.contains("malformed whiteout"), "{path}: {text}");
    }
    let lab = Lab::new();
    let outside = lab.outside();
    let through = [Member::symlink("out", &outside), Member::file("out/.wh.secret", "")];
    assert!(lab.unpack(&through).is_err());
}

#[test]
fn device_nodes_and_overlay_attributes_are_left_out() {
    let lab = Lab::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lab.unpack(&[
        Member::of_kind(b'3', "dev/null"),
        Member::of_kind(b'4', "dev/sda"),
        Member::dir("d")
            .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
            .pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")
            .pax("SCHILY.xattr.user.overlay.opaque", "y")
            .pax("SCHILY.xattr.user.kept", "")
            .pax("SCHILY.xattr.security.selinux", "x"),
        Member::file("ping", "ping")
            .mode(0o4755)
            .owner(10, 10)
            .pax("SCHILY.xattr.security.capability", capability),
    ])
    .unwrap();
    assert!(!lab.root().join("dev").exists());
    let attributes = |path: &str| {
        let mut names = vec![0; 1024];
        let length = rustix::fs::llistxattr(lab.root().join(path), &mut names).unwrap();
        String::from_utf8(names[..length].to_vec()).unwrap()
    };
    assert_eq!(attributes("d"), "user.kept\0");
    assert_eq!(attributes("ping"), "security.capability\0");
    assert_eq!(lab.stat("ping").mode() & 0o7777, 0o4755);
}

#[test]
fn what_readers_of_tar_disagree_on_is_refused() {
    let global =
        |key: &str| [Member::of_kind(b'g', "global").body(pax_record(key, b"7")), Member::file("x", "x")];
    let cases = [
        (vec![Member::file("x", "1234567").pax("size", "3")], "two different sizes"),
        (vec![Member::file("n".repeat(120), "x").pax("path", "other")], "two different names"),
        (global("size").to_vec(), "a global header that changes"),
        (vec![Member::of_kind(b'S', "sparse")], "sparse file"),
        (vec![Member::file("x", "x").pax("GNU.sparse.major", "1")], "sparse file"),
        (vec![Member::of_kind(b'V', "volume")], "unknown type 'V'"),
        (vec![Member::symlink("l", "t").body("data")], "carries data"),
        (vec![Member::file("x", "").pax("uid", "4294967295")], "owner outside of 32 bits"),
        (vec![Member::file("x", "").owner(1 << 33, 0)], "owner outside of 32 bits"),
        (vec![Member::of_kind(b'x', "pax").body("nonsense")], "malformed pax"),
        (vec![Member::of_kind(b'L', "long").body("name\0")], "without an entry"),
        (
            vec![
                Member::of_kind(b'L', "long").body("a\0"),
                Member::of_kind(b'L', "long").body("b\0"),
                Member::file("x", ""),
            ],
            "two long name headers",
        ),
    ];
    for (members, reason) in cases {
        let text = refusal(&members);
        assert!(text.contains(reason), "{reason}: {text}");
    }
    let lab = Lab::new();
    lab.unpack(&global("comment")).unwrap();
    assert_eq!(lab.read("x"), "x");
}

#[test]
fn extended_headers_and_attributes_are_bounded() {
    let header = Member::of_kind(b'x', "pax").size(EXTENDED_HEADER_BYTES_MAX + 1);
    let text = refusal(&[header]);
    assert!(text.contains("an extended header of 1048577 bytes"), "{text}");
    let huge = Member::file("x", "").pax("SCHILY.xattr.user.big", vec![b'x'; 100 << 10]);
    assert!(refusal(&[huge]).contains("cannot set an extended attribute"));
}

#[test]
fn entries_are_bounded() {
    let global = Member::of_kind(b'g', "g");
    let tar = tar_of(&[global.clone(), Member::file("a", "a"), global, Member::file("b", "b")]);
    for (limit, seen) in [(4, 2), (3, 1), (0, 0)] {
        let mut archive = tar::Archive::new(&tar[..]);
        let mut entries = super::Entries::of(&mut archive, limit).unwrap();
        let mut count = 0;
        let end = loop {
            match entries.next() {
                Ok(Some(_)) => count += 1,
                end => break end.map(|_| ()),
            }
        };
        assert_eq!((count, end.is_ok()), (seen, limit == 4), "{limit}");
    }
}

#[test]
fn a_layer_that_is_not_as_promised_is_refused() {
    let lab = Lab::new();
    let tar = tar_of(&[Member::file("x", vec![b'x'; 5000])]);
    let carried = zstd::encode_all(&tar[..], 1).unwrap();
    let digest = Digest::of(&carried);
    let promise = |digest, bytes: usize, diff_id| Promise {
        carried: Some((digest, bytes as u64)),
        diff_id: Some(diff_id),
    };
    let try_it = |source: &[u8], promise| {
        fs::remove_dir_all(lab.root()).unwrap();
        fs::create_dir(lab.root()).unwrap();
        let done = unpack(source, promise, &lab.root(), &lab.scratch.path().join("bin"));
        done.map(|unpacked| unpacked.bytes).map_err(|fault| text(&fault))
    };
    let good = promise(digest, carried.len(), Digest::of(&tar));
    assert_eq!(try_it(&carried, good), Ok(tar.len() as u64));
    let mut flipped = carried.clone();
    flipped[30] ^= 1;
    let cases = [
        (&flipped[..], good, "digest mismatch: expected"),
        (&carried[..20], good, "size mismatch"),
        (&carried[..], promise(digest, carried.len() + 1, Digest::of(&tar)), "size mismatch"),
        (&carried[..], promise(digest, carried.len() - 1, Digest::of(&tar)), "more than the declared"),
        (
            &carried[..],
            promise(Digest::of(b""), carried.len(), Digest::of(&tar)),
            "digest mismatch: expected",
        ),
        (&carried[..], promise(digest, carried.len(), Digest::of(b"")), "the configuration expects"),
    ];
    for (source, promise, reason) in cases {
        let text = try_it(source, promise).unwrap_err();
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[test]
fn a_truncated_archive_is_refused() {
    let tar = tar_of(&[Member::file("x", vec![b'x'; 5000])]);
    for length in [100, 600, 4000] {
        assert!(Lab::new().unpack_bytes(&tar[..length]).is_err(), "{length}");
    }
    let lab = Lab::new();
    lab.unpack_bytes(&unfinished_tar_of(&[Member::file("x", "x")])).unwrap();
    lab.unpack_bytes(b"").unwrap();
}

#[test]
fn altered_archives_never_reach_outside() {
    let outside = Lab::new().outside();
    let members = [
        Member::dir("./").mode(0o711),
        Member::symlink("out", &outside),
        Member::symlink("up", "../../.."),
        Member::file("a/b/c", "content"),
        Member::hardlink("h", "a/b/c"),
        Member::file("a/.wh.b", ""),
        Member::file("x", "y").pax("path", "a/b/d").pax("SCHILY.xattr.user.k", "v"),
        Member::file("n".repeat(150), "long"),
        Member::of_kind(b'6', "pipe"),
        Member::dir("a").mode(0o700),
    ];
    let good = tar_of(&members);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = match random.u8(..4) {
                0 => b'/',
                1 => b'.',
                2 => 0,
                _ => random.u8(..),
            };
        }
        mend_checksums(&mut bytes);
        let _ = Lab::new().unpack_bytes(&bytes);
    }
}

/// Recomputes the checksum of whatever stands where a header could, so that alterations get past it.
fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
