//! What we build on: licences, banned crates and lowest versions, as `deny.toml` states them.

use semver::VersionReq;
use tidy::metadata::{self, Package};
use tidy::{assert_none, expression, repository};
use toml::{Table, Value};

fn rules() -> Table {
    repository::read("deny.toml").parse().unwrap_or_else(|error| panic!("deny.toml is not TOML: {error}"))
}

fn list<'a>(rules: &'a Table, section: &str, key: &str) -> Vec<&'a Value> {
    rules
        .get(section)
        .and_then(|table| table.get(key))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect()
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The licence of a package: what it states, or what `deny.toml` found out about it.
fn license(package: &Package, rules: &Table) -> String {
    let clarified = list(rules, "licenses", "clarify")
        .into_iter()
        .find(|entry| string(entry, "crate") == package.name)
        .map(|entry| string(entry, "expression").to_owned());
    package.license.clone().or(clarified).unwrap_or_default()
}

#[test]
fn every_dependency_has_a_licence_that_we_allow() {
    let rules = rules();
    let allowed: Vec<String> = list(&rules, "licenses", "allow")
        .into_iter()
        .filter_map(|entry| entry.as_str().map(ToOwned::to_owned))
        .collect();
    let faults: Vec<String> = metadata::everything()
        .iter()
        .filter(|package| !expression::is_allowed(&license(package, &rules), &allowed))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, license(package, &rules)))
        .collect();
    assert_none("licences are on the list of deny.toml", &faults);
}

#[test]
fn no_dependency_is_banned_or_below_its_floor() {
    let rules = rules();
    let packages = metadata::everything();
    let mut faults = Vec::new();
    for ban in list(&rules, "bans", "deny") {
        let (name, versions) = string(ban, "crate").split_once(':').unwrap_or((string(ban, "crate"), "*"));
        let versions = VersionReq::parse(versions)
            .unwrap_or_else(|error| panic!("deny.toml has an odd version for {name}: {error}"));
        let banned =
            packages.iter().filter(|package| package.name == name && versions.matches(&package.version));
        faults.extend(banned.map(|package| format!("{name} {}: {}", package.version, string(ban, "reason"))));
    }
    assert_none("dependencies are not banned by deny.toml", &faults);
}

#[test]
fn every_ban_gives_its_reason() {
    let rules = rules();
    let faults: Vec<String> = list(&rules, "bans", "deny")
        .into_iter()
        .filter(|ban| string(ban, "crate").is_empty() || string(ban, "reason").is_empty())
        .map(ToString::to_string)
        .collect();
    assert_none("a ban has a crate and a reason", &faults);
}

#[test]
fn every_version_is_stated_once_for_the_workspace() {
    let mut faults = Vec::new();
    for manifest in repository::files("toml").iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let document: Table =
            manifest.text.parse().unwrap_or_else(|error| panic!("{} is not TOML: {error}", manifest.path));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = document.get(section).and_then(Value::as_table).into_iter().flatten();
            let own =
                entries.filter(|(_, entry)| entry.get("workspace").and_then(Value::as_bool) != Some(true));
            faults.extend(own.map(|(name, _)| format!("{} [{section}] {name}", manifest.path)));
        }
    }
    assert_none("dependencies are taken from the workspace", &faults);
}
