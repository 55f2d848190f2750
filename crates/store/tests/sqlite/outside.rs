//! Other programs at the same file: they read it as documented, copy it, and lock it.

use std::process::Command;
use std::sync::Arc;

use model::Revision;
use rusqlite::OpenFlags;
use store::{CommitError, Fault, Page, Store as _};

use super::{open, other, put, txn};

#[tokio::test]
async fn another_connection_reads_the_documented_columns_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/workload/pods/default/web", "{\"name\":\"web\"}").await;
    put(&store, "/instance/function/default/x", "{}").await;
    put(&store, "/node/n1", "{}").await;
    store.commit(txn().delete("/node/n1")).await.unwrap();

    let reader =
        rusqlite::Connection::open_with_flags(dir.path().join("rik.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
    let mut elements = reader
        .prepare("SELECT element_type || ' ' || element_id || ' ' || revision || ' ' || value FROM element ORDER BY 1")
        .unwrap();
    let elements: Vec<String> =
        elements.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(
        elements,
        [
            "/instance /instance/function/default/x 2 {}",
            "/workload /workload/pods/default/web 1 {\"name\":\"web\"}"
        ]
    );
    let mut events = reader.prepare("SELECT revision, op, at FROM event ORDER BY revision").unwrap();
    let events: Vec<(i64, String, String)> = events
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let ops: Vec<_> = events.iter().map(|(revision, op, _)| (*revision, op.as_str())).collect();
    assert_eq!(ops, [(1, "put"), (2, "put"), (3, "put"), (4, "delete")]);
    assert_eq!(events[0].2, "1970-01-01T00:00:00Z");
    let json: String = reader
        .query_row("SELECT value ->> 'name' FROM element WHERE revision = 1", [], |row| row.get(0))
        .unwrap();
    assert_eq!(json, "web");
}

#[tokio::test]
async fn the_tables_are_exactly_the_documented_ones() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let file = other(&dir.path().join("rik.db"));
    let mut tables = file.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1").unwrap();
    let tables: Vec<String> =
        tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(tables, ["element", "event", "meta"]);
    let mode: String = file.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_is_a_whole_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let writer = Arc::clone(&store);
    let load = tokio::spawn(async move {
        for n in 0..600 {
            let pair = txn().put(format!("/a/{}", n % 50), n.to_string()).put("/b/x", n.to_string());
            writer.commit(pair).await.unwrap();
        }
    });
    while store.revision().await.unwrap() < Revision(100) {
        tokio::task::yield_now().await;
    }
    let backup = dir.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    let (from, to) = (dir.path().join("rik.db"), backup.join("rik.db"));
    let copied = tokio::task::spawn_blocking(move || {
        other(&from).execute("VACUUM INTO ?1", [to.to_str().unwrap()]).map(|_rows| ())
    });
    copied.await.unwrap().unwrap();
    load.await.unwrap();

    let copy = open(&backup);
    let revision = copy.revision().await.unwrap();
    assert!(revision >= Revision(100));
    let latest = copy.get("/b/x").await.unwrap().unwrap();
    assert_eq!((latest.revision, &*latest.value), (revision, (revision.0 - 1).to_string().as_str()));
    assert_eq!(copy.list("/a/", Page::first()).await.unwrap().objects.len(), 50);
    assert!(matches!(copy.watch("", Revision(601)).await, Err(store::WatchError::Ahead { .. })));
}

#[tokio::test]
async fn a_database_locked_by_another_program_fails_commits_as_busy_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/a/x", "1").await;
    let locker = other(&dir.path().join("rik.db"));
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let failed = store.commit(txn().put("/a/x", "2")).await.unwrap_err();
    let CommitError::Write { source, .. } = failed else { panic!("{failed}") };
    assert!(matches!(source, Fault::Busy(_)) && source.is_transient(), "{source}");
    // Readers go on meanwhile.
    assert_eq!(&*store.get("/a/x").await.unwrap().unwrap().value, "1");
    assert_eq!(store.list("", Page::first()).await.unwrap().objects.len(), 1);
    locker.execute_batch("ROLLBACK").unwrap();
    assert_eq!(put(&store, "/a/x", "3").await, Revision(2));
}

#[tokio::test]
async fn the_sqlite3_program_reads_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/workload/pods/default/web", "{}").await;
    drop(store);
    let output = Command::new("sqlite3")
        .arg(dir.path().join("rik.db"))
        .arg("SELECT element_id, element_type, value FROM element")
        .output()
        .expect("the sqlite3 program is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/workload/pods/default/web|/workload|{}\n");
}
