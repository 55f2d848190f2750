//! The reference page of the manifest, generated from the published schema.
//!
//! ```text
//! types ──▶ schema::document() ──▶ one table for each object ──▶ docs/src/workloads/reference.md
//! ```
//! *Guarantee*: every field of the schema stands on the page, with what the schema says about it and nothing else.

use serde_json::{Map, Value};

use super::{names, schema};

/// What stands before the tables.
const INTRODUCTION: &str = "\
# Reference of the manifest

<!-- Generated from the types in crates/model/src/manifest. To write it anew:
     RIK_BLESS=1 cargo nextest run -p model the_published_reference_is_the_generated_one -->

Every field that a manifest may have. A field that is not required may be left out or be `null`. `rikctl` and the v1
API refuse unknown fields; the v0 API passes over them. The same as a JSON Schema: [schema-v1.json](schema-v1.json).
";

/// The formats of strings that are explained, each with a text that breaks its rule: the refusal is the explanation.
const FORMATS: [(&str, &str); 10] = [
    ("absolute-path", ""),
    ("argument", "\0"),
    ("data-key", ""),
    ("env-name", "="),
    ("image", "//"),
    ("ipv4", ""),
    ("name", ""),
    ("object-name", ""),
    ("relative-path", ""),
    ("url-or-path", ""),
];

/// Named schemas.
type Definitions = Map<String, Value>;

/// The page, as Markdown.
#[must_use]
pub fn page() -> String {
    let document = schema::document();
    let none = Definitions::new();
    let definitions = document.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    let mut page = INTRODUCTION.to_owned();
    page.push_str(&section("Workload", &document));
    for name in reached(&document, definitions) {
        if let Some(schema) = definitions.get(&name) {
            page.push_str(&section(&name, schema));
        }
    }
    page.push_str("\n## Formats\n\n| format | rule |\n|---|---|\n");
    for (format, broken) in FORMATS {
        if let Some(Err(sentence)) = names::rule(format).map(|rule| rule(broken)) {
            page.push_str(&format!("| {format} | {} |\n", cell(&sentence)));
        }
    }
    page
}

/// Names of all definitions that `root` leads to, in the order in which a reader meets them.
fn reached(root: &Value, definitions: &Definitions) -> Vec<String> {
    let mut names = Vec::new();
    refer(root, &mut names);
    let mut next = 0;
    while let Some(schema) = names.get(next).and_then(|name| definitions.get(name)) {
        refer(schema, &mut names);
        next += 1;
    }
    names
}

/// Adds the names that an object's fields refer to and that are not there yet.
fn refer(schema: &Value, names: &mut Vec<String>) {
    for (_, field, _) in fields(schema) {
        let branches = field.get("oneOf").and_then(Value::as_array).into_iter().flatten();
        for branch in branches.chain([field]).flat_map(|branch| [Some(branch), branch.get("items")]).flatten()
        {
            if let Some(name) = reference(branch).filter(|name| !names.iter().any(|known| known == name)) {
                names.push(name.to_owned());
            }
        }
    }
}

/// The name that a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str)?.rsplit('/').next()
}

/// Name, schema, and whether it is required: required fields first, other names of fields last.
fn fields(schema: &Value) -> Vec<(&str, &Value, bool)> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let mut fields: Vec<(&str, &Value, bool)> =
        properties.map(|(name, field)| (name.as_str(), field, required.contains(&name.as_str()))).collect();
    fields.sort_by_key(|(_, field, required)| (field.get("deprecated").is_some(), !required));
    fields
}

/// One definition: its sentence, and a table if it is an object.
fn section(name: &str, schema: &Value) -> String {
    let mut text = format!("\n## {name}\n\n{}\n", description(schema));
    let fields = fields(schema);
    if fields.is_empty() {
        text.push_str(&format!("\nWritten as {}.\n", plain_type(schema)));
        return text;
    }
    text.push_str("\n| field | type | rule | default | meaning |\n|---|---|---|---|---|\n");
    for (field, schema, required) in fields {
        let mut rules: Vec<String> = Vec::new();
        rules.extend(required.then(|| "required".to_owned()));
        rules.extend(bounds(real(schema)));
        let default = schema.get("default").map(|value| format!("`{}`", word(value))).unwrap_or_default();
        let kind = type_of(schema);
        let row = [format!("`{field}`"), kind, rules.join(", "), default, cell(&description(schema))];
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

/// The branch of "this or null" that is not null; of "one or a list", the list.
fn real(schema: &Value) -> &Value {
    let branches = schema.get("oneOf").and_then(Value::as_array);
    let named =
        |branches: &'_ [Value]| branches.iter().rposition(|one| one.get("type") != Some(&"null".into()));
    branches.and_then(|all| named(all).and_then(|at| all.get(at))).unwrap_or(schema)
}

/// The type of a field, with links to what has a section of its own.
fn type_of(schema: &Value) -> String {
    let branches = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let branches: Vec<&Value> = branches.filter(|one| one.get("type") != Some(&"null".into())).collect();
    if !branches.is_empty() {
        let each: Vec<String> = branches.into_iter().map(type_of).collect();
        return each.join(" or ");
    }
    if let Some(name) = reference(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}", type_of(items));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        return format!("map of {}", type_of(values));
    }
    plain_type(schema)
}

/// The type of a value that is no object of ours: the allowed words, or the JSON types.
fn plain_type(schema: &Value) -> String {
    let words =
        |values: &[Value]| values.iter().map(|value| format!("`{}`", word(value))).collect::<Vec<_>>();
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        return words(allowed).join(" or ");
    }
    match schema.get("type") {
        Some(Value::Array(all)) => {
            let all: Vec<String> = all.iter().map(word).filter(|name| name != "null").collect();
            all.join(" or ")
        }
        Some(one) => word(one),
        None => "any value".to_owned(),
    }
}

/// What the schema says about size and form.
fn bounds(schema: &Value) -> Vec<String> {
    let bound = |edge: &str, of: &str| schema.get(format!("{edge}{of}")).filter(|bound| bound.is_number());
    let mut rules = Vec::new();
    for (of, unit) in [("imum", ""), ("Length", " characters"), ("Items", " entries")] {
        match (bound("min", of), bound("max", of)) {
            (Some(least), Some(most)) => rules.push(format!("{least} to {most}{unit}")),
            (None, Some(most)) => rules.push(format!("at most {most}{unit}")),
            (Some(least), None) => rules.push(format!("at least {least}{unit}")),
            (None, None) => {}
        }
    }
    let format = schema.get("format").or_else(|| schema.pointer("/items/format")).and_then(Value::as_str);
    let told = format.filter(|format| FORMATS.iter().any(|(known, _)| known == format));
    rules.extend(told.map(|format| format!("[{format}](#formats)")));
    rules
}

/// The sentence about a schema; that of an optional object stands in its branch.
fn description(schema: &Value) -> String {
    let own = schema.get("description").or_else(|| real(schema).get("description"));
    own.and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
}

/// A value without quotation marks.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Text as the cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_schema_stands_on_the_page() {
        let page = page();
        let definitions = schema::document()["$defs"].as_object().unwrap().clone();
        for (name, schema) in &definitions {
            assert!(page.contains(&format!("\n## {name}\n")), "{name} has no section");
            for (field, ..) in fields(schema) {
                assert!(page.contains(&format!("| `{field}` |")), "{name}.{field} has no row");
            }
        }
    }

    #[test]
    fn a_field_tells_its_type_its_rule_and_its_default() {
        let page = page();
        for row in [
            "| `replicas` | integer | 1 to 1000 | `1` | Expected number of replicas.",
            "| `ports` | [PortSpec](#portspec) or list of [PortSpec](#portspec) | at most 64 entries |  | Ports to publish",
            "| `name` | string | required, 1 to 63 characters, [name](#formats) |",
            "| `memory` | [Memory](#memory) |",
        ] {
            assert!(page.contains(row), "{row}");
        }
    }

    #[test]
    fn the_published_reference_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/workloads/reference.md");
        let generated = page();
        if std::env::var_os("RIK_BLESS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == generated,
            "the published reference is out of date: run this test with RIK_BLESS=1"
        );
    }
}
