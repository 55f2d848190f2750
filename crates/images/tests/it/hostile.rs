//! Layers that try to get out, by the numbers of the catalogue of hostile input (H-IMG), each of them plain, by gzip and by
//! zstd. What is refused leaves nothing behind; what is taken stays inside; what is outside stays as it was.

use std::{fs, io::Cursor, path::Path};

use crate::support::picture::{Layer, Packing, Picture, archive_of};
use crate::support::rawtar::{Member, pax_record, tar_of, unfinished_tar_of};
use crate::support::tree::tree;
use crate::support::{Lab, names_in, soon, text};

/// What has to come of a layer.
enum Fate {
    /// It is refused, with these words.
    Refused(&'static str),
    /// It is taken, and these are its files.
    Inside(&'static [&'static str]),
}

use Fate::{Inside, Refused};

/// Every attempt: its number in the catalogue, the layer, and what has to come of it. `out`: a directory that is not its own.
fn attempts(out: &str) -> Vec<(&'static str, Vec<u8>, Fate)> {
    let of = |members: &[Member]| tar_of(members);
    let file = |path: &str| Member::file(path, "x");
    let long = "a/".repeat(3000);
    let cut = {
        let mut bytes =
            unfinished_tar_of(&[Member::file("whole", "x"), Member::file("cut", vec![b'x'; 5000])]);
        bytes.truncate(3000);
        bytes
    };
    vec![
        ("01", of(&[file("../x")]), Refused("leaves its directory by '..'")),
        ("02", of(&[file("/abs")]), Inside(&["abs"])),
        ("03", of(&[file("a/../../x")]), Refused("leaves its directory by '..'")),
        ("04", of(&[file("./a/./b")]), Inside(&["a", "a/b"])),
        ("05", of(&[file("")]), Refused("name is empty")),
        ("05", of(&[file("x").pax("path", "a\0b")]), Refused("NUL")),
        ("06", of(&[Member::dir(&long)]), Refused("longer than 4095")),
        ("06", of(&[Member::file(b"raw\xff", "x")]), Inside(&["raw\u{fffd}"])),
        ("07", of(&[Member::symlink("l", out), file("l/secret")]), Refused("cannot make its directory")),
        ("07", of(&[Member::symlink("l", "/"), file("l/x")]), Inside(&["l", "x"])),
        (
            "07",
            of(&[Member::symlink("a", "b"), Member::symlink("b", "a"), file("a/x")]),
            Refused("cannot open"),
        ),
        ("08", of(&[Member::hardlink("x", "/etc/passwd")]), Refused("entry \"x\"")),
        ("08", of(&[Member::hardlink("x", "../../etc/passwd")]), Refused("entry \"x\"")),
        ("08", of(&[Member::hardlink("x", "later"), file("later")]), Refused("entry \"x\"")),
        (
            "08",
            of(&[Member::symlink("l", out), Member::hardlink("x", "l/secret")]),
            Refused("find the target"),
        ),
        ("09", of(&[Member::symlink("d", out), Member::dir("d").mode(0o777).owner(9, 9)]), Inside(&["d"])),
        ("10", of(&[file(".wh..")]), Refused("malformed whiteout")),
        ("10", of(&[file(".wh.")]), Refused("malformed whiteout")),
        ("10", of(&[Member::symlink("l", out), file("l/.wh.secret")]), Refused("entry \"l/.wh.secret\"")),
        ("10", of(&[file("d/x"), file("d/.wh..wh..opq")]), Inside(&["d", "d/x"])),
        ("15", cut, Refused("archive refused")),
        (
            "16",
            of(&[file("x").pax("SCHILY.xattr.user.big", vec![b'x'; 100 << 10])]),
            Refused("extended attribute"),
        ),
        (
            "16",
            of(&[Member::of_kind(b'x', "pax").size(1 << 30)]),
            Refused("an extended header of 1073741824 bytes"),
        ),
        ("17", of(&[Member::file("x", "1234567").pax("size", "3")]), Refused("two different sizes")),
        ("17", of(&[Member::of_kind(b'x', "pax").body("nonsense")]), Refused("malformed pax")),
        (
            "17",
            of(&[Member::of_kind(b'g', "global").body(pax_record("size", b"7")), file("x")]),
            Refused("a global header that changes"),
        ),
        ("19", of(&[Member::of_kind(b'4', "dev/sda"), file("kept")]), Inside(&["kept"])),
        ("19", of(&[Member::dir("d").pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")]), Inside(&["d"])),
    ]
}

#[tokio::test]
async fn h_img_hostile_layers_stay_inside_or_are_refused_however_they_are_packed() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let lab = Lab::new();
        let out = lab.scratch.path().join("outside");
        fs::create_dir_all(out.join("etc")).unwrap();
        fs::write(out.join("secret"), "secret").unwrap();
        let before = tree(&out, true);
        for (id, layer, fate) in attempts(out.to_str().unwrap()) {
            let picture = Picture::of(vec![Layer::of_tar(&layer, packing)]);
            let loaded = soon(lab.store.load(Cursor::new(archive_of(&picture, "hostile:1")))).await;
            let what = format!("H-IMG-{id}, {packing:?}");
            match (loaded, fate) {
                (Err(fault), Refused(words)) => {
                    let text = text(&fault);
                    assert!(text.contains(words), "{what}: {words}: {text}");
                }
                (Ok(images), Inside(expected)) => {
                    assert_eq!(names(&images[0].layers[0]), expected, "{what}");
                    soon(lab.store.remove(&images[0].reference)).await.unwrap();
                }
                (Ok(images), Refused(words)) => panic!("{what}: {words}: taken as {images:?}"),
                (Err(fault), Inside(_)) => panic!("{what}: {}", text(&fault)),
            }
            assert_eq!(tree(&out, true), before, "{what}: what is outside has changed");
            assert_eq!(lab.leftovers(), Vec::<String>::new(), "{what}");
            assert_eq!(names_in(&lab.root().join("layers")), Vec::<String>::new(), "{what}");
        }
    }
}

/// Every path below a directory.
fn names(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
    }
    found.retain(|name| !name.is_empty());
    found.sort();
    found
}
