//! Keys of the store: the documented `element_id`s.
//!
//! `/workload/pods/default/web`, `/instance/function/default/x`, `/node/n1`. Names are one segment each and are
//! compared whole, never by prefix.

use crate::{given::ObjectKind, manifest::Kind};

/// The only namespace there is; it is part of the documented ids.
pub const NAMESPACE: &str = "default";
/// Prefix of every workload.
pub const WORKLOADS: &str = "/workload/";
/// Prefix of every instance.
pub const INSTANCES: &str = "/instance/";
/// Prefix of every node.
pub const NODES: &str = "/node/";
/// Prefix of remembered answers to requests that carried an `Idempotency-Key`.
pub const IDEMPOTENCY: &str = "/idempotency/";
/// Prefix of tenants, which the v0 API keeps as opaque values.
pub const TENANTS: &str = "/tenant/";
/// Prefix of every config.
pub const CONFIGS: &str = "/config/default/";
/// Prefix of every secret.
pub const SECRETS: &str = "/secret/default/";
/// The cluster's own record.
pub const CLUSTER: &str = "/cluster/self";

/// The store's key of a workload.
#[must_use]
pub fn workload(kind: Kind, name: &str) -> String {
    format!("{WORKLOADS}{}/{NAMESPACE}/{name}", kind.segment())
}

/// The store's key of an instance.
#[must_use]
pub fn instance(kind: Kind, id: &str) -> String {
    format!("{INSTANCES}{}/{NAMESPACE}/{id}", kind.segment())
}

/// The store's key of a node.
#[must_use]
pub fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

/// The prefix of configs or of secrets.
#[must_use]
pub const fn objects(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Config => CONFIGS,
        ObjectKind::Secret => SECRETS,
    }
}

/// The store's key of a config or secret.
#[must_use]
pub fn object(kind: ObjectKind, name: &str) -> String {
    format!("{}{name}", objects(kind))
}

/// The store's key of a remembered answer.
#[must_use]
pub fn idempotency(key: &str) -> String {
    format!("{IDEMPOTENCY}{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_documented_element_ids() {
        assert_eq!(workload(Kind::Pod, "web"), "/workload/pods/default/web");
        assert_eq!(instance(Kind::Function, "x"), "/instance/function/default/x");
    }
}
