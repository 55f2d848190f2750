//! Rules for single strings: names, image references, environment names, URLs.
//!
//! The schema refers to them by `format`; [`crate::manifest::check`] applies them wherever that format stands.

/// Longest name: one label of a host name.
pub const MAX_NAME: usize = 63;

/// A rule for one string: the sentence says what is allowed.
pub type Rule = fn(&str) -> Result<(), String>;

/// The rule behind a schema `format`, if the format is one of ours.
#[must_use]
pub fn rule(format: &str) -> Option<Rule> {
    Some(match format {
        "name" => name,
        "image" => image,
        "object-name" => object_name,
        "data-key" => data_key,
        "relative-path" => relative_path,
        "env-name" => env_name,
        "argument" => argument,
        "absolute-path" => absolute_path,
        "url-or-path" => url_or_path,
        "sha256" => sha256,
        "url-path" => url_path,
        "ipv4" => ipv4,
        "cpu" => |text| text.parse::<crate::quantity::Cpu>().map(drop).map_err(|fault| fault.to_string()),
        "memory" => {
            |text| text.parse::<crate::quantity::Memory>().map(drop).map_err(|fault| fault.to_string())
        }
        _ => return None,
    })
}

/// A name of a workload, an instance, a container or a node: lower-case letters, digits and `-`, `.`, `_`, `:` inside.
///
/// # Errors
/// The sentence says what is allowed.
pub fn name(text: &str) -> Result<(), String> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| edge(byte) || matches!(byte, b'-' | b'.' | b'_' | b':');
    let bytes = text.as_bytes();
    let whole = (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().copied().all(inner)
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
        && !text.contains("..");
    if whole {
        Ok(())
    } else {
        Err(format!(
            "a name has 1 to {MAX_NAME} lower-case letters, digits, '-', '.', '_' or ':', and starts and ends with a letter or digit"
        ))
    }
}

/// A name of a config or secret: one label of a host name.
///
/// # Errors
/// The sentence says what is allowed.
pub fn object_name(text: &str) -> Result<(), String> {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let whole = (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge);
    if whole {
        return Ok(());
    }
    Err(format!(
        "a name of a config, secret or volume has 1 to {MAX_NAME} lower-case letters, digits or '-', and starts and ends with a letter or digit"
    ))
}

/// Longest key of a config or secret.
pub const MAX_KEY: usize = 253;

/// A key of a config or secret: it can be the name of a file.
///
/// # Errors
/// The sentence says what is allowed.
pub fn data_key(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(plain) && !matches!(text, "." | "..") {
        return Ok(());
    }
    Err(format!("a key has 1 to {MAX_KEY} letters, digits, '-', '.' or '_', and is not . or .."))
}

/// A path below a volume.
fn relative_path(text: &str) -> Result<(), String> {
    if text.split('/').all(|part| !matches!(part, "" | "." | "..")) && !text.contains('\0') {
        return Ok(());
    }
    Err("a relative path does not begin with '/' and has no '.', '..' and no NUL in it".to_owned())
}

/// The outer form of an image reference; the node reads it in full.
fn image(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&byte);
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    let repository = text.split('@').next().unwrap_or(text);
    let path = repository.split_once('/').map_or(repository, |(_, path)| path);
    let path = path.rsplit_once(':').map_or(path, |(path, _)| path);
    if !text.bytes().all(plain) || !starts_well || text.contains("//") || text.contains("..") {
        return Err("an image is [registry/]name[:tag][@sha256:…], such as alpine:latest".to_owned());
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the name of an image has no capital letters".to_owned());
    }
    let hex = |digest: &str| {
        digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match text.split_once('@') {
        Some((_, digest)) if !digest.strip_prefix("sha256:").is_some_and(hex) => {
            Err("a digest is sha256: and 64 hexadecimal digits".to_owned())
        }
        _ => Ok(()),
    }
}

fn env_name(text: &str) -> Result<(), String> {
    if text.contains(['=', '\0']) {
        Err("a variable's name has no '=' and no NUL".to_owned())
    } else {
        Ok(())
    }
}

/// A path as it stands in the first line of a request.
fn url_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("a path of a request begins with '/' and has no spaces; others are written as %20".to_owned())
    }
}

fn argument(text: &str) -> Result<(), String> {
    if text.contains('\0') {
        Err("the kernel takes no NUL in arguments and values".to_owned())
    } else {
        Ok(())
    }
}

fn absolute_path(text: &str) -> Result<(), String> {
    let inside = !text.split('/').any(|part| part == "..");
    if text.starts_with('/') && inside && !text.contains('\0') {
        Ok(())
    } else {
        Err("a path starts with '/' and has no '..'".to_owned())
    }
}

fn sha256(text: &str) -> Result<(), String> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits { Ok(()) } else { Err("a SHA-256 is written in hexadecimal, with small letters".to_owned()) }
}

fn url_or_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        return absolute_path(text);
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && !host.is_empty() {
        Ok(())
    } else {
        Err("a URL is http://host/… or https://host/…, a path of the node starts with '/'".to_owned())
    }
}

fn ipv4(text: &str) -> Result<(), String> {
    text.parse::<std::net::Ipv4Addr>().map(drop).map_err(|_| "an IPv4 address such as 192.0.2.7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_old_clients_are_names() {
        for text in ["web", "a", "my-function", "fn:v0.0.1", "2-distro", "hello_world", "a.b"] {
            assert_eq!(name(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn hostile_names_are_no_names() {
        let long = "a".repeat(64);
        let hostile = [
            "",
            ".",
            "..",
            "../../etc",
            "/abs",
            "a b",
            "-rf",
            "--help",
            "a\0",
            "a\n",
            "A",
            "ünï",
            "%2e",
            "a.",
            "it's",
            "a..b",
            "%",
            "\u{202e}",
            &long,
        ];
        for text in hostile {
            assert!(name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn image_references_keep_to_the_registry_form() {
        let pinned = format!("a@sha256:{}", "0".repeat(64));
        for text in
            ["alpine", "alpine:latest", "localhost:5000/a/b:1", "Reg.example/a:Tag", &pinned, "[::1]:5/a"]
        {
            assert_eq!(image(text), Ok(()), "{text:?}");
        }
        for text in [
            "-x",
            "oci:/etc/../passwd",
            "http://a/b",
            "a b",
            "Alpine",
            "a/B:1",
            "a\0",
            "../a",
            "a@sha256:123",
        ] {
            assert!(image(text).is_err(), "{text:?}");
        }
    }
}
