//! The schema check: holds a document tree against the generated schema and collects every fault.
//!
//! It knows exactly the keywords that our own types generate (a test fails when a new one appears), and says for each
//! fault where it stands, what was found and what is allowed. Formats of our own are the rules of [`super::names`].

use serde_json::Value;

use super::{
    names,
    read::{Fault, Strictness},
    tree::{Branch, Tree},
};

/// Most faults that are reported for one document; more would not be read.
pub const MAX_FAULTS: usize = 100;
/// Longest piece of a found value that is repeated in a message, in characters.
const MAX_QUOTED: usize = 40;

/// Holds `tree` against the schema named `name` in `schemas` (name → schema).
#[must_use]
pub fn check(tree: &Tree, name: &str, schemas: &Value, strictness: Strictness) -> Vec<Fault> {
    let mut check = Check { schemas, strictness, faults: Vec::new() };
    match schemas.get(name) {
        Some(schema) => check.visit(tree, schema, String::new()),
        None => check.faults.push(Fault::document(format!("no schema is named {name}"))),
    }
    check.faults
}

struct Check<'a> {
    schemas: &'a Value,
    strictness: Strictness,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    fn fault(&mut self, tree: &Tree, path: &str, message: String) {
        if !self.full() {
            self.faults.push(Fault { path: path.to_owned(), line: tree.line, message });
        }
    }

    /// Follows `$ref`, and the "this or null" that an optional object generates.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let name = target.rsplit('/').next().unwrap_or(target);
            return self.schemas.get(name).map_or(schema, |found| self.resolve(found));
        }
        let branches = schema.get("oneOf").and_then(Value::as_array);
        let real = branches.and_then(|all| all.iter().find(|one| one.get("type") != Some(&"null".into())));
        real.map_or(schema, |one| self.resolve(one))
    }

    fn full(&self) -> bool {
        self.faults.len() >= MAX_FAULTS
    }

    fn visit(&mut self, tree: &Tree, schema: &'a Value, path: String) {
        if self.full() {
            return;
        }
        let schema = self.resolve(schema);
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            self.check_enum(tree, allowed, &path);
            return;
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|name| is_type(tree, name)) {
            self.fault(tree, &path, format!("found {}; allowed is {}", found(tree), types.join(" or ")));
            return;
        }
        match &tree.value {
            Branch::Map(entries) => self.check_map(tree, entries, schema, &path),
            Branch::List(items) => {
                self.check_count(tree, (items.len(), "Items", "entries"), schema, &path);
                if let Some(item_schema) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.visit(item, item_schema, format!("{path}[{index}]"));
                    }
                }
                if let Some(format) = schema.get("format") {
                    let texts = serde_json::json!({ "type": "string", "format": format });
                    for (index, item) in items.iter().enumerate() {
                        self.check_text_of(item, &texts, &format!("{path}[{index}]"));
                    }
                }
            }
            Branch::Number(number) => {
                self.check_number(tree, number, schema, &path);
                self.check_text_of(tree, schema, &path);
            }
            Branch::Text(_) => self.check_text_of(tree, schema, &path),
            Branch::Null | Branch::Bool(_) => {}
        }
    }

    fn check_map(&mut self, tree: &Tree, entries: &[(String, Tree)], schema: &'a Value, path: &str) {
        let nothing = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if tree.get(name).is_none_or(|value| value.value == Branch::Null) {
                self.fault(tree, &join(path, name), "is required and missing".to_owned());
            }
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            for (key, value) in entries {
                self.visit(value, values, join(path, key));
            }
            return;
        }
        for (key, value) in entries {
            if self.full() {
                return;
            }
            match properties.unwrap_or(&nothing).get(key) {
                Some(_) if value.value == Branch::Null => {}
                Some(_) => {
                    if let Some(known) = properties.and_then(|all| all.get(key)) {
                        self.visit(value, known, join(path, key));
                    }
                }
                None if self.strictness == Strictness::Lenient => {}
                None => {
                    let names = properties.unwrap_or(&nothing).keys().map(String::as_str);
                    let message = unknown_key(key, names);
                    self.fault(value, &join(path, key), message);
                }
            }
        }
    }

    fn check_enum(&mut self, tree: &Tree, allowed: &[Value], path: &str) {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let text = match &tree.value {
            Branch::Text(text) => text.as_str(),
            Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::List(_) | Branch::Map(_) => "",
        };
        // Protocols are written both ways in manifests that exist.
        let known = names.contains(&text)
            || (names.contains(&"TCP") && names.contains(&text.to_uppercase().as_str()));
        if !known {
            let hint = nearest(text, names.iter().copied()).map(|near| format!("; did you mean {near:?}?"));
            let message = format!(
                "found {}; allowed is {}{}",
                found(tree),
                names.join(" or "),
                hint.unwrap_or_default()
            );
            self.fault(tree, path, message);
        }
    }

    fn check_number(&mut self, tree: &Tree, number: &serde_json::Number, schema: &Value, path: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
            let allowed = match (least, most) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("{least} or more"),
                (None, Some(most)) => format!("{most} or less"),
                (None, None) => String::new(),
            };
            self.fault(tree, path, format!("found {number}; allowed is {allowed}"));
        }
    }

    fn check_text_of(&mut self, tree: &Tree, schema: &Value, path: &str) {
        let text = match &tree.value {
            Branch::Text(text) => text.clone(),
            Branch::Number(number) => number.to_string(),
            Branch::Null | Branch::Bool(_) | Branch::List(_) | Branch::Map(_) => return,
        };
        let before = self.faults.len();
        self.check_count(tree, (text.chars().count(), "Length", "characters"), schema, path);
        let rule = schema.get("format").and_then(Value::as_str).and_then(names::rule);
        if self.faults.len() == before
            && let Some(Err(allowed)) = rule.map(|rule| rule(&text))
        {
            self.fault(tree, path, format!("found {}; {allowed}", found(tree)));
        }
    }

    /// Holds a count against `min…` and `max…`; it comes with the ending of those keywords and its unit.
    fn check_count(&mut self, tree: &Tree, count: (usize, &str, &str), schema: &Value, path: &str) {
        let (count, ending, unit) = count;
        let bound = |edge: &str| {
            let bound = schema.get(format!("{edge}{ending}")).and_then(Value::as_u64);
            bound.and_then(|bound| usize::try_from(bound).ok())
        };
        let (least, most) = (bound("min").unwrap_or(0), bound("max").unwrap_or(usize::MAX));
        if count < least || count > most {
            self.fault(tree, path, format!("has {count} {unit}; allowed are {least} to {most}"));
        }
    }
}

/// The sentence about a key that nobody knows.
fn unknown_key<'n>(key: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    match nearest(key, names.clone()) {
        Some(near) => format!("is unknown; did you mean {near:?}?"),
        None => format!("is unknown; allowed are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// The name that somebody who wrote `text` most likely meant, if one is close.
pub fn nearest<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let wanted: String = plain(text).chars().take(MAX_QUOTED).collect();
    let scored = names.map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name));
    scored.filter(|(distance, name)| *distance <= name.len().div_ceil(3)).min().map(|(_, name)| name)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect()
        }
        _ => Vec::new(),
    }
}

fn is_type(tree: &Tree, name: &str) -> bool {
    match &tree.value {
        Branch::Null => name == "null",
        Branch::Bool(_) => name == "boolean",
        Branch::Number(number) => {
            name == "number" || (name == "integer" && (number.is_i64() || number.is_u64()))
        }
        Branch::Text(_) => name == "string",
        Branch::List(_) => name == "array",
        Branch::Map(_) => name == "object",
    }
}

/// What stands there, short enough for a message.
fn found(tree: &Tree) -> String {
    match &tree.value {
        Branch::Null => "nothing".to_owned(),
        Branch::Bool(value) => value.to_string(),
        Branch::Number(number) => format!("the number {number}"),
        Branch::Text(text) if text.chars().count() > MAX_QUOTED => {
            format!("{:?}…", text.chars().take(MAX_QUOTED).collect::<String>())
        }
        Branch::Text(text) => format!("{text:?}"),
        Branch::List(_) => "a list".to_owned(),
        Branch::Map(_) => "an object".to_owned(),
    }
}
