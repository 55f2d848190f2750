//! What a manifest says about configs and secrets: variables and files whose values stand elsewhere.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where the value of a variable comes from. Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvSource {
    /// A key of a config; also written `configMapKeyRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_key_ref: Option<KeyRef>,
    /// A key of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}

/// A key of a config or secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the config or secret.
    #[schema(format = "object-name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Which of its keys.
    #[schema(format = "data-key", min_length = 1, max_length = 253)]
    pub key: String,
    /// Whether the container starts without it, if there is no such object or key.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub optional: bool,
}

/// Every key of a config or a secret as a variable. Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// What stands before each key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(format = "argument", max_length = 256)]
    pub prefix: String,
    /// A config; also written `configMapRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_ref: Option<ObjectRef>,
    /// A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,
}

/// A config or secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its name.
    #[schema(format = "object-name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Whether the container starts without it.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub optional: bool,
}

/// A config or a secret as files, one for each key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectVolume {
    /// Name of the config or secret.
    #[schema(format = "object-name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Only these keys. Without it, every key is a file of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub items: Vec<KeyFile>,
    /// Whether the container starts without it, if there is no such object or key.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub optional: bool,
}

/// One key as a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyFile {
    /// The key.
    #[schema(format = "data-key", min_length = 1, max_length = 253)]
    pub key: String,
    /// Path of the file below the volume.
    #[schema(format = "relative-path", min_length = 1, max_length = 1024)]
    pub path: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
const fn is_false(value: &bool) -> bool {
    !*value
}
