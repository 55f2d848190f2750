//! Lists as one JSON array, however long: a short one at once, a long one page by page as the client takes it.

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use futures::stream;
use http::header;
use model::api::Page;
use serde::Serialize;

/// Objects that are written at once.
const PAGE: usize = 500;

/// An array of what `page` (called with the continuation and the size) tells as JSON texts, at most `limit` of them,
/// between `around`.
pub(super) fn array<F>(limit: Option<usize>, around: (&'static str, &'static str), page: F) -> Response
where
    F: Fn(Option<&str>, usize) -> Page<String> + Send + 'static,
{
    let (open, close) = around;
    let mut left = limit.unwrap_or(usize::MAX);
    let first = page(None, left.min(PAGE));
    left -= first.items.len().min(left);
    let text = format!("{open}{}", first.items.join(","));
    let head = [(header::CONTENT_TYPE, "application/json")];
    let Some(next) = first.next.filter(|_| left > 0) else {
        return (head, text + close).into_response();
    };
    let rest = stream::unfold(Some((next, left)), move |state| {
        let piece = state.map(|(after, left)| {
            let found = page(Some(&after), left.min(PAGE));
            let left = left - found.items.len().min(left);
            let text: String = found.items.iter().flat_map(|item| [",", item]).collect();
            match found.next.filter(|_| left > 0) {
                Some(next) => (text, Some((next, left))),
                None => (text + close, None),
            }
        });
        std::future::ready(piece)
    });
    let pieces = futures::StreamExt::chain(stream::iter([text]), rest);
    let pieces =
        futures::StreamExt::map(pieces, |piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
    (head, Body::from_stream(pieces)).into_response()
}

/// A value as JSON text. Our views are plain structs, which serialize always.
pub(super) fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use model::Revision;

    use super::*;

    async fn numbers(count: usize, limit: Option<usize>) -> Vec<usize> {
        let response = array(limit, ("[", "]"), move |after, size| {
            let start = after.map_or(0, |after| after.parse::<usize>().unwrap() + 1);
            let items: Vec<_> = (start..count).take(size).map(|number| number.to_string()).collect();
            let next = items.last().filter(|_| start + items.len() < count).cloned();
            Page { items, revision: Revision::ZERO, next }
        });
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_list_is_whole_and_in_order_whatever_its_length() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7] {
            assert_eq!(numbers(count, None).await, (0..count).collect::<Vec<_>>());
        }
        for limit in [0, 1, PAGE, PAGE + 1, 2 * PAGE, 9 * PAGE] {
            assert_eq!(numbers(3 * PAGE, Some(limit)).await.len(), limit.min(3 * PAGE));
        }
    }
}
