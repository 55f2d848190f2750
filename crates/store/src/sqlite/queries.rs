//! The reading side: every query that answers a caller, each on one snapshot.

use jiff::Timestamp;
use model::Revision;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::schema::{ends, from_sql, to_sql};
use crate::change::{Change, History, Op, Position};
use crate::object::{KeyRange, Listing, Object, Page, PageBuilder};
use crate::watch::Stretch;

pub(super) const PUT: &str = "put";
pub(super) const DELETE: &str = "delete";

const OBJECT: &str = "SELECT element_id, value, revision, create_revision FROM element WHERE element_id = ?1";
const PAGE_FROM: &str = "SELECT element_id, value, revision, create_revision FROM element
    WHERE element_id >= ?1 AND element_id < ?2 ORDER BY element_id";
const PAGE_AFTER: &str = "SELECT element_id, value, revision, create_revision FROM element
    WHERE element_id > ?1 AND element_id < ?2 ORDER BY element_id";
const CHANGES: &str = "SELECT revision, position, at, op, element_id, create_revision, value FROM event
    WHERE revision > ?1 ORDER BY revision, position";
const HISTORY: &str = "SELECT revision, position, at, op, element_id, create_revision, value FROM event
    WHERE (revision, position) < (?1, ?2) AND revision > ?3 AND element_id >= ?4 AND element_id < ?5
    ORDER BY revision DESC, position DESC LIMIT ?6";

/// What a watch finds in the log.
pub(super) enum Changes {
    Found(Stretch),
    Compacted(Revision),
}

pub(super) fn object(connection: &Connection, key: &str) -> rusqlite::Result<Option<Object>> {
    connection.prepare_cached(OBJECT)?.query_row([key], read_object).optional()
}

pub(super) fn page(connection: &Connection, range: &KeyRange, page: &Page) -> rusqlite::Result<Listing> {
    let snapshot = connection.unchecked_transaction()?;
    let (revision, _) = ends(&snapshot)?;
    let mut built = PageBuilder::new(page);
    let (sql, low) = match &page.after {
        Some(after) if *after >= range.low => (PAGE_AFTER, after),
        Some(_) | None => (PAGE_FROM, &range.low),
    };
    let mut statement = snapshot.prepare_cached(sql)?;
    let mut rows = statement.query([low, &range.high])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_str().map_or(0, str::len);
        if !built.fits(bytes) {
            return Ok(built.finish(revision, true));
        }
        built.push(read_object(row)?);
    }
    Ok(built.finish(revision, false))
}

/// What follows `cursor`, as far as one stretch goes. Rows are stepped through one by one, whole revisions at a time.
pub(super) fn changes(connection: &Connection, prefix: &str, cursor: Revision) -> rusqlite::Result<Changes> {
    let snapshot = connection.unchecked_transaction()?;
    let (newest, compacted) = ends(&snapshot)?;
    if cursor < compacted {
        return Ok(Changes::Compacted(compacted));
    }
    let mut stretch = Stretch::starting_at(cursor);
    let mut current = cursor;
    let mut matching = Vec::new();
    let mut statement = snapshot.prepare_cached(CHANGES)?;
    let mut rows = statement.query([to_sql(cursor)])?;
    while let Some(row) = rows.next()? {
        let revision = from_sql(row.get(0)?);
        if revision != current {
            if current != cursor {
                stretch.push(std::mem::take(&mut matching), current);
            }
            if stretch.is_full() {
                return Ok(Changes::Found(stretch));
            }
            current = revision;
        }
        if text(row, 4)?.starts_with(prefix) {
            matching.push(read_change(row)?);
        }
    }
    stretch.push(matching, newest.max(cursor));
    Ok(Changes::Found(stretch))
}

pub(super) fn history(
    connection: &Connection,
    range: &KeyRange,
    before: Option<Position>,
    size: usize,
) -> rusqlite::Result<History> {
    let snapshot = connection.unchecked_transaction()?;
    let (_, compacted) = ends(&snapshot)?;
    let (revision, index) =
        before.map_or((i64::MAX, 0), |before| (to_sql(before.revision), i64::from(before.index)));
    let one_more = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut statement = snapshot.prepare_cached(HISTORY)?;
    let filter = (revision, index, to_sql(compacted), &range.low, &range.high, one_more);
    let rows = statement.query_map(filter, read_change)?;
    let mut changes = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = changes.len() > size;
    changes.truncate(size);
    Ok(History { changes, more })
}

fn read_object(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        key: row.get(0)?,
        value: row.get(1)?,
        revision: from_sql(row.get(2)?),
        created: from_sql(row.get(3)?),
    })
}

fn read_change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let at = text(row, 2)?.parse::<Timestamp>();
    let op = match text(row, 3)? {
        PUT => Op::Put { value: row.get(6)?, created: from_sql(row.get(5)?) },
        DELETE => Op::Delete { last: row.get(6)? },
        other => return Err(bad_column(3, UnknownOp(other.to_owned()))),
    };
    Ok(Change {
        revision: from_sql(row.get(0)?),
        index: row.get(1)?,
        at: at.map_err(|error| bad_column(2, error))?,
        key: row.get(4)?,
        op,
    })
}

fn text<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<&'row str> {
    row.get_ref(column)?.as_str().map_err(|error: FromSqlError| bad_column(column, error))
}

fn bad_column(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// A log entry of a kind that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown operation {0:?} in the log")]
struct UnknownOp(String);
