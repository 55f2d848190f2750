//! The switches of cgroup v2 (`cgroup.subtree_control`): which controllers a group passes on to its children.
//!
//! Those of the root are the whole machine's. What had to be switched on there is noted on our own topmost group, in an
//! attribute that goes with it, and is switched off again when that group is gone. If there are other groups by then it
//! stays on: they may rely on it, would lose their limits without a word, and nobody is harmed by it.

use std::{fs, path::Path};

use rustix::fs::{XattrFlags, getxattr, setxattr};

/// The controllers that limit something of ours. Each further one would cost something for every group.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Attribute of our topmost group with the names of what was switched on above it, separated by spaces.
const NOTE: &str = "trusted.rik.switched-on";
/// All names, with spaces between.
const NOTE_LIMIT_BYTES: usize = 64;

/// Switches on whatever the group can pass on; gives what was off before.
pub(super) fn pass_on(group: &Path) -> Vec<&'static str> {
    let (available, passed) = (words(group, "cgroup.controllers"), words(group, "cgroup.subtree_control"));
    let has = |names: &[String], name: &str| names.iter().any(|own| own == name);
    let off = CONTROLLERS.into_iter().filter(|name| has(&available, name) && !has(&passed, name));
    // One at a time, as one that cannot be switched on would hold back the others; a limit that needs it says so.
    off.filter(|name| switch(group, '+', name)).collect()
}

/// Notes on our topmost group what was switched on above it for us. Without the note it stays on.
pub(super) fn note(top: &Path, switched_on: &[&str]) {
    let mut names = noted(top);
    names.extend(switched_on.iter().map(|name| (*name).to_owned()));
    let _ = setxattr(top, NOTE, names.join(" ").as_bytes(), XattrFlags::empty());
}

/// What was noted.
pub(super) fn noted(top: &Path) -> Vec<String> {
    let mut text = [0_u8; NOTE_LIMIT_BYTES];
    let length = getxattr(top, NOTE, &mut text).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    text.split_whitespace().map(str::to_owned).collect()
}

/// Switches off at the root what was noted, if no group is left there.
pub(super) fn take_back(root: &Path, noted: &[String]) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let is_group = |entry: fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    if !entries.flatten().any(is_group) {
        for name in noted.iter().filter(|name| CONTROLLERS.contains(&name.as_str())) {
            switch(root, '-', name);
        }
    }
}

fn switch(group: &Path, sign: char, controller: &str) -> bool {
    fs::write(group.join("cgroup.subtree_control"), format!("{sign}{controller}")).is_ok()
}

fn words(group: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(group.join(file)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
