//! Objects and pages of them, and what a prefix means.

use std::sync::Arc;

use model::Revision;

/// Objects in one page at most: the API's largest page, and a bound on how long one read holds its connection.
pub const MAX_PAGE: u32 = 1_000;

/// Bytes of values in one page at most (a page always has room for one object): a gRPC message holds 4 MiB.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key, such as `/workload/pods/default/web`.
    pub key: String,
    /// Its value, a JSON text that the store does not look into.
    pub value: Arc<str>,
    /// The revision that wrote this value.
    pub revision: Revision,
    /// The revision that created the object. Deleting and creating again makes a new object.
    pub created: Revision,
}

/// Which page of a list to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The key to start after, exclusive; `None` for the first page.
    pub after: Option<String>,
    /// Objects at most; kept between 1 and [`MAX_PAGE`].
    pub limit: u32,
}

impl Page {
    /// The first page, of the largest size.
    #[must_use]
    pub const fn first() -> Self {
        Self { after: None, limit: MAX_PAGE }
    }

    /// The page after this key, of the largest size.
    #[must_use]
    pub fn after(key: impl Into<String>) -> Self {
        Self { after: Some(key.into()), limit: MAX_PAGE }
    }

    /// The same page with at most `limit` objects.
    #[must_use]
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// The number of objects that this page may hold.
    pub(crate) fn size(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE) as usize
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The objects, ordered by key.
    pub objects: Vec<Object>,
    /// The newest revision when the page was read.
    pub revision: Revision,
    /// Whether further objects follow: read on with [`Page::after`] the last key.
    pub more: bool,
}

/// Gathers one page under both of its bounds.
pub(crate) struct PageBuilder {
    objects: Vec<Object>,
    size: usize,
    bytes: usize,
}

impl PageBuilder {
    pub(crate) fn new(page: &Page) -> Self {
        Self { objects: Vec::new(), size: page.size(), bytes: 0 }
    }

    /// Whether an object with a value of this many bytes still fits.
    pub(crate) fn fits(&self, value_bytes: usize) -> bool {
        self.objects.is_empty()
            || (self.objects.len() < self.size && self.bytes + value_bytes <= MAX_PAGE_BYTES)
    }

    pub(crate) fn push(&mut self, object: Object) {
        self.bytes += object.value.len();
        self.objects.push(object);
    }

    pub(crate) fn finish(self, revision: Revision, more: bool) -> Listing {
        Listing { objects: self.objects, revision, more }
    }
}

/// The keys with one prefix, as a range: `low` inclusive, `high` exclusive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) low: String,
    pub(crate) high: String,
}

impl KeyRange {
    /// The range of a prefix, or `None` if no key can have it. Every key begins with a slash (see `txn`), so a prefix
    /// always has a successor.
    pub(crate) fn of(prefix: &str) -> Option<Self> {
        let low = if prefix.is_empty() { "/" } else { prefix };
        if !low.starts_with('/') {
            return None;
        }
        Some(Self { low: low.to_owned(), high: successor(low)? })
    }
}

/// The smallest text that is greater than every text with this prefix. UTF-8 sorts by bytes as it does by characters.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        if let Some(next) = next_char(last) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn next_char(character: char) -> Option<char> {
    match character {
        char::MAX => None,
        // The gap of the surrogates, which are not characters.
        '\u{d7ff}' => Some('\u{e000}'),
        _ => char::from_u32(u32::from(character) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_prefix_means_every_key() {
        assert_eq!(KeyRange::of(""), Some(KeyRange { low: "/".into(), high: "0".into() }));
    }

    #[test]
    fn prefix_without_a_slash_matches_nothing() {
        assert_eq!(KeyRange::of("workload"), None);
    }

    proptest! {
        #[test]
        fn range_holds_exactly_the_keys_with_the_prefix(prefix in "/\\PC{0,3}", key in "/\\PC{0,5}") {
            let range = KeyRange::of(&prefix).unwrap();
            prop_assert_eq!(key.starts_with(&prefix), range.low <= key && key < range.high);
        }

        #[test]
        fn successor_follows_every_extension(prefix in "/[a\u{d7ff}\u{10ffff}]{0,3}", rest in "\\PC{0,3}") {
            let range = KeyRange::of(&prefix).unwrap();
            let key = format!("{prefix}{rest}");
            prop_assert!(range.low <= key && key < range.high);
        }
    }
}
