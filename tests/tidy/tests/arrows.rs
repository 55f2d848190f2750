//! The walls of the house: which of our crates may use which. The list is the law; a change to it is a decision to
//! be written down in `docs/adr/`.

use std::collections::BTreeMap;

use tidy::{assert_none, metadata, repository};

/// What each crate may use of ours, in production code and in build scripts.
const ARROWS: &[(&str, &[&str])] = &[
    // Pure: values in, values out.
    ("model", &[]),
    ("placement", &["model"]),
    // The wire and the disk.
    ("proto", &["model"]),
    ("store", &["model"]),
    // What long-running programs do alike.
    ("daemon", &[]),
    // The control plane. Scheduler and store never see each other.
    ("controller", &["daemon", "model", "proto", "store"]),
    ("scheduler", &["daemon", "model", "placement", "proto"]),
    // Files on their way, packed at one end and unpacked at the other.
    ("filecopy", &[]),
    // The node.
    // User namespaces of pods.
    ("userns", &[]),
    ("images", &["model", "userns"]),
    ("network", &["model", "userns"]),
    // In place of the crate of this name: libcontainer's own view of control groups.
    ("libcgroups", &[]),
    // Inside a microVM and at its edge.
    ("guest", &["filecopy"]),
    ("runtime", &["filecopy", "guest", "images", "libcgroups", "model", "network", "userns"]),
    ("riklet", &["daemon", "model", "proto", "runtime"]),
    // The user's hand speaks REST only.
    ("rikctl", &["filecopy", "model"]),
    // Wires all.
    (
        "rik",
        &[
            "controller",
            "daemon",
            "images",
            "model",
            "network",
            "placement",
            "proto",
            "riklet",
            "runtime",
            "scheduler",
            "store",
        ],
    ),
    // Around the house.
    ("hello", &[]),
    ("xtask", &[]),
    ("tidy", &[]),
    ("e2e", &["images", "model"]),
    ("bench", &["e2e", "guest", "images", "model", "placement", "proto"]),
    ("simulation", &["controller", "model", "placement", "proto", "riklet", "runtime", "scheduler", "store"]),
];

/// What tests of a crate may use beyond that.
const TEST_ARROWS: &[(&str, &[&str])] = &[];

/// The crates that speak to the kernel, and may therefore say `unsafe`.
const KERNEL: &[&str] = &["network", "runtime", "guest", "userns", "daemon"];

#[test]
fn our_crates_use_only_what_their_arrows_allow() {
    let members = metadata::members();
    let ours: Vec<&str> = members.iter().map(|package| package.name.as_str()).collect();
    let law: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let tests: BTreeMap<&str, &[&str]> = TEST_ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in &members {
        let Some(allowed) = law.get(package.name.as_str()) else {
            faults.push(format!("{} has no arrows: add it to the list", package.name));
            continue;
        };
        for used in package.dependencies.iter().filter(|used| ours.contains(&used.name.as_str())) {
            let in_tests = used.kind == "dev"
                && tests.get(package.name.as_str()).is_some_and(|more| more.contains(&used.name.as_str()));
            if !allowed.contains(&used.name.as_str()) && !in_tests && used.name != package.name {
                faults.push(format!("{} must not use {} ({})", package.name, used.name, used.kind));
            }
        }
    }
    assert_none("arrows run one way", &faults);
}

#[test]
fn arrows_form_no_circle() {
    let law: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for (start, direct) in ARROWS {
        let mut reached: Vec<&str> = direct.to_vec();
        let mut next = 0;
        while let Some(name) = reached.get(next) {
            let further = law.get(name).copied().unwrap_or_default();
            let new: Vec<&str> = further.iter().copied().filter(|name| !reached.contains(name)).collect();
            reached.extend(new);
            next += 1;
        }
        if reached.contains(start) {
            faults.push(format!("{start} reaches itself"));
        }
    }
    assert_none("arrows form no circle", &faults);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let mut faults = Vec::new();
    for manifest in repository::files("toml").iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let document: toml::Table =
            manifest.text.parse().unwrap_or_else(|error| panic!("{} is not TOML: {error}", manifest.path));
        let Some(name) =
            document.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str())
        else {
            continue;
        };
        let lints = document.get("lints");
        let inherited = lints.and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        let careful = lints
            .and_then(|lints| lints.get("rust"))
            .and_then(|rust| rust.get("unsafe_op_in_unsafe_fn"))
            .and_then(toml::Value::as_str);
        if inherited != Some(true) && !(KERNEL.contains(&name) && careful == Some("deny")) {
            faults.push(format!("{} sets lints of its own", manifest.path));
        }
    }
    assert_none("unsafe is forbidden outside the kernel crates, by the workspace's lints", &faults);
}
