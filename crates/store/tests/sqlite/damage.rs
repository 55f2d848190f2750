//! Damaged files: each is refused with a message that names it, and none gives way to an empty database.

use std::fs;
use std::path::Path;

use store::{SqliteStore, Store as _};

use super::{open, other, put, refusal, txn};

/// A database of some pages, closed.
#[tokio::main(flavor = "current_thread")]
async fn fill(dir: &Path) {
    let store = open(dir);
    for n in 0..20 {
        let many = (0..50).fold(txn(), |txn, m| txn.put(format!("/a/{n:02}-{m:02}"), "x".repeat(200)));
        store.commit(many).await.unwrap();
    }
}

struct Case {
    name: &'static str,
    damage: fn(&Path),
    message: &'static str,
}

fn rewrite(file: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

fn replace_by_directory(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
}

fn leave_only(file: &Path, companion: &str) {
    fs::rename(file, file.with_file_name(companion)).unwrap();
}

fn dangle(file: &Path) {
    fs::remove_file(file).unwrap();
    std::os::unix::fs::symlink("nowhere", file).unwrap();
}

fn sql(file: &Path, statements: &str) {
    other(file).execute_batch(statements).unwrap();
}

fn make_foreign(file: &Path) {
    fs::remove_file(file).unwrap();
    sql(file, "CREATE TABLE notes (text)");
}

const CASES: &[Case] = &[
    Case { name: "zero length", damage: |file| fs::write(file, "").unwrap(), message: "the file is empty" },
    Case {
        name: "garbage",
        damage: |file| fs::write(file, "not a database ".repeat(10_000)).unwrap(),
        message: "file is not a database",
    },
    Case {
        name: "zeros",
        damage: |file| rewrite(file, |bytes| bytes.fill(0)),
        message: "file is not a database",
    },
    Case {
        name: "one byte",
        damage: |file| rewrite(file, |bytes| bytes.truncate(1)),
        message: "file is not a database",
    },
    Case {
        name: "header alone",
        damage: |file| rewrite(file, |bytes| bytes.truncate(100)),
        message: "malformed",
    },
    Case {
        name: "truncated to half",
        damage: |file| rewrite(file, |bytes| bytes.truncate(bytes.len() / 2)),
        message: "malformed",
    },
    Case {
        name: "truncated by one page",
        damage: |file| rewrite(file, |bytes| bytes.truncate(bytes.len() - 4096)),
        message: "malformed",
    },
    Case {
        name: "torn page",
        damage: |file| rewrite(file, |bytes| bytes[5 * 4096..5 * 4096 + 512].fill(0xa5)),
        message: "damaged",
    },
    Case {
        name: "bit flip in the header",
        damage: |file| rewrite(file, |bytes| bytes[3] ^= 1),
        message: "file is not a database",
    },
    Case { name: "directory in place", damage: replace_by_directory, message: "it is not a file" },
    Case { name: "dangling link", damage: dangle, message: "a link that leads nowhere" },
    Case {
        name: "log without database",
        damage: |file| leave_only(file, "rik.db-wal"),
        message: "the file is missing, but",
    },
    Case {
        name: "journal without database",
        damage: |file| leave_only(file, "rik.db-journal"),
        message: "the file is missing, but",
    },
    Case { name: "another program's", damage: make_foreign, message: "not a database of RIK" },
    Case {
        name: "no log table",
        damage: |file| sql(file, "DROP TABLE event"),
        message: "table event is missing",
    },
    Case {
        name: "no version",
        damage: |file| sql(file, "DELETE FROM meta WHERE name = 'schema'"),
        message: "schema version is not one that ever was",
    },
    Case {
        name: "newer version",
        damage: |file| sql(file, "UPDATE meta SET value = 2 WHERE name = 'schema'"),
        message: "written by a newer RIK (schema 2, this one knows 1)",
    },
];

#[test]
fn a_damaged_file_is_refused_by_name_and_left_as_it_is() {
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let file = dir.path().join("rik.db");
        (case.damage)(&file);
        let before = contents(dir.path());
        // Twice: the first refusal must not mend it into something empty.
        for _ in 0..2 {
            let refused = refusal(dir.path());
            assert!(refused.contains(case.message), "{}: {refused}", case.name);
            assert!(refused.contains(file.to_str().unwrap()), "{}: {refused}", case.name);
        }
        assert!(contents(dir.path()) == before, "{}: something was changed", case.name);
    }
}

/// Every file with its bytes, but the lock, and what reading leaves beside a database: its index of the log, and an
/// empty log.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "rik.lock")
        .map(|entry| {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), bytes)
        })
        .collect();
    files.retain(|(name, bytes)| !(name.ends_with("-shm") || name.ends_with("-wal") && bytes.is_empty()));
    files.sort_unstable();
    files
}

#[test]
fn a_refused_file_says_how_to_restore() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rik.db"), "").unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("put a backup at") && refused.contains(".recover"), "{refused}");
}

#[test]
fn bit_flips_are_refused_or_harmless_and_never_an_empty_database() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let file = dir.path().join("rik.db");
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    for seed in 0..100_usize {
        let mut bytes = whole.clone();
        // A multiplier without common factors spreads the seeds over the file.
        let at = seed * 7_919 * 31 % bytes.len();
        bytes[at] ^= 1 << (seed % 8);
        fs::write(&file, &bytes).unwrap();
        match SqliteStore::open(dir.path()) {
            Err(error) => {
                refused += 1;
                assert!(super::chain(&error).contains("rik.db"), "{error}");
            }
            Ok(opened) => {
                drop(opened);
                let rows: i64 =
                    other(&file).query_row("SELECT count(*) FROM element", [], |row| row.get(0)).unwrap();
                assert_eq!(rows, 1_000, "bit {} of byte {at}", seed % 8);
            }
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_start_that_was_cut_before_the_first_database_was_complete_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    for leftover in ["rik.db.new", "rik.db.new-journal"] {
        fs::write(dir.path().join(leftover), "half").unwrap();
    }
    let store = open(dir.path());
    put(&store, "/a/x", "1").await;
    assert!(!dir.path().join("rik.db.new").exists());
}

/// The files of a store that was killed: 60 transactions in the write-ahead log.
#[tokio::main(flavor = "current_thread")]
async fn killed(dir: &Path) {
    let alive = tempfile::tempdir().unwrap();
    let store = open(alive.path());
    for n in 0..60 {
        put(&store, &format!("/a/{n:02}"), "1").await;
    }
    for name in ["rik.db", "rik.db-wal"] {
        fs::copy(alive.path().join(name), dir.join(name)).unwrap();
    }
}

/// Where the nth frame of the write-ahead log begins.
fn frame(n: usize) -> usize {
    32 + n * (24 + 4096)
}

#[test]
fn a_damaged_write_ahead_log_is_refused_with_both_ways_out() {
    let page = frame(10) + 500;
    let salt = frame(10) + 9;
    let cases = [
        ("in its header", 0..1),
        ("in its header", 13..14),
        ("in its header", 0..frame(20)),
        ("in frame 11)", page..page + 1),
        ("in frame 11)", salt..salt + 1),
        ("in frame 1)", frame(0)..frame(4)),
    ];
    for (place, damaged) in cases {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path());
        // Every byte changes, whatever it was: some of them are random.
        rewrite(&dir.path().join("rik.db-wal"), |wal| {
            wal[damaged.clone()].iter_mut().for_each(|byte| *byte ^= 0xa5);
        });
        let before = contents(dir.path());
        let refused = refusal(dir.path());
        assert!(refused.contains("rik.db-wal is damaged") && refused.contains(place), "{refused}");
        assert!(contents(dir.path()) == before, "something was changed");

        let accept = refused.split('\'').nth(1).unwrap();
        other(&dir.path().join("rik.db")).query_row(accept, [], |_row| Ok(())).unwrap();
        open(dir.path());
    }
}

#[tokio::test]
async fn a_write_ahead_log_that_was_cut_short_keeps_every_transaction_before_the_cut() {
    for cut in [0, 1, 100, 5_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        tokio::task::spawn_blocking(move || killed(&path)).await.unwrap();
        rewrite(&dir.path().join("rik.db-wal"), |wal| wal.truncate(wal.len() - cut));
        let store = open(dir.path());
        let revision = store.revision().await.unwrap().0;
        let expected = if cut == 0 { 60..=60 } else { 58..=59 };
        assert!(expected.contains(&revision), "cut {cut}: {revision}");
        let objects = store.list("", store::Page::first()).await.unwrap().objects;
        assert_eq!(objects.len() as u64, revision);
    }
}
