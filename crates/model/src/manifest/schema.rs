//! The published JSON Schema, generated from the manifest's types.

use std::sync::OnceLock;

use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{Workload, tree::ALIASES};

/// Where the schema is published.
pub const SCHEMA_ID: &str = "https://rik-org.github.io/rik/workloads/schema-v1.json";

/// Every schema of the manifest by name, as generated: what [`super::check`] works with.
#[must_use]
pub fn schemas() -> &'static Value {
    static SCHEMAS: OnceLock<Value> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let mut all: Vec<(String, RefOr<Schema>)> = Vec::new();
        Workload::schemas(&mut all);
        all.push((Workload::name().into_owned(), <Workload as utoipa::PartialSchema>::schema()));
        all.into_iter()
            .map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or(Value::Null)))
            .collect()
    })
}

/// The JSON Schema (draft 2020-12) of a workload, as one self-contained document.
#[must_use]
pub fn document() -> Value {
    let mut all = schemas().clone();
    if let Value::Object(named) = &mut all {
        named.values_mut().for_each(publish);
    }
    let mut root = all.as_object_mut().and_then(|named| named.remove("Workload")).unwrap_or(Value::Null);
    if let Value::Object(root) = &mut root {
        root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("$id".to_owned(), json!(SCHEMA_ID));
        root.insert("title".to_owned(), json!("Workload-v1"));
        // Which of the two is required follows from the kind; both at once were never possible.
        root.insert(
            "oneOf".to_owned(),
            json!([
                {"properties": {"kind": {"const": "Pod"}, "spec": {"required": ["containers"]}}},
                {"properties": {"kind": {"const": "Function"}, "spec": {"required": ["function"]}}},
            ]),
        );
        root.insert("$defs".to_owned(), all);
    }
    root
}

/// Turns a generated schema into a published one: local references, no unknown keys, the accepted spellings.
fn publish(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replace("#/components/schemas/", "#/$defs/");
            }
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                if let Some(list) = properties.get_mut("ports") {
                    let one = list.get("items").cloned().unwrap_or(Value::Null);
                    let description = list.get("description").cloned().unwrap_or(Value::Null);
                    *list = json!({ "description": description, "oneOf": [one, list.clone()] });
                }
                for (alias, name) in ALIASES {
                    if let Some(mut meant) = properties.get(name).cloned() {
                        if let Value::Object(meant) = &mut meant {
                            meant.insert(
                                "description".to_owned(),
                                json!(format!("Another name of `{name}`.")),
                            );
                            meant.insert("deprecated".to_owned(), json!(true));
                        }
                        properties.insert(alias.to_owned(), meant);
                    }
                }
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            fields.values_mut().for_each(publish);
        }
        Value::Array(items) => items.iter_mut().for_each(publish),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checker ignores what it does not know, so nothing unknown may appear.
    #[test]
    fn the_checker_knows_every_generated_keyword() {
        const KNOWN: [&str; 20] = [
            "$ref",
            "oneOf",
            "type",
            "enum",
            "properties",
            "required",
            "additionalProperties",
            "propertyNames",
            "items",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "maxProperties",
            "format",
            "description",
            "default",
            "title",
        ];
        fn visit(schema: &Value, unknown: &mut Vec<String>) {
            let Value::Object(fields) = schema else { return };
            for (key, value) in fields {
                match key.as_str() {
                    "properties" => {
                        value.as_object().unwrap().values().for_each(|below| visit(below, unknown))
                    }
                    "items" | "additionalProperties" => visit(value, unknown),
                    "oneOf" => value.as_array().unwrap().iter().for_each(|below| visit(below, unknown)),
                    known if KNOWN.contains(&known) => {}
                    other => unknown.push(other.to_owned()),
                }
            }
        }
        let mut unknown = Vec::new();
        schemas().as_object().unwrap().values().for_each(|schema| visit(schema, &mut unknown));
        assert_eq!(unknown, Vec::<String>::new());
    }

    #[test]
    fn the_published_schema_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/workloads/schema-v1.json");
        let generated = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
        if std::env::var_os("RIK_BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &generated).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == generated,
            "the published schema is out of date: run this test with RIK_BLESS=1"
        );
    }
}
