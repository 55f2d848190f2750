//! What many instances leave behind in the daemons: nothing; and many at once, which all run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use e2e::lab::NODE;
use e2e::manifest::script;
use e2e::{Api, LONG, Lab, probe, story, wait_until};
use serde_json::{Value, json};

/// What a daemon holds.
#[derive(Clone, Copy, Debug)]
struct Weight {
    memory_kib: u64,
    descriptors: usize,
    threads: usize,
}

/// What each daemon holds, by name; and how many files and mounts there are of the node.
fn weigh(lab: &mut Lab) -> (BTreeMap<String, Weight>, usize, usize) {
    let mut pids: Vec<(String, u32)> = ["controller", "scheduler", NODE]
        .into_iter()
        .map(|name| (name.to_owned(), lab.daemon(name).pid()))
        .collect();
    pids.extend(probe::processes("shim --dir").into_iter().map(|pid| ("shim".to_owned(), pid)));
    assert_eq!(pids.len(), 4, "{pids:?}");
    let weights = pids.into_iter().map(|(name, pid)| {
        let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
        let memory = probe::status(pid, "RssAnon");
        let memory_kib = memory.trim_end_matches(" kB").parse().expect("a number");
        (name, Weight { memory_kib, descriptors: count("fd"), threads: count("task") })
    });
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts").lines().count();
    (weights.collect(), files(&Lab::node_state(NODE)), mounts)
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_dir() { files(&entry.path()) } else { 0 }).sum()
}

/// A script that asks for next to nothing, so that many fit.
fn small(name: &str, words: &str) -> Value {
    let mut manifest = script(name, words);
    manifest["spec"]["resources"] = json!({ "requests": { "cpu": "1m", "memory": "1Mi" } });
    manifest
}

fn wait_all(api: &Api, count: usize, status: &str) {
    wait_until(LONG, &format!("{count} instances to be {status}"), || {
        let there = api.instances().iter().filter(|one| one["status"] == status).count();
        if there == count { Ok(()) } else { Err(format!("{there}")) }
    });
}

fn wait_none(api: &Api) {
    wait_until(LONG, "all instances to go", || match api.instances().len() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
}

#[test]
fn thousand_short_lives_leave_nothing_behind_in_any_process() {
    const TURN: u32 = 50;
    story(|lab| {
        let api = lab.cluster();
        let live = |turns: u32| {
            for turn in 0..turns {
                let workload = api.create_workload(&small(&format!("short-{turn}"), "busybox true"));
                assert_eq!(api.create_instances(&workload, TURN).len(), TURN as usize);
                wait_all(&api, TURN as usize, "Terminated");
                api.delete_workload(&workload);
                wait_none(&api);
            }
        };
        // Buffers and pools grow to their size at first.
        live(4);
        let (before, files_before, mounts_before) = weigh(lab);
        live(16);
        // What is put off for a moment, such as closing a connection, may come.
        wait_until(LONG, "everything to be as it was", || {
            let (after, files_after, mounts_after) = weigh(lab);
            let grown = after.iter().filter(|(name, now)| {
                let was = before[*name];
                // The controller keeps the latest history, and pages of its database, of bounded size (store: tail).
                let more = if *name == "controller" { 20 } else { 6 };
                now.descriptors > was.descriptors + 4
                    || now.threads > was.threads + 4
                    || now.memory_kib > was.memory_kib + more * 1024
            });
            let grown: Vec<_> =
                grown.map(|(name, now)| format!("{name}: {:?} → {now:?}", before[name])).collect();
            let same = files_after <= files_before && mounts_after <= mounts_before;
            if same && grown.is_empty() {
                return Ok(());
            }
            Err(format!(
                "files {files_before} → {files_after}, mounts {mounts_before} → {mounts_after}, {grown:?}"
            ))
        });
    });
}

#[test]
fn two_hundred_at_once_all_run_while_the_api_answers() {
    const COUNT: u32 = 200;
    story(|lab| {
        let api = lab.cluster();
        let workload = api.create_workload(&small("many", "busybox sleep 600"));
        let ids = api.create_instances(&workload, COUNT);
        wait_all(&api, COUNT as usize, "Running");
        let last = ids.last().expect("there are some");
        let said = lab.rikctl(&["exec", last, "--", "/bin/busybox", "echo", "here"]);
        assert_eq!(said.stdout, "here\n", "{said:?}");
        let mut addresses: Vec<String> =
            ids.iter().map(|id| api.instance(id).expect("it is there")["ip"].to_string()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), COUNT as usize, "each has its own address");
        api.delete_workload(&workload);
        wait_none(&api);
    });
}
