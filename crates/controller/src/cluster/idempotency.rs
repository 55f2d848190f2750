//! Idempotency keys: a request that is sent again gets the answer of the first time.
//!
//! The answer is committed together with what it answers, so there is no instant at which one exists without the other.

use std::time::Duration;

use jiff::Timestamp;
use model::key;
use serde::{Deserialize, Serialize};
use store::{Expect, Page, Txn};

use super::{Cluster, ClusterError, from_json, to_json};

/// How long an answer is remembered: a day, as is usual for such keys.
pub const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest key.
const MAX_KEY: usize = 128;

/// A key that names one attempt of a client, whatever number of times it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: String,
    request: String,
}

/// A remembered answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Fingerprint of the request.
    request: String,
    /// Ids that were created.
    ids: Vec<String>,
    at: Timestamp,
}

impl IdempotencyKey {
    /// A key as it came in the header, and the request's body.
    ///
    /// # Errors
    /// The key is empty, too long, or has other than visible characters; or contains a slash.
    pub fn new(key: &str, body: &[u8]) -> Result<Self, ClusterError> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(plain) {
            return Err(ClusterError::InvalidRequest {
                detail: format!("an Idempotency-Key has 1 to {MAX_KEY} visible characters and no '/'"),
            });
        }
        Ok(Self { key: key.to_owned(), request: fingerprint(body) })
    }
}

/// A fingerprint of the body: FNV-1a over 64 bits and the length. It tells a reused key from a repeated request; the
/// client that would forge it only deceives itself.
fn fingerprint(body: &[u8]) -> String {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}-{}", body.len())
}

impl Cluster {
    /// What was answered when this request came first, if it came before.
    pub(super) async fn answered(
        &self,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Vec<String>>, ClusterError> {
        let Some(wanted) = key else { return Ok(None) };
        let found = self.store().get(&key::idempotency(&wanted.key)).await.map_err(ClusterError::Read)?;
        let Some(object) = found else { return Ok(None) };
        let answer: Answer = from_json("a remembered answer", &object.value)?;
        if answer.request == wanted.request { Ok(Some(answer.ids)) } else { Err(ClusterError::KeyReused) }
    }

    /// Adds the answer to the transaction that it answers.
    pub(super) fn remember(
        &self,
        txn: Txn,
        key: Option<&IdempotencyKey>,
        ids: &[String],
    ) -> Result<Txn, ClusterError> {
        let Some(used) = key else { return Ok(txn) };
        let answer = Answer { request: used.request.clone(), ids: ids.to_vec(), at: self.now() };
        let element = key::idempotency(&used.key);
        let value = to_json("a remembered answer", &answer)?;
        Ok(txn.guard(element.clone(), Expect::Absent).put(element, value))
    }

    /// Forgets answers that are older than [`KEEP`]. Writes nothing if there are none.
    ///
    /// # Errors
    /// The store could not be read or written.
    pub async fn forget_old_answers(&self) -> Result<(), ClusterError> {
        let now = self.now();
        let mut page = Page::first();
        loop {
            let listing = self.store().list(key::IDEMPOTENCY, page).await.map_err(ClusterError::Read)?;
            let mut txn = self.txn();
            for object in &listing.objects {
                let answer: Answer = from_json("a remembered answer", &object.value)?;
                if now.duration_since(answer.at).unsigned_abs() > KEEP {
                    txn = txn.delete(object.key.clone());
                }
            }
            if !txn.writes.is_empty() {
                self.commit(txn).await?;
            }
            match listing.objects.last() {
                Some(last) if listing.more => page = Page::after(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }
}
