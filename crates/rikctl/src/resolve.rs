//! From what a person typed to the object that is meant: a name, an id, or a beginning that only one object has.
//!
//! *Guarantee*: an exact name or id wins over every beginning, and a beginning that several have is refused.

use crate::{
    client::{Client, segment},
    failure::{Failure, Report},
    listed::{Listed, Shown},
    noun::bare,
};

/// Most candidates that are listed.
const MAX_CANDIDATES: usize = 10;
/// How alike two names must be to be confused: 1 is the same.
const ALIKE: f64 = 0.8;

/// The object that `typed` means.
///
/// # Errors
/// There is none, or there are several.
pub(crate) fn object<T: Listed>(client: &Client, typed: &str) -> Result<Shown<T>, Failure> {
    match lookup(client, typed)? {
        Some(found) => Ok(found),
        None => among(every(client, &[])?, typed),
    }
}

/// The object of exactly this name or id.
pub(crate) fn lookup<T: Listed>(client: &Client, name: &str) -> Result<Option<Shown<T>>, Failure> {
    match client.get(&path::<T>(name)) {
        Ok(value) => read(value).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Every object of a sort, narrowed by a query.
pub(crate) fn every<T: Listed>(client: &Client, query: &[(&str, &str)]) -> Result<Vec<Shown<T>>, Failure> {
    client.list(&format!("/{}", T::NOUN.plural()), query)?.items.into_iter().map(read).collect()
}

/// The path of an object.
pub(crate) fn path<T: Listed>(name: &str) -> String {
    format!("/{}/{}", T::NOUN.plural(), segment(bare(T::NOUN, name)))
}

/// Reads an object, or says that the controller speaks otherwise.
pub(crate) fn read<T: Listed>(value: serde_json::Value) -> Result<Shown<T>, Failure> {
    Shown::read(value).map_err(|error| {
        Report::new(format!(
            "the controller describes the {} in a way that is not understood: {error}",
            T::NOUN
        ))
        .hint("compare the versions with `rikctl version`; `-o json` shows what it sends")
        .into()
    })
}

fn among<T: Listed>(all: Vec<Shown<T>>, typed: &str) -> Result<Shown<T>, Failure> {
    if typed.is_empty() {
        return Err(Report::new(format!("an empty name means no {}", T::NOUN)).into());
    }
    let exact = |item: &Shown<T>| item.object.name() == typed || item.object.long_id() == typed;
    let begins =
        |item: &Shown<T>| item.object.name().starts_with(typed) || item.object.long_id().starts_with(typed);
    let similar = nearest(all.iter().map(|item| item.object.name()), typed);
    let missing = not_found::<T>(typed, similar);
    let (exact, others): (Vec<_>, Vec<_>) = all.into_iter().partition(exact);
    let mut candidates = if exact.is_empty() { others.into_iter().filter(begins).collect() } else { exact };
    match candidates.len() {
        0 => Err(missing),
        1 => candidates.pop().ok_or(missing),
        _ => Err(ambiguous(&candidates, typed)),
    }
}

fn not_found<T: Listed>(typed: &str, similar: Option<String>) -> Failure {
    let report = Report::new(format!("there is no {} {typed:?}", T::NOUN));
    match similar {
        Some(similar) => report.hint(format!("did you mean {similar:?}?")),
        None => report.hint(format!("rikctl get {} lists what there is", T::NOUN.plural())),
    }
    .into()
}

fn ambiguous<T: Listed>(candidates: &[Shown<T>], typed: &str) -> Failure {
    let lines = candidates
        .iter()
        .take(MAX_CANDIDATES)
        .map(|item| format!("{} ({})", item.object.name(), item.object.long_id()));
    let rest = candidates.len().saturating_sub(MAX_CANDIDATES);
    let rest = (rest > 0).then(|| format!("and {rest} more"));
    Report::new(format!("{typed:?} may mean any of {} {}", candidates.len(), T::NOUN.plural()))
        .details(lines.chain(rest))
        .hint("type more of the name, or the id")
        .into()
}

fn nearest<'a>(names: impl Iterator<Item = &'a str>, typed: &str) -> Option<String> {
    let scored = names.map(|name| (strsim::jaro_winkler(name, typed), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then(|| best.1.to_owned())
}

/// Whether no instance has this name, nor one that begins so.
pub(crate) fn is_absent(client: &Client, typed: &str) -> Result<bool, Failure> {
    let all = every::<model::Instance>(client, &[])?;
    Ok(!all.iter().any(|item| item.object.id.starts_with(typed) || item.object.uid.starts_with(typed)))
}
