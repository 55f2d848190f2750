//! The table of `docs/src/riklet/containers.md`, told by a program inside a container; and what root inside is outside.

use std::{fs, os::unix::fs::MetadataExt};

use runtime::pod::exec::ExecSpec;

use crate::{
    node::{in_namespaces, plain, pod},
    security::{probe, probing},
};

/// The table's rows: what it is, and what RIK makes of it.
fn documented() -> Vec<(String, String)> {
    let page = fs::read_to_string("../../docs/src/riklet/containers.md").unwrap();
    let table = page.split("<!-- table of tests/pods/table.rs -->").nth(1).unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _docker, ours] = cells.as_slice() else { return None };
        Some(((*name).to_owned(), ours.trim_matches('`').to_owned()))
    });
    rows.skip(1).collect()
}

#[test]
fn s_pod_20_program_inside_sees_what_the_table_says() {
    in_namespaces("table::s_pod_20_program_inside_sees_what_the_table_says", |node| async move {
        let said = probe(&node, &["table"]).await;
        let seen = said.iter().filter_map(|line| line.split_once('|'));
        let seen: Vec<(String, String)> = seen
            .map(|(name, value)| {
                let value = value.trim();
                let mut ids = value.split(' ');
                let value = match (name.trim(), ids.next(), ids.next(), ids.next()) {
                    ("ids", Some(inside), Some(outside), Some(count)) => {
                        assert!(outside.parse::<u32>().unwrap() >= 0x7000_0000, "{value}");
                        format!("{inside} … {count}")
                    }
                    _ if value.is_empty() => "none".to_owned(),
                    _ => value.to_owned(),
                };
                (name.trim().to_owned(), value)
            })
            .collect();
        assert_eq!(seen, documented());
        node.take_down().await;
    });
}

#[test]
fn s_pod_05_root_of_a_container_is_nobody_on_the_machine() {
    in_namespaces("table::s_pod_05_root_of_a_container_is_nobody_on_the_machine", |node| async move {
        let (one, two) = (pod(vec![plain("main")]), pod(vec![plain("main")]));
        let mut ranges = Vec::new();
        for spec in [&one, &two] {
            node.run(spec).await;
            let command =
                ["/bin/sh", "-c", "echo own > /new; stat -c '%u %g' /etc/passwd"].map(str::to_owned);
            let exec = ExecSpec { command: command.to_vec(), ..ExecSpec::default() };
            let done = node.runtime.exec(&spec.uid, 0, exec).await.unwrap().run().await.unwrap();
            assert_eq!(done.output, "0 0\n", "files of the image are root's inside");
            let at = |top: &str| node.state.join(top).join(&spec.uid);
            let written = fs::metadata(at("pods").join("0/upper/new")).unwrap();
            assert!(written.uid() >= 0x7000_0000 && written.uid() == written.gid(), "{written:?}");
            let process: serde_json::Value =
                serde_json::from_slice(&fs::read(at("run").join("c/0/process.json")).unwrap()).unwrap();
            let status = fs::read_to_string(format!("/proc/{}/status", process["pid"])).unwrap();
            let own = format!("Uid:\t{0}\t{0}\t{0}\t{0}", written.uid());
            assert!(status.contains(&own), "{status}");
            ranges.push(written.uid());
        }
        assert_ne!(ranges[0], ranges[1], "each pod has ids of its own");
        node.take_down().await;
    });
}

#[test]
fn s_pod_12_program_of_the_runtime_is_out_of_reach_of_the_container_that_it_enters() {
    const NAME: &str =
        "table::s_pod_12_program_of_the_runtime_is_out_of_reach_of_the_container_that_it_enters";
    in_namespaces(NAME, |node| async move {
        let spec = probing(node.load_probe().await, &["hunt"]);
        node.run(&spec).await;
        let run = async |command: &[&str]| {
            let command = command.iter().map(|word| (*word).to_owned()).collect();
            let exec = ExecSpec { command, ..ExecSpec::default() };
            node.runtime.exec(&spec.uid, 0, exec).await.unwrap().run().await.unwrap()
        };
        for _ in 0..50 {
            run(&["/bin/sh", "-c", "true"]).await;
        }
        run(&["/bin/sh", "-c", "echo > /enough"]).await;
        node.ended(&spec).await;
        assert_eq!(node.output(&spec, "probe"), ["others seen: true", "others reached: 0"]);
        node.take_down().await;
    });
}
