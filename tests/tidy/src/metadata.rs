//! What cargo says about the workspace and its dependencies.

use std::process::Command;

use serde_json::Value;

use crate::repository;

/// One package, ours or foreign.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: semver::Version,
    /// Its licence expression, where it states one.
    pub license: Option<String>,
    /// Whether it comes from a registry; ours do not.
    pub foreign: bool,
    /// The packages that its manifest names.
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependencies.
#[derive(Debug)]
pub struct Dependency {
    /// The package that is used.
    pub name: String,
    /// `normal`, `dev` or `build`.
    pub kind: String,
}

/// The workspace's own packages.
#[must_use]
pub fn members() -> Vec<Package> {
    read(&["--no-deps"])
}

/// Every package that goes into a build for our target, ours included.
#[must_use]
pub fn everything() -> Vec<Package> {
    read(&["--filter-platform", "x86_64-unknown-linux-gnu"])
}

fn read(arguments: &[&str]) -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .current_dir(repository::root())
        .output()
        .unwrap_or_else(|error| panic!("failed to run cargo metadata: {error}"));
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("failed to read cargo's metadata: {error}"));
    list(&document["packages"]).map(package).collect()
}

fn package(value: &Value) -> Package {
    let name = text(&value["name"]);
    Package {
        version: semver::Version::parse(&text(&value["version"]))
            .unwrap_or_else(|error| panic!("package {name} has an odd version: {error}")),
        license: value["license"].as_str().map(ToOwned::to_owned),
        foreign: !value["source"].is_null(),
        dependencies: list(&value["dependencies"])
            .map(|dependency| Dependency {
                name: text(&dependency["name"]),
                kind: dependency["kind"].as_str().unwrap_or("normal").to_owned(),
            })
            .collect(),
        name,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
