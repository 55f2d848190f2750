//! Pages of lists: how many, and where the next one begins.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use model::api::Page;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    limits::{DEFAULT_PAGE, MAX_PAGE},
    problem::{Code, Refusal},
};

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Most objects of the page: 1 to 1000; 500 without it.
    #[param(minimum = 1, maximum = 1000, default = 500)]
    pub(crate) limit: Option<u32>,
    /// The `continue` of the page before.
    #[serde(rename = "continue")]
    pub(crate) after: Option<String>,
}

/// A page size within its bounds.
pub(crate) fn size(asked: Option<u32>) -> Result<usize, Refusal> {
    match asked.unwrap_or(DEFAULT_PAGE) {
        0 => Err(Refusal::new(Code::ParameterInvalid, format!("limit is 0; allowed are 1 to {MAX_PAGE}"))),
        limit => Ok(limit.min(MAX_PAGE) as usize),
    }
}

/// Where a page begins, from the token of the page before.
pub(crate) fn cursor(token: Option<&str>) -> Result<Option<String>, Refusal> {
    let read = |token: &str| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        String::from_utf8(bytes).ok()
    };
    match token {
        None => Ok(None),
        Some(token) => read(token).map(Some).ok_or_else(|| {
            Refusal::new(Code::ParameterInvalid, format!("{token:?} is not the continuation of a page"))
                .hint("give back `continue` of the page before, or leave it out for the first page")
        }),
    }
}

/// The page with its continuation as a token that clients need not look into.
pub(crate) fn sealed<T>(page: Page<T>) -> Page<T> {
    let next = page.next.map(|next| BASE64_URL_SAFE_NO_PAD.encode(next));
    Page { next, ..page }
}
