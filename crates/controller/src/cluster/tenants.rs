//! Tenants: opaque values that the v0 API keeps for its clients. Nothing else in RIK looks at them.

use model::key;
use store::Page;

use super::{Cluster, ClusterError};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id, a uuid.
    pub id: String,
    /// Its value, JSON.
    pub value: serde_json::Value,
}

/// Most tenants: the route has no pages.
const MAX_TENANTS: usize = 1_000;

impl Cluster {
    /// Every tenant.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, ClusterError> {
        let listing = self.store().list(key::TENANTS, Page::first()).await.map_err(ClusterError::Read)?;
        let tenants = listing.objects.iter().map(|object| Tenant {
            id: object.key.trim_start_matches(key::TENANTS).to_owned(),
            value: serde_json::from_str(&object.value).unwrap_or(serde_json::Value::Null),
        });
        Ok(tenants.collect())
    }

    /// Keeps a tenant; returns its id.
    ///
    /// # Errors
    /// There are too many, or the store failed.
    pub async fn create_tenant(&self, value: &serde_json::Value) -> Result<String, ClusterError> {
        if self.tenants().await?.len() >= MAX_TENANTS {
            return Err(ClusterError::TooMany {
                what: "another tenant was asked for".to_owned(),
                limit: MAX_TENANTS,
            });
        }
        let id = self.0.ids.uuid();
        self.commit(self.txn().create(format!("{}{id}", key::TENANTS), value.to_string())).await?;
        Ok(id)
    }

    /// Forgets a tenant.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn delete_tenant(&self, id: &str) -> Result<(), ClusterError> {
        let element = format!("{}{id}", key::TENANTS);
        let not_found = || ClusterError::TenantNotFound { id: id.to_owned() };
        if id.is_empty() || id.contains('/') {
            return Err(not_found());
        }
        let found = self.store().get(&element).await.map_err(ClusterError::Read)?.ok_or_else(not_found)?;
        self.commit(self.txn().remove(element, found.revision)).await?.map(drop).ok_or_else(not_found)
    }
}
