//! The laws of the store, held against every backend: each law is one function, each backend one module of tests.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod contention;
mod history;
mod model;
mod objects;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::model::Revision;
use jiff::Timestamp;
use store::{Bounds, Change, MemoryStore, Op, SqliteStore, Store, Txn, Watch};
use tempfile::TempDir;

/// A law that takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(60);

/// A backend under test, empty at first.
struct Bed {
    store: Arc<dyn Store>,
    // After the store: its files go last.
    _dir: Option<TempDir>,
}

/// Makes a backend with these bounds.
type Make = fn(Bounds) -> Bed;

fn memory(bounds: Bounds) -> Bed {
    Bed { store: Arc::new(MemoryStore::with_bounds(bounds)), _dir: None }
}

fn sqlite(bounds: Bounds) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let opened = SqliteStore::open_with(dir.path(), bounds).unwrap();
    Bed { store: Arc::new(opened.store), _dir: Some(dir) }
}

async fn hold<F: Future<Output = ()>>(law: impl Fn(Make) -> F, make: Make) {
    tokio::time::timeout(DEADLINE, law(make)).await.expect("the law holds within its deadline");
}

macro_rules! laws {
    ($($module:ident::$law:ident,)*) => {
        mod memory_backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    super::hold(super::$module::$law, super::memory).await;
                }
            )*
        }

        mod sqlite_backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    super::hold(super::$module::$law, super::sqlite).await;
                }
            )*
        }
    };
}

laws! {
    objects::a_new_store_is_at_revision_zero_and_empty,
    objects::an_object_comes_back_as_it_was_written,
    objects::replacing_keeps_the_creation_and_moves_the_revision,
    objects::a_guard_that_fails_names_its_key_and_what_is_there,
    objects::one_failed_guard_leaves_every_write_undone,
    objects::guards_without_writes_take_no_revision,
    objects::deleting_what_is_absent_changes_nothing,
    objects::an_object_created_again_is_a_new_one,
    objects::revisions_have_no_gaps,
    objects::transactions_beyond_a_bound_are_refused_unseen,
    objects::the_largest_transaction_is_accepted,
    objects::prefixes_are_literal,
    objects::keys_and_values_may_hold_any_text,
    objects::pages_join_to_the_whole_list,
    objects::pages_are_bounded_in_bytes_too,
    objects::an_object_that_stays_is_seen_once_while_its_neighbours_come_and_go,
    history::history_reads_backward_in_pages,
    history::history_knows_creation_replacement_and_deletion,
    history::history_of_a_prefix_leaves_out_the_rest,
    history::compaction_forgets_the_log_and_keeps_the_objects,
    history::compaction_beyond_the_newest_revision_forgets_all_and_no_more,
    history::the_log_stays_within_its_bound,
    watching::a_watch_from_zero_sees_everything_in_order,
    watching::a_watch_from_the_middle_sees_only_what_follows,
    watching::changes_of_one_transaction_arrive_together,
    watching::a_watch_of_a_prefix_sees_only_its_keys,
    watching::handover_from_log_to_live_has_no_gap_and_no_repeat,
    watching::a_slow_watch_catches_up_from_the_log,
    watching::a_slow_watch_whose_log_is_gone_is_told_so,
    watching::a_watch_from_a_compacted_revision_is_refused,
    watching::a_watch_from_the_future_is_refused,
    watching::a_watch_that_is_cut_short_loses_nothing,
    contention::of_a_hundred_duplicate_creates_exactly_one_wins,
    contention::concurrent_replacements_never_lose_an_update,
    contention::what_is_acknowledged_is_read_at_once,
    model::any_history_matches_the_model,
}

/// The time of every transaction here; the store only keeps it.
fn noon() -> Timestamp {
    "2024-05-01T12:00:00.123456789Z".parse().unwrap()
}

fn txn() -> Txn {
    Txn::new(noon())
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.commit(txn().put(key, value)).await.unwrap()
}

/// Commits until the newest revision is `revision`.
async fn fill(store: &dyn Store, revision: u64) {
    while store.revision().await.unwrap() < Revision(revision) {
        put(store, "/filler/x", "{}").await;
    }
}

/// The keys of a change set, marked with what happened to them.
fn summary(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match &change.op {
            Op::Put { value, .. } => format!("{} {}={value}", change.revision, change.key),
            Op::Delete { .. } => format!("{} {} deleted", change.revision, change.key),
        })
        .collect()
}

async fn next(watch: &mut Watch) -> Vec<String> {
    summary(&watch.next().await.unwrap())
}
