//! Databases of RIK 2023: found in both places, offered until converted, never lost.

use std::fs;
use std::path::Path;

use store::{LegacyRow, SqliteStore, Store as _};

use super::{open, other, put, refusal};

const TABLE_2023: &str = "
    CREATE TABLE cluster (id TEXT PRIMARY KEY, name TEXT NOT NULL, value BLOB NOT NULL);
    CREATE INDEX cluster_name_index ON cluster (name);
    CREATE INDEX cluster_name_id_index ON cluster (name, id);
    INSERT INTO cluster VALUES ('6f1c', '/workload/Pod/default/web', '{\"kind\":\"Pod\"}');
    INSERT INTO cluster VALUES ('node-1', '/worker/any/node-1', x'22612262');
";

fn make_2023(file: &Path) {
    other(file).execute_batch(TABLE_2023).unwrap();
}

fn rows_2023() -> [LegacyRow; 2] {
    let row = |id: &str, name: &str, value: &str| LegacyRow {
        id: id.to_owned(),
        name: name.to_owned(),
        value: value.as_bytes().to_vec(),
    };
    [
        row("6f1c", "/workload/Pod/default/web", "{\"kind\":\"Pod\"}"),
        row("node-1", "/worker/any/node-1", "\"a\"b"),
    ]
}

#[tokio::test]
async fn rows_of_2023_are_offered_until_they_are_converted() {
    let dir = tempfile::tempdir().unwrap();
    make_2023(&dir.path().join("rik.db"));
    let opened = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(opened.legacy, rows_2023());
    put(&opened.store, "/workload/pods/default/web", "{}").await;
    drop(opened);

    // As after a crash between the conversion and its end.
    let opened = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(opened.legacy, rows_2023());
    opened.store.finish_legacy_import().await.unwrap();
    opened.store.finish_legacy_import().await.unwrap();
    drop(opened);

    let opened = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(opened.legacy, []);
    assert!(opened.store.get("/workload/pods/default/web").await.unwrap().is_some());
    let kept: i64 = other(&dir.path().join("rik.db"))
        .query_row("SELECT count(*) FROM cluster_2023", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 2);
}

#[test]
fn the_misnamed_file_of_2023_moves_to_its_folder() {
    for folder in ["data", "data/"] {
        let dir = tempfile::tempdir().unwrap();
        make_2023(&dir.path().join("datarik.db"));
        let opened = SqliteStore::open(&dir.path().join(folder)).unwrap();
        assert_eq!(opened.legacy, rows_2023());
        assert!(dir.path().join("data/rik.db").is_file());
        assert!(!dir.path().join("datarik.db").exists());
    }
}

#[test]
fn a_misnamed_file_that_was_not_closed_moves_with_all_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (used, left) = (dir.path().join("used.db"), dir.path().join("datarik.db"));
    let writer = other(&used);
    writer.query_row("PRAGMA journal_mode = WAL", [], |_row| Ok(())).unwrap();
    writer.execute_batch(TABLE_2023).unwrap();
    for suffix in ["", "-wal"] {
        let with = |file: &Path| format!("{}{suffix}", file.display());
        fs::copy(with(&used), with(&left)).unwrap();
    }
    let opened = SqliteStore::open(&dir.path().join("data")).unwrap();
    assert_eq!(opened.legacy, rows_2023());
    assert!(!dir.path().join("datarik.db-wal").exists());
}

#[tokio::test]
async fn a_misnamed_file_beside_a_database_in_place_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    put(&open(&data), "/a/x", "1").await;
    make_2023(&dir.path().join("datarik.db"));
    let opened = SqliteStore::open(&data).unwrap();
    assert_eq!(opened.legacy, []);
    assert!(opened.store.get("/a/x").await.unwrap().is_some());
    assert!(dir.path().join("datarik.db").is_file());
}

#[test]
fn a_damaged_or_foreign_misnamed_file_is_refused_and_no_empty_database_made() {
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = elsewhere.path().join("notes.db");
    other(&foreign).execute_batch("CREATE TABLE notes (text)").unwrap();
    let foreign_bytes = fs::read(&foreign).unwrap();
    let cases = [
        (Vec::new(), "the file is empty"),
        (b"garbage ".repeat(1_000), "file is not a database"),
        (foreign_bytes, "not a database of RIK"),
    ];
    for (bytes, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("datarik.db"), bytes).unwrap();
        let refused = refusal(&dir.path().join("data"));
        assert!(refused.contains(message) && refused.contains("datarik.db"), "{refused}");
        assert!(!dir.path().join("data/rik.db").exists());
        assert!(dir.path().join("datarik.db").is_file());
    }
}

#[test]
fn a_misnamed_file_that_another_program_writes_is_not_moved() {
    let dir = tempfile::tempdir().unwrap();
    let misnamed = dir.path().join("datarik.db");
    make_2023(&misnamed);
    let busy = other(&misnamed);
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = refusal(&dir.path().join("data"));
    assert!(refused.contains("locked by another program"), "{refused}");
    assert!(misnamed.is_file());
    assert!(!dir.path().join("data/rik.db").exists());
}
