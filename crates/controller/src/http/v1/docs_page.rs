//! The OpenAPI document as one HTML page: no script, no other server, nothing to load but its style sheet.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The style sheet.
pub(super) const STYLE: &str = include_str!("docs.css");
/// Methods in the order in which they are listed.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The page.
pub(super) fn render(openapi: &Value) -> String {
    let mut page = Page(String::new());
    let title = text(&openapi["info"], "title");
    page.add(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/api/v1/docs.css\">\
         </head><body><h1>{title} API <small>{version}</small></h1><p>{description}</p>\
         <p>As data: <a href=\"/api/v1/openapi.json\">openapi.json</a>, \
         <a href=\"/api/v1/schema/workload-v1.json\">the schema of manifests</a>.</p>\n",
        title = escape(title),
        version = escape(text(&openapi["info"], "version")),
        description = prose(text(&openapi["info"], "description")),
    ));
    let tags = openapi["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    for tag in tags {
        page.tag(tag, openapi);
    }
    page.schemas(&openapi["components"]["schemas"]);
    page.add(format_args!("</body></html>\n"));
    page.0
}

struct Page(String);

impl Page {
    fn add(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(arguments);
    }

    fn tag(&mut self, tag: &Value, openapi: &Value) {
        let name = text(tag, "name");
        self.add(format_args!("<h2>{}</h2><p>{}</p>\n", escape(name), prose(text(tag, "description"))));
        for (path, item) in entries(&openapi["paths"]) {
            for method in METHODS {
                let operation = &item[method];
                let tags = operation["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
                if tags.iter().any(|tag| tag == name) {
                    self.operation(method, path, operation);
                }
            }
        }
    }

    fn operation(&mut self, method: &str, path: &str, operation: &Value) {
        self.add(format_args!(
            "<h3 id=\"{id}\"><span class=\"method\">{method}</span>{path}</h3><p>{summary} {description}</p>\n",
            id = escape(text(operation, "operationId")),
            method = method.to_uppercase(),
            path = escape(path),
            summary = prose(text(operation, "summary")),
            description = prose(text(operation, "description")),
        ));
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !parameters.is_empty() {
            self.add(format_args!("<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>"));
            for parameter in parameters {
                self.add(format_args!(
                    "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    escape(text(parameter, "name")),
                    escape(text(parameter, "in")),
                    type_of(&parameter["schema"]),
                    prose(text(parameter, "description")),
                ));
            }
            self.add(format_args!("</table>\n"));
        }
        if let Some(body) = operation.get("requestBody") {
            self.add(format_args!("<p>Body: {}. {}</p>\n", contents(body), prose(text(body, "description"))));
        }
        self.add(format_args!("<table><tr><th>status</th><th>answer</th><th></th></tr>"));
        for (status, response) in entries(&operation["responses"]) {
            self.add(format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(status),
                contents(response),
                prose(text(response, "description")),
            ));
        }
        self.add(format_args!("</table>\n"));
    }

    fn schemas(&mut self, schemas: &Value) {
        self.add(format_args!("<h2>Objects</h2>\n"));
        for (name, schema) in entries(schemas) {
            let name = escape(name);
            self.add(format_args!(
                "<h3 id=\"schema-{name}\">{name}</h3><p>{}</p>\n",
                prose(text(schema, "description"))
            ));
            self.fields(schema);
        }
    }

    fn fields(&mut self, schema: &Value) {
        if let Some(allowed) = schema["enum"].as_array() {
            let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).map(escape).collect();
            self.add(format_args!("<p>One of <code>{}</code>.</p>\n", allowed.join("</code>, <code>")));
        }
        for part in schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default() {
            if part.get("$ref").is_some() {
                self.add(format_args!("<p>All of {}, and:</p>\n", type_of(part)));
            }
            self.fields(part);
        }
        let properties = entries(&schema["properties"]);
        let mut properties = properties.peekable();
        if properties.peek().is_none() {
            return;
        }
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.add(format_args!("<table><tr><th>field</th><th>type</th><th></th></tr>"));
        for (name, property) in properties {
            let mark = if required.iter().any(|required| required == name) { "" } else { "?" };
            self.add(format_args!(
                "<tr><td><code>{}{mark}</code></td><td>{}</td><td>{}</td></tr>",
                escape(name),
                type_of(property),
                prose(text(property, "description")),
            ));
        }
        self.add(format_args!("</table>\n"));
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The types of content of a body, with what they hold.
fn contents(body: &Value) -> String {
    let all = entries(&body["content"]).map(|(kind, content)| {
        let schema = type_of(&content["schema"]);
        format!("{schema} as <code>{}</code>", escape(kind))
    });
    all.collect::<Vec<_>>().join(", or ")
}

/// A schema in a few words, with links to the named ones.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        let name = escape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    for (kind, word) in [("oneOf", " or "), ("allOf", " and ")] {
        if let Some(all) = schema[kind].as_array() {
            let all: Vec<_> = all.iter().filter(|one| one["type"] != "null").map(type_of).collect();
            return all.join(word);
        }
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", type_of(&schema["items"])),
        Value::String(name) => escape(name),
        Value::Array(names) => {
            let names: Vec<_> =
                names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            match names.as_slice() {
                ["array"] => format!("list of {}", type_of(&schema["items"])),
                names => escape(&names.join(" or ")),
            }
        }
        _ => "anything".to_owned(),
    }
}

/// Text with `code` marked.
fn prose(text: &str) -> String {
    let parts = text.split('`').map(escape).enumerate();
    parts.map(|(index, part)| if index % 2 == 1 { format!("<code>{part}</code>") } else { part }).collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_document_cannot_become_markup() {
        let hostile = "<script>alert('x')</script>";
        let openapi = serde_json::json!({
            "info": {"title": hostile, "description": format!("`{hostile}`")},
            "tags": [{"name": hostile, "description": hostile}],
            "paths": {hostile: {"get": {"tags": [hostile], "operationId": "\"><b>", "parameters": [{"name": hostile}]}}},
            "components": {"schemas": {hostile: {"properties": {hostile: {"type": hostile}}}}},
        });
        let page = render(&openapi);
        assert!(!page.contains("<script") && !page.contains("\"><b>"), "{page}");
    }
}
