//! Configs and secrets: kept, shown, and given to the instances that name them.
//!
//! They are not in the mirror: they are read from the store when they are needed, so that their values are nowhere
//! else. The log of events and the watch do not tell of them.
//!
//! *Guarantee*: a secret's values leave this file sealed, towards the store, or in what an instance is given.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use daemon::chain;
use jiff::Timestamp;
use model::{
    Revision, WorkloadSpec,
    api::{ObjectBody, ObjectView, Page, Versioned},
    given::{self, Contents, Given, MAX_GIVEN_BYTES, MAX_OBJECT_BYTES, ObjectKind},
    key,
    manifest::names,
};
use serde::{Deserialize, Serialize};
use store::Object;

use super::{Cluster, ClusterError, IdempotencyKey, MAX_TRIES, expect_revision, from_json, to_json};

/// A config or secret as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// Of a secret without its values.
    #[serde(flatten)]
    view: ObjectView,
    /// Values of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl Cluster {
    /// Creates a config or secret.
    ///
    /// # Errors
    /// The name is taken or no name, the values cannot be used, or the store failed.
    pub async fn create_object(
        &self,
        kind: ObjectKind,
        body: ObjectBody,
        key: Option<IdempotencyKey>,
    ) -> Result<Versioned<ObjectView>, ClusterError> {
        if self.answered(key.as_ref()).await?.is_some() {
            return self.object(kind, &body.name).await;
        }
        let element = key::object(kind, &body.name);
        let record = self.record(kind, &body, self.now()).await?;
        let txn = self.txn().create(element, to_json("a config or secret", &record)?);
        let txn = self.remember(txn, key.as_ref(), std::slice::from_ref(&body.name))?;
        match self.commit(txn).await? {
            Some(revision) => {
                tracing::info!(object.kind = %kind, object.name = body.name, "created");
                Ok(Versioned { revision, object: record.view })
            }
            None => Err(ClusterError::NameTaken { kind: kind.word(), name: body.name }),
        }
    }

    /// Creates a config or secret, or replaces all of its values. Instances that were given the old ones keep them.
    /// Also says whether it is new.
    ///
    /// # Errors
    /// It is not at the expected revision, the values cannot be used, or the store failed.
    pub async fn replace_object(
        &self,
        kind: ObjectKind,
        body: ObjectBody,
        expected: Option<Revision>,
    ) -> Result<(Versioned<ObjectView>, bool), ClusterError> {
        let element = key::object(kind, &body.name);
        for _ in 0..MAX_TRIES {
            let old = self.store().get(&element).await.map_err(ClusterError::Read)?;
            let old = old.map(|old| read(&old)).transpose()?;
            let created_at = match (&old, expected) {
                (Some(old), _) => {
                    expect_revision(old, expected)?;
                    old.object.view.created_at
                }
                (None, Some(expected)) => {
                    return Err(ClusterError::RevisionMismatch { expected, found: Revision::ZERO });
                }
                (None, None) => self.now(),
            };
            let record = self.record(kind, &body, created_at).await?;
            let value = to_json("a config or secret", &record)?;
            let txn = match &old {
                Some(old) => self.txn().replace(element.clone(), old.revision, value),
                None => self.txn().create(element.clone(), value),
            };
            if let Some(revision) = self.commit(txn).await? {
                tracing::info!(object.kind = %kind, object.name = body.name, "its values were set");
                return Ok((Versioned { revision, object: record.view }, old.is_none()));
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// A config or secret; of a secret without its values.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn object(&self, kind: ObjectKind, name: &str) -> Result<Versioned<ObjectView>, ClusterError> {
        let found = self.stored(kind, name).await?;
        let found = found.ok_or_else(|| ClusterError::ObjectNotFound { kind, name: name.to_owned() })?;
        Ok(Versioned { revision: found.revision, object: found.object.view })
    }

    /// A page of the configs or secrets, ordered by name and without values.
    ///
    /// # Errors
    /// The store failed.
    pub async fn objects(
        &self,
        kind: ObjectKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Versioned<ObjectView>>, ClusterError> {
        let after = after.map(|name| key::object(kind, name));
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let page = store::Page { after, limit };
        let listing = self.store().list(key::objects(kind), page).await.map_err(ClusterError::Read)?;
        let mut items = Vec::new();
        for object in &listing.objects {
            let Versioned { revision, object: Record { view, .. } } = read(object)?;
            let object = ObjectView { data: BTreeMap::new(), binary_data: BTreeMap::new(), ..view };
            items.push(Versioned { revision, object });
        }
        let next = items.last().filter(|_| listing.more).map(|last| last.object.name.clone());
        Ok(Page { items, revision: listing.revision, next })
    }

    /// Deletes a config or secret. Instances that were given it keep it until they end.
    ///
    /// # Errors
    /// There is none, it is not at the expected revision, or the store failed.
    pub async fn delete_object(
        &self,
        kind: ObjectKind,
        name: &str,
        expected: Option<Revision>,
    ) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let found = self.object(kind, name).await?;
            expect_revision(&found, expected)?;
            let txn = self.txn().remove(key::object(kind, name), found.revision);
            if self.commit(txn).await?.is_some() {
                tracing::info!(object.kind = %kind, object.name = name, "deleted");
                return Ok(());
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// What an instance of this specification is given. What cannot be read becomes the reason that it fails with.
    pub(crate) async fn given(&self, spec: &WorkloadSpec) -> Given {
        let mut given = Given::default();
        for (kind, name) in given::named(spec) {
            match self.contents(kind, &name).await {
                Ok(Some(contents)) => drop(given.objects.insert((kind, name), contents)),
                Ok(None) => {}
                Err(error) => {
                    let problem = format!("{kind} {name:?} cannot be had: {}", chain(&error));
                    return Given { problem: Some(problem), ..Given::default() };
                }
            }
        }
        if given.bytes() > MAX_GIVEN_BYTES {
            let problem = format!(
                "the configs and secrets that it names have {} bytes; at most {MAX_GIVEN_BYTES} are given to one instance",
                given.bytes()
            );
            return Given { problem: Some(problem), ..Given::default() };
        }
        given
    }

    async fn contents(&self, kind: ObjectKind, name: &str) -> Result<Option<Contents>, ClusterError> {
        let Some(Versioned { object: Record { view, sealed }, .. }) = self.stored(kind, name).await? else {
            return Ok(None);
        };
        let body = match sealed {
            Some(sealed) => {
                let plain = self.0.sealer.open(&key::object(kind, name), &sealed);
                let plain = plain.map_err(ClusterError::Seal)?;
                let what = "the values of a secret";
                serde_json::from_slice(&plain).map_err(|source| ClusterError::Json { what, source })?
            }
            None => ObjectBody { name: view.name, data: view.data, binary_data: view.binary_data },
        };
        contents(&body).map(Some)
    }

    async fn stored(&self, kind: ObjectKind, name: &str) -> Result<Option<Versioned<Record>>, ClusterError> {
        if names::object_name(name).is_err() {
            return Ok(None);
        }
        let found = self.store().get(&key::object(kind, name)).await.map_err(ClusterError::Read)?;
        found.map(|object| read(&object)).transpose()
    }

    async fn record(
        &self,
        kind: ObjectKind,
        body: &ObjectBody,
        created_at: Timestamp,
    ) -> Result<Record, ClusterError> {
        let invalid = |detail: String| ClusterError::InvalidRequest { detail };
        names::object_name(&body.name).map_err(|allowed| invalid(format!("{:?}: {allowed}", body.name)))?;
        let contents = contents(body)?;
        let size = given::bytes(&contents);
        if size > MAX_OBJECT_BYTES {
            return Err(invalid(format!(
                "keys and values have {size} bytes; a {kind} has at most {MAX_OBJECT_BYTES}"
            )));
        }
        let keys = contents.iter().map(|(key, value)| (key.clone(), value.len() as u64)).collect();
        let view = ObjectView { name: body.name.clone(), created_at, keys, ..ObjectView::default() };
        Ok(match kind {
            ObjectKind::Config => {
                let (data, binary_data) = (body.data.clone(), body.binary_data.clone());
                Record { view: ObjectView { data, binary_data, ..view }, sealed: None }
            }
            ObjectKind::Secret => Record { view, sealed: Some(self.sealed(body).await?) },
        })
    }

    async fn sealed(&self, body: &ObjectBody) -> Result<String, ClusterError> {
        let element = key::object(ObjectKind::Secret, &body.name);
        let page = store::Page { after: None, limit: 1 };
        let others = self.store().list(key::SECRETS, page).await.map_err(ClusterError::Read)?;
        let plain = to_json("the values of a secret", body)?;
        let sealed = self.0.sealer.seal(&element, plain.as_bytes(), others.objects.is_empty());
        sealed.map_err(ClusterError::Seal)
    }
}

fn read(object: &Object) -> Result<Versioned<Record>, ClusterError> {
    Ok(Versioned { revision: object.revision, object: from_json("a config or secret", &object.value)? })
}

/// Keys and values of a body.
fn contents(body: &ObjectBody) -> Result<Contents, ClusterError> {
    let invalid = |detail: String| ClusterError::InvalidRequest { detail };
    let mut contents = Contents::new();
    for (key, value) in &body.data {
        contents.insert(key.clone(), value.as_bytes().to_vec());
    }
    for (key, value) in &body.binary_data {
        // The library's own sentence would repeat a part of the value.
        let bytes = BASE64_STANDARD.decode(value);
        let bytes = bytes.map_err(|_| invalid(format!("the value of {key:?} in binaryData is no base64")))?;
        if contents.insert(key.clone(), bytes).is_some() {
            return Err(invalid(format!("the key {key:?} stands in data and in binaryData")));
        }
    }
    let unfit =
        contents.keys().find_map(|key| names::data_key(key).err().map(|why| format!("{key:?}: {why}")));
    unfit.map_or(Ok(contents), |detail| Err(invalid(detail)))
}
