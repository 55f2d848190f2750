//! The document tree: JSON or YAML text as nested values, each with the line it stands on.
//!
//! ```text
//! text ──parse──▶ Tree ──canonical──▶ Tree ──to_json──▶ serde_json::Value ──▶ Workload
//!                                      └── check: every fault, with its line
//! ```
//! Aliases of field names and the "one object or a list" form end here, so that everything behind it knows one form.
//!
//! *Guarantees*: bounded size, depth and alias expansion; a key that stands twice is refused; numbers are finite.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::read::Fault;

/// Largest document: far above any sensible manifest, small enough to be parsed without a thought.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Deepest nesting: a manifest needs eight levels. The parsers recurse, so this also bounds the stack that they take.
pub const MAX_DEPTH: usize = 32;

/// A value and the line (from 1) on which it stands; line 0 is unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The value.
    pub value: Branch,
    /// Its line, from 1; 0 if unknown.
    pub line: u32,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Keys and values, in the order of the document.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The value of a key, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Branch::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::Text(_) | Branch::List(_) => None,
        }
    }

    /// The tree as a JSON value.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.value {
            Branch::Null => Value::Null,
            Branch::Bool(value) => Value::Bool(*value),
            Branch::Number(value) => Value::Number(value.clone()),
            Branch::Text(value) => Value::String(value.clone()),
            Branch::List(items) => items.iter().map(Self::to_json).collect(),
            Branch::Map(entries) => {
                entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Branch::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Branch::Map(entries) => entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::Text(_) => 0,
        }
    }

    fn repeated_key(&self) -> Option<(&str, u32)> {
        match &self.value {
            Branch::List(items) => items.iter().find_map(Self::repeated_key),
            Branch::Map(entries) => {
                let mut seen = std::collections::BTreeSet::new();
                let twice = entries.iter().find(|(key, _)| !seen.insert(key.as_str()));
                twice
                    .map(|(key, value)| (key.as_str(), value.line))
                    .or_else(|| entries.iter().find_map(|(_, value)| value.repeated_key()))
            }
            Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::Text(_) => None,
        }
    }
}

/// Reads JSON or YAML. Text that starts with `{` or `[` is held to the rules of JSON.
///
/// # Errors
/// One fault: text that is not a document has no second one worth telling.
pub fn parse(text: &str) -> Result<Tree, Fault> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(Fault::document(format!(
            "{} bytes is too large for a manifest; at most {MAX_DOCUMENT_BYTES} are allowed",
            text.len()
        )));
    }
    let too_deep = || Fault::document(format!("nested deeper than the {MAX_DEPTH} levels that are allowed"));
    let json = text.trim_start().starts_with(['{', '[']);
    if json && brackets_deep(text) > MAX_DEPTH {
        return Err(too_deep());
    }
    let tree = if json { parse_json(text)? } else { parse_yaml(text)? };
    if let Some((key, line)) = tree.repeated_key() {
        return Err(Fault {
            line,
            ..Fault::document(format!("the key {key:?} stands twice; it may stand once"))
        });
    }
    if tree.depth() > MAX_DEPTH {
        return Err(too_deep());
    }
    Ok(tree)
}

/// How deep brackets stand in each other, outside of strings: known before a parser has to follow them.
fn brackets_deep(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn parse_json(text: &str) -> Result<Tree, Fault> {
    let plain = serde_json::from_str::<Plain>(text).map_err(|error| Fault {
        line: u32::try_from(error.line()).unwrap_or(0),
        ..Fault::document(format!("not valid JSON: {error}"))
    })?;
    // The YAML parser knows the lines; where it disagrees with JSON's rules, the lines are what is missing.
    Ok(parse_yaml(text).ok().filter(|tree| tree.to_json() == plain.0.to_json()).unwrap_or(plain.0))
}

fn parse_yaml(text: &str) -> Result<Tree, Fault> {
    let budget = serde_saphyr::budget! { max_depth: MAX_DEPTH + 2, max_nodes: 100_000, max_events: 300_000, max_anchors: 100, max_aliases: 100 };
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false, budget: budget };
    serde_saphyr::from_str_with_options::<Placed>(text, options).map(|placed| placed.0).map_err(|error| {
        let line = error.location().and_then(|place| u32::try_from(place.line()).ok()).unwrap_or(0);
        let said = error.to_string();
        let said = said.lines().next().unwrap_or_default().to_owned();
        Fault { line, ..Fault::document(format!("not valid YAML: {said}")) }
    })
}

/// A tree whose lines are known.
struct Placed(Tree);

impl<'de> Deserialize<'de> for Placed {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Inner<Self>>::deserialize(source)?;
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(0);
        Ok(Self(Tree { value: spanned.value.0, line }))
    }
}

/// A tree without lines.
struct Plain(Tree);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Ok(Self(Tree { value: Inner::<Self>::deserialize(source)?.0, line: 0 }))
    }
}

/// What both kinds of tree have in common; `T` reads what is nested.
struct Inner<T>(Branch, std::marker::PhantomData<T>);

impl<T> Inner<T> {
    const fn new(branch: Branch) -> Self {
        Self(branch, std::marker::PhantomData)
    }
}

trait Node: for<'de> Deserialize<'de> {
    fn into_tree(self) -> Tree;
}

impl Node for Placed {
    fn into_tree(self) -> Tree {
        self.0
    }
}

impl Node for Plain {
    fn into_tree(self) -> Tree {
        self.0
    }
}

impl<'de, T: Node> Deserialize<'de> for Inner<T> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

struct Visitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Node> de::Visitor<'de> for Visitor<T> {
    type Value = Inner<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        Inner::deserialize(source)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Number(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Number(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        let number =
            serde_json::Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Inner::new(Branch::Number(number)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Inner::new(Branch::Text(value.to_owned())))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = source.next_element::<T>()? {
            items.push(item.into_tree());
        }
        Ok(Inner::new(Branch::List(items)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = source.next_entry::<String, T>()? {
            entries.push((key, value.into_tree()));
        }
        Ok(Inner::new(Branch::Map(entries)))
    }
}

/// Other spellings that are accepted, with the field that they mean. Both spellings at once are a repeated key.
pub const ALIASES: [(&str, &str); 5] = [
    ("network", "ports"),
    ("target_port", "targetPort"),
    ("configMap", "config"),
    ("configMapRef", "configRef"),
    ("configMapKeyRef", "configKeyRef"),
];

/// Brings the accepted spellings to one: aliases become the field's name, a single `ports` object becomes a list.
///
/// # Errors
/// A field that is given under both of its names.
pub fn canonical(mut tree: Tree) -> Result<Tree, Fault> {
    canonicalize(&mut tree);
    match tree.repeated_key() {
        Some((key, line)) => {
            Err(Fault { line, ..Fault::document(format!("{key:?} is given twice, under two of its names")) })
        }
        None => Ok(tree),
    }
}

fn canonicalize(tree: &mut Tree) {
    let Branch::Map(entries) = &mut tree.value else {
        if let Branch::List(items) = &mut tree.value {
            items.iter_mut().for_each(canonicalize);
        }
        return;
    };
    for (key, value) in entries {
        // Below these the user's own keys begin: they are data.
        if matches!(key.as_str(), "labels" | "nodeSelector") {
            continue;
        }
        if key == "env" {
            sources(value).for_each(canonicalize);
            continue;
        }
        if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| alias == key) {
            (*name).clone_into(key);
        }
        if key == "ports" && matches!(value.value, Branch::Map(_)) {
            let line = value.line;
            let one = std::mem::replace(value, Tree { value: Branch::Null, line });
            value.value = Branch::List(vec![one]);
        }
        canonicalize(value);
    }
}

/// Where the values of variables come from: the only part of `env` whose keys are ours.
fn sources(env: &mut Tree) -> impl Iterator<Item = &mut Tree> {
    let items = match &mut env.value {
        Branch::List(items) => items.as_mut_slice(),
        Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::Text(_) | Branch::Map(_) => &mut [],
    };
    let entries = items.iter_mut().filter_map(|item| match &mut item.value {
        Branch::Map(entries) => Some(entries),
        Branch::Null | Branch::Bool(_) | Branch::Number(_) | Branch::Text(_) | Branch::List(_) => None,
    });
    entries.flatten().filter(|(key, _)| key == "valueFrom").map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_give_the_same_tree_with_lines() {
        let json = parse("{\n  \"kind\": \"Pod\",\n  \"spec\": {\"a\": [1, 2.5, null]}\n}").unwrap();
        let yaml = parse("kind: Pod\nspec:\n  a: [1, 2.5, null]\n").unwrap();
        assert_eq!(json.to_json(), yaml.to_json());
        assert_eq!(json.get("spec").unwrap().line, 3);
        assert_eq!(yaml.get("kind").unwrap().line, 1);
    }

    #[test]
    fn words_that_older_yaml_took_for_booleans_are_words() {
        let tree = parse("name: no\nother: 'yes'\n").unwrap();
        assert_eq!(tree.get("name").unwrap().value, Branch::Text("no".to_owned()));
    }

    #[test]
    fn bombs_and_twice_given_keys_are_refused() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        let large = format!("a: {}", "x".repeat(MAX_DOCUMENT_BYTES));
        for text in [
            deep.as_str(),
            laughs,
            &large,
            "{\"a\":1,\"a\":2}",
            "a: 1\na: 2\n",
            "{\"a\":1e9999}",
            "{",
            "a: .nan",
        ] {
            assert!(parse(text).is_err(), "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn spellings_of_old_clients_become_one() {
        let tree = parse(r#"{"containers":[{"network":{"port":1,"target_port":2}}]}"#).unwrap();
        let tree = canonical(tree).unwrap();
        let expected = serde_json::json!({"containers":[{"ports":[{"port":1,"targetPort":2}]}]});
        assert_eq!(tree.to_json(), expected);
        let both = parse(r#"{"ports":[],"network":[]}"#).unwrap();
        assert!(canonical(both).is_err());
    }
}
