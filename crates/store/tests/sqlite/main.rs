//! What only the SQLite backend promises: its file survives, is checked, is one's own, and can be read by others.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod crash;
mod damage;
mod legacy;
mod outside;
mod reopening;

use std::path::Path;

use jiff::Timestamp;
use model::Revision;
use rusqlite::Connection;
use store::{OpenError, SqliteStore, Store as _, Txn};

fn txn() -> Txn {
    Txn::new(Timestamp::UNIX_EPOCH)
}

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(dir).unwrap().store
}

/// The text of a refusal: what the outermost layer prints, its causes included.
fn refusal(dir: &Path) -> String {
    let error = SqliteStore::open(dir).map(|_opened| ()).expect_err("the database is refused");
    chain(&error)
}

fn chain(error: &OpenError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn put(store: &SqliteStore, key: &str, value: &str) -> Revision {
    store.commit(txn().put(key, value)).await.unwrap()
}

/// Another program's connection.
fn other(file: &Path) -> Connection {
    Connection::open(file).unwrap()
}
