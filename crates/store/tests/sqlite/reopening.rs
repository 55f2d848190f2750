//! Closing and opening: everything stays, one process at a time, nobody else may read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use model::Revision;
use store::{Bounds, Page, SqliteStore, Store as _, WatchError};

use super::{open, other, put, refusal, txn};

#[tokio::test]
async fn a_reopened_store_keeps_objects_log_and_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..10 {
        put(&store, &format!("/a/{n}"), "1").await;
    }
    store.commit(txn().delete("/a/3")).await.unwrap();
    let listing = store.list("", Page::first()).await.unwrap();
    let history = store.history("", None, 100).await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.revision().await.unwrap(), Revision(11));
    assert_eq!(store.list("", Page::first()).await.unwrap(), listing);
    assert_eq!(store.history("", None, 100).await.unwrap(), history);
    let mut watch = store.watch("", Revision(10)).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision, Revision(11));
    assert_eq!(put(&store, "/a/x", "1").await, Revision(12));
}

#[tokio::test]
async fn a_reopened_store_keeps_its_revision_after_everything_was_deleted_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/a/x", "1").await;
    let deleted = store.commit(txn().delete("/a/x")).await.unwrap();
    store.compact(deleted).await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.revision().await.unwrap(), deleted);
    let refused = store.watch("", Revision(1)).await;
    assert!(matches!(refused, Err(WatchError::Compacted { oldest }) if oldest == deleted));
    assert_eq!(put(&store, "/a/x", "1").await, deleted.next());
}

#[tokio::test]
async fn a_closed_store_leaves_one_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/a/x", "1").await;
    store.list("", Page::first()).await.unwrap();
    let mut watch = store.watch("", Revision(1)).await.unwrap();
    drop(store);
    let mut names: Vec<_> = dir
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["rik.db", "rik.lock"]);
    assert!(watch.next().await.is_err(), "a watch ends with its store");
}

#[tokio::test]
async fn forgotten_rows_leave_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        SqliteStore::open_with(dir.path(), Bounds { log_entries: 100, ..Bounds::default() }).unwrap().store;
    for n in 0..500 {
        put(&store, "/a/x", &n.to_string()).await;
    }
    store.compact(Revision(450)).await.unwrap();
    // Dropping may leave forgotten rows; the next start deletes them before it is idle.
    drop(store);
    let store = open(dir.path());
    put(&store, "/a/x", "last").await;
    drop(store);
    let rows: i64 = other(&dir.path().join("rik.db"))
        .query_row("SELECT count(*) FROM event", [], |row| row.get(0))
        .unwrap();
    assert!(rows <= 51, "{rows} rows");
}

#[test]
fn a_second_opener_is_told_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let pid = format!("already running (pid {})", std::process::id());
    assert!(refusal(dir.path()).contains(&pid), "{}", refusal(dir.path()));
    drop(first);
    open(dir.path());
}

#[test]
fn a_lock_file_left_by_a_dead_process_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rik.lock"), "4194304999\nand more").unwrap();
    open(dir.path());
}

#[tokio::test]
async fn directory_and_files_belong_to_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("var/lib/rik/data");
    let store = open(&nested);
    put(&store, "/a/x", "1").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&nested), 0o700);
    for name in ["rik.db", "rik.db-wal", "rik.db-shm", "rik.lock"] {
        assert_eq!(mode(&nested.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_file_that_others_could_read_is_narrowed_and_its_directory_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let set = |name: &str, mode| {
        let path = dir.path().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("", 0o755);
    set("rik.db", 0o644);
    open(dir.path());
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("rik.db")), (0o755, 0o600));
}

#[test]
fn a_folder_that_may_not_be_made_is_named_with_the_way_out() {
    // Nobody may make folders there, root included.
    let refused = refusal(Path::new("/sys/rik-store-test/data"));
    assert!(refused.contains("/sys/rik-store-test/data"), "{refused}");
    assert!(refused.contains("permission denied; run as root, or point DATABASE_LOCATION"), "{refused}");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("deeper")] {
        let refused = refusal(&path);
        assert!(refused.contains("it is not a folder") && refused.contains("data"), "{refused}");
    }
}

#[test]
fn a_trailing_slash_means_the_same_folder() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir.path().join("data/"));
    open(&dir.path().join("data"));
    assert!(dir.path().join("data/rik.db").is_file());
    assert!(!dir.path().join("datarik.db").exists());
}

#[tokio::test]
async fn a_link_to_a_database_elsewhere_is_followed() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&open(disk.path()), "/a/x", "1").await;
    std::os::unix::fs::symlink(disk.path().join("rik.db"), dir.path().join("rik.db")).unwrap();
    let store = open(dir.path());
    assert!(store.get("/a/x").await.unwrap().is_some());
    assert_eq!(put(&store, "/a/x", "2").await, Revision(2));
}
