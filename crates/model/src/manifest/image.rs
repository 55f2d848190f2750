//! What a manifest says about how images are had.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Key of a secret with logins of registries: their form is that of docker's `config.json`.
pub const LOGINS_KEY: &str = ".dockerconfigjson";

/// When a registry is asked for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum PullPolicy {
    /// If the node does not have it.
    #[default]
    IfNotPresent,
    /// Before every instance: the name may mean something else by now. What the node has already is not fetched again.
    Always,
    /// Never: the node has it, or the instance fails.
    Never,
}

/// A secret with logins of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Its name. It has a key `.dockerconfigjson`.
    #[schema(format = "object-name", min_length = 1, max_length = 63)]
    pub name: String,
}
