//! kill -9: the test starts itself as a child that writes and prints what was acknowledged, and kills it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::{Page, SqliteStore, Store as _};

use super::{open, other, txn};

/// Tells the child its folder.
const CHILD: &str = "RIK_STORE_CRASH_CHILD";

/// Kills in a row, on one database.
const ROUNDS: u32 = 5;

/// Writers in the child: enough for batches of several transactions.
const WRITERS: u32 = 8;

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        acknowledged.extend(kill_after(dir.path(), 40 + round as usize * 60));
        check(dir.path(), &acknowledged);
    }
}

/// Runs a child, kills it after so many acknowledgements, and returns all that it made.
fn kill_after(dir: &Path, count: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::a_killed_writer_loses_nothing_that_it_acknowledged", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < count {
        let line = lines.next().expect("the child writes until it is killed").unwrap();
        acknowledged.extend(line.strip_prefix("ack ").map(str::to_owned));
    }
    child.kill().unwrap();
    // What was printed before the kill was acknowledged, too. A line without its end is not whole.
    let rest: Vec<_> = lines.map_while(Result::ok).filter(|line| line.ends_with('.')).collect();
    acknowledged.extend(rest.iter().filter_map(|line| line.strip_prefix("ack ")).map(str::to_owned));
    child.wait().unwrap();
    acknowledged
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn check(dir: &Path, acknowledged: &[String]) {
    let store = open(dir);
    for line in acknowledged {
        let (key, value) = line.trim_end_matches('.').split_once(' ').unwrap();
        let object = store.get(key).await.unwrap().unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(&*object.value, value);
        let partner = store.get(&format!("{key}-partner")).await.unwrap().expect("transactions are whole");
        assert_eq!(partner.revision, object.revision);
    }
    let newest = store.revision().await.unwrap();
    let listing = store.list("/partnerless/", Page::first()).await.unwrap();
    assert!(listing.objects.is_empty());
    drop(store);

    let file = other(&dir.join("rik.db"));
    let one = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        one("SELECT count(DISTINCT revision) FROM event"),
        newest.0.cast_signed(),
        "no gap in the log"
    );
    assert_eq!(one("SELECT count(*) FROM element"), one("SELECT count(*) FROM event"));
    let unlogged = "SELECT count(*) FROM element LEFT JOIN event USING (element_id, revision)
        WHERE event.value IS NOT element.value";
    assert_eq!(one(unlogged), 0, "no object without its log entry");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed(dir: &Path) {
    let store = Arc::new(open(dir));
    let start = store.revision().await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(&store), format!("/a/{start}-{writer}"))))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write(store: Arc<SqliteStore>, base: String) {
    for n in 0.. {
        let (key, value) = (format!("{base}-{n}"), format!("{{\"n\":{n}}}"));
        let pair = txn().create(key.clone(), value.clone()).create(format!("{key}-partner"), "{}");
        store.commit(pair).await.unwrap();
        // One write of a short line to a pipe is never torn. Without a reader, the end has come.
        if std::io::stdout().write_all(format!("ack {key} {value}.\n").as_bytes()).is_err() {
            return;
        }
    }
}
