//! What containers wrote: of an earlier run, of the last minutes, of all instances of a workload; and running an image
//! in one line.

use std::io::{BufRead as _, BufReader};

use e2e::manifest::script;
use e2e::rikctl::begin;
use e2e::{SHORT, story, wait_until};
use serde_json::json;

#[test]
fn log_of_the_run_before_a_restart_can_be_read() {
    story(|lab| {
        let api = lab.cluster();
        let mut often = script("often", "echo run; exit 3");
        often["spec"]["restartPolicy"] = "OnFailure".into();
        api.create_instance(&api.create_workload(&often), "often");
        wait_until(SHORT, "a second run", || match api.instance("often") {
            Some(now) if now["restarts"].as_u64() >= Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let log = lab.rikctl(&["logs", "often", "--previous"]).good();
        assert!(log.starts_with("run\n"), "{log}");
        let said = lab.rikctl(&["logs", "often", "--previous", "-f"]);
        assert_eq!(said.code, 2, "{said:?}");
        api.run(&script("once", "echo once; busybox sleep 600"));
        let said = lab.rikctl(&["logs", "once", "-p"]).bad(1);
        assert!(said.contains("it has no previous run"), "{said}");
    });
}

#[test]
fn followed_log_goes_on_with_the_next_run_and_ends_with_the_instance() {
    story(|lab| {
        let api = lab.cluster();
        let mut often = script("often", "echo begun; busybox sleep 1; echo done; exit 3");
        often["spec"]["restartPolicy"] = "OnFailure".into();
        often["spec"]["restartBackoff"] = json!({ "initialSeconds": 1, "maxSeconds": 1 });
        api.create_instance(&api.create_workload(&often), "often");
        let mut user = begin(&["logs", "often", "-f"]);
        let mut lines = BufReader::new(user.stdout.take().expect("a pipe")).lines();
        let seen: Vec<String> = lines.by_ref().take(5).map(|line| line.expect("words")).collect();
        assert_eq!(seen, ["begun", "done", "begun", "done", "begun"]);
        api.delete_instance("often");
        for line in lines {
            assert!(["begun", "done"].contains(&line.expect("words").as_str()));
        }
        assert!(user.wait().expect("it ends").success());
    });
}

#[test]
fn followed_workload_is_joined_by_instances_that_are_created_later() {
    story(|lab| {
        let api = lab.cluster();
        let workload =
            api.create_workload(&script("web", "echo I am $(busybox hostname); busybox sleep 600"));
        api.create_instance(&workload, "first");
        api.wait_status("first", "Running");
        let mut user = begin(&["logs", "workload/web", "-f"]);
        let mut lines = BufReader::new(user.stdout.take().expect("a pipe")).lines();
        let mut next = || lines.next().map(|line| line.expect("words"));
        assert_eq!(next().as_deref(), Some("[first] I am first"));
        api.create_instance(&workload, "second");
        assert_eq!(next().as_deref(), Some("[second] I am second"));
        api.delete_workload(&workload);
        assert_eq!(next(), None, "it ends with the last of them");
        user.wait().expect("it ends");
    });
}

#[test]
fn old_lines_are_left_out() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&script("aged", "echo old; busybox sleep 3; echo new; busybox sleep 600"));
        wait_until(SHORT, "the second line", || match lab.rikctl(&["logs", "aged"]).good() {
            log if log == "old\nnew\n" => Ok(()),
            log => Err(log),
        });
        assert_eq!(lab.rikctl(&["logs", "aged", "--since", "2s"]).good(), "new\n");
        assert_eq!(lab.rikctl(&["logs", "aged", "--since", "1h"]).good(), "old\nnew\n");
    });
}

#[test]
fn logs_of_all_instances_of_a_workload_name_their_writers() {
    story(|lab| {
        let api = lab.cluster();
        let workload = api.create_workload(&script("many", "echo I am $(busybox hostname); printf tail"));
        let ids = api.create_instances(&workload, 3);
        for id in &ids {
            api.wait_status(id, "Terminated");
        }
        let mut expected: Vec<String> =
            ids.iter().flat_map(|id| [format!("[{id}] I am {id}"), format!("[{id}] tail")]).collect();
        expected.sort();
        for arguments in [&["logs", "workload/many"][..], &["logs", "wl/many", "-f"]] {
            let said = lab.rikctl(arguments).good();
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, expected);
        }
    });
}

#[test]
fn image_is_run_in_one_line() {
    story(|lab| {
        let api = lab.cluster();
        let name = lab.rikctl(&["run", "busybox:1"]).good();
        let name = name.trim_end();
        assert!(name.starts_with("busybox-"), "{name}");
        assert_eq!(api.instance(name).expect("it is there")["status"], "Running");
        let words = ["run", "busybox:1", "--name", "said", "-e", "WHO=me", "--follow", "--rm", "--"];
        let said =
            lab.rikctl(&[&words[..], &["/bin/busybox", "sh", "-c", "echo it is $WHO; exit 5"]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (5, "it is me\n"), "{said:?}");
        api.wait_gone("said");
        let said = lab.rikctl(&["run", "not an image"]);
        assert_eq!(said.code, 2, "{said:?}");
        let said = lab.rikctl(&["events", "--limit", "500"]).good();
        assert!(said.contains(name), "{said}");
    });
}

#[test]
fn log_of_an_instance_can_be_read_when_it_is_gone() {
    story(|lab| {
        let api = lab.cluster();
        let api_of = |name: &str, words: &str| {
            let id = api.create_instance(&api.create_workload(&script(name, words)), name);
            api.wait_status(&id, "Failed");
            api.delete_instance(name);
            api.wait_gone(name);
        };
        api_of("crashed", "echo first words; echo why it broke >&2; exit 3");
        let said = lab.rikctl(&["logs", "--deleted", "crashed"]);
        assert_eq!((said.code, said.stdout.as_str()), (0, "first words\nwhy it broke\n"), "{said:?}");
        assert!(said.stderr.contains("was deleted") && said.stderr.contains("exit code 3"), "{said:?}");
        assert_eq!(lab.rikctl(&["logs", "--deleted", "crash", "--tail", "1"]).stdout, "why it broke\n");
        // Its name is another one's now; the newest one that is gone is meant.
        api.delete_everything();
        api_of("crashed", "echo second; exit 4");
        assert_eq!(lab.rikctl(&["logs", "--deleted", "crashed"]).stdout, "second\n");
        let list = lab.rikctl(&["logs", "--deleted"]).good();
        assert_eq!(list.lines().count(), 3, "{list}");
        assert!(list.contains("NonZeroExit, exit code 4"), "{list}");
        let hint = lab.rikctl(&["logs", "crashed"]).bad(1);
        assert!(hint.contains("rikctl logs --deleted crashed"), "{hint}");
        let absent = lab.rikctl(&["logs", "--deleted", "absent"]).bad(1);
        assert!(absent.contains("no node has a log"), "{absent}");
        assert_eq!(lab.rikctl(&["logs"]).code, 2);
        // A container that was ended with its instance has a log as well.
        api.run(&script("stopped", "echo while it ran; busybox sleep 600"));
        wait_until(SHORT, "its words", || {
            let log = lab.rikctl(&["logs", "stopped"]).stdout;
            if log.is_empty() { Err(log) } else { Ok(()) }
        });
        api.delete_instance("stopped");
        api.wait_gone("stopped");
        assert_eq!(lab.rikctl(&["logs", "--deleted", "stopped"]).stdout, "while it ran\n");
    });
}
