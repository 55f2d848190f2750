//! Help, usage errors, completion, and a reader that goes away.

use std::process::Stdio;

use serde_json::json;

use crate::{Desk, controller::Controller, finished, instance, page};

#[test]
fn help_shows_the_verbs_and_the_exit_codes() {
    let desk = Desk::without_cluster();
    insta::assert_snapshot!(desk.run("--help"), @r#"
    exit 0
    stdout:
      The command line of RIK: runs containers on your own machines
      
      Usage: rikctl [OPTIONS] <COMMAND>
      
      Commands:
        create        Define a workload, or run instances of one
        apply         Create workloads, or change them to what files say
        get           List workloads, instances, nodes or events
        ps            List instances: the same as `get instances`
        events        List events: the same as `get events`
        describe      Tell everything about one or more objects
        delete        End instances, remove workloads with their instances, or forget nodes [alias: rm]
        run           Run an image: a workload with one instance
        logs          Print what an instance, or all instances of a workload, have written
        exec          Run a program in a container of an instance
        attach        Hear what a running container writes, and type to its program
        cp            Copy files and directories to and from containers
        port-forward  Lead a port of this machine to a port of an instance
        top           Show what instances or nodes use
        wait          Wait until instances have reached a state
        image         List images on nodes, or bring one there from a file [alias: images]
        volume        List the local volumes of nodes, or remove one [alias: volumes]
        version       Print the versions of rikctl and of the controller
        completion    Print a script that completes rikctl's words in a shell
        config        See which cluster is configured, and where that comes from
        help          Print this message or the help of the given subcommand(s)
      
      Options:
            --server <URL>  Address of the controller; wins over RIKCONFIG, the environment and
                            ~/.rik/config.yaml
        -h, --help          Print help
        -V, --version       Print version
      
      Exit codes:
          0  done
          1  not done; stderr says why
          2  the command line makes no sense
          3  the time for waiting ran out
        130  ended by Ctrl-C
      exec ends with the code of the program that it ran.
      
      Names may be given as names, ids or unique beginnings of either, and as NOUN/NAME.
    "#);
    assert_eq!(desk.run("help"), desk.run("-h"));
    assert_eq!(desk.run("-V"), format!("exit 0\nstdout:\n  rikctl {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_command_line_that_makes_no_sense_is_exit_code_2() {
    let desk = Desk::without_cluster();
    insta::assert_snapshot!(desk.run("get instnces"), @r#"
    exit 2
    stderr:
      error: invalid value 'instnces' for '<NOUN>'
        [possible values: workloads, instances, nodes, events, configs, secrets]
      
        tip: a similar value exists: 'instances'
      
      For more information, try '--help'.
    "#);
    insta::assert_snapshot!(desk.run("craete workload"), @r#"
    exit 2
    stderr:
      error: unrecognized subcommand 'craete'
      
        tip: a similar subcommand exists: 'create'
      
      Usage: rikctl [OPTIONS] <COMMAND>
      
      For more information, try '--help'.
    "#);
    insta::assert_snapshot!(desk.run("create instance -w x -r 0"), @r#"
    exit 2
    stderr:
      error: invalid value '0' for '--replicas <N>': 0 is not in 1..=1000
      
      For more information, try '--help'.
    "#);
    insta::assert_snapshot!(desk.run("wait instance x --for running --timeout soon"), @r#"
    exit 2
    stderr:
      error: invalid value 'soon' for '--timeout <TIME>': allowed are 0s to 24h, such as 90s, 5m or 1h
      
      For more information, try '--help'.
    "#);
    assert!(desk.run("").starts_with("exit 2"));
    assert!(!desk.path().join(".rik").exists(), "a usage error must leave nothing");
}

#[test]
fn every_shell_has_a_completion_script() {
    let desk = Desk::without_cluster();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = desk.run(&format!("completion {shell}"));
        assert!(told.starts_with("exit 0") && told.contains("workload-id"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let many: Vec<_> =
        (0..5_000).map(|index| instance(&format!("web-{index}"), "Running", json!({}))).collect();
    let controller = Controller::start().says("GET /instances", 200, page(&many));
    let desk = Desk::of(&controller);
    let mut child = desk.command("get instances").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = finished(child);
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let desk = Desk::without_cluster();
    let plain = desk.run("delete instances");
    assert!(!plain.contains('\u{1b}'));
    let child = desk.command("delete instances").env("CLICOLOR_FORCE", "1").spawn().unwrap();
    assert!(desk.told(finished(child)).contains("\u{1b}[1;31merror:"));
    let child =
        desk.command("delete instances").env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").spawn().unwrap();
    let told = desk.told(finished(child));
    assert!(told.contains("error:"), "{told}");
}
