//! Starting: in any order, with wrong arguments, twice, and on which addresses.

use std::process::Command;

use e2e::lab::{self, NODE};
use e2e::manifest::sleeper;
use e2e::network::{self, Host};
use e2e::{Lab, SHORT, programs, rikctl, story, wait_until};

/// C-02, C-03: REST is served and instances are taken while the scheduler is away; they run when it comes.
#[test]
fn c02_c03_controller_works_without_scheduler() {
    story(|lab| {
        lab.start_controller();
        let api = lab.api();
        api.wait_up();
        let workload = api.create_workload(&sleeper("early"));
        api.create_instance(&workload, "early");
        let instance = api.instance("early").expect("it is there at once");
        assert_eq!(instance["status"], "Pending");
        lab.daemon("controller").wait_log("scheduler");
        lab.start_node(NODE);
        lab.start_scheduler();
        api.wait_node(NODE, "Ready");
        lab.load(&e2e::image::busybox("busybox:1"));
        // The image may have been missing at the first try, which is an end for a bare instance.
        api.delete_instance("early");
        api.wait_gone("early");
        api.create_instance(&workload, "late");
        api.wait_status("late", "Running");
    });
}

/// C-31: a riklet waits for its scheduler, says so, and outlives it.
#[test]
fn c31_riklet_waits_for_its_scheduler() {
    story(|lab| {
        lab.start_node(NODE);
        lab.daemon(NODE).wait_log("scheduler");
        assert_eq!(lab.daemon(NODE).ended(), None);
        lab.start_scheduler();
        lab.start_controller();
        lab.api().wait_up();
        lab.api().wait_node(NODE, "Ready");
        lab.kill("scheduler");
        assert_eq!(lab.daemon(NODE).ended(), None);
        lab.start_scheduler();
        lab.api().wait_node(NODE, "Ready");
    });
}

/// C-03: a port that is no number is an error in words, not a panic.
#[test]
fn c03_wrong_settings_are_errors_in_words() {
    story(|_| {
        let mut controller = Command::new(programs::built("controller"));
        let state = Lab::state().join("controller");
        let said = rikctl::say(controller.env("PORT", "http").env("DATABASE_LOCATION", &state));
        assert_ne!(said.code, 0);
        assert_ne!(said.code, 101, "a panic: {}", said.stderr);
        assert!(said.stderr.contains("PORT"), "{}", said.stderr);
        for arguments in [["--workersip", "nowhere"], ["--ctrlip", "127.0.0.1:99999"]] {
            let said = rikctl::say(Command::new(programs::built("scheduler")).args(arguments));
            assert_eq!(said.code, 2, "{}", said.stderr);
            assert!(said.stderr.contains(arguments[1]), "{}", said.stderr);
        }
        let said = rikctl::say(Command::new(programs::built("riklet")).args(["--node-name", "../up"]));
        assert!(said.code == 1 || said.code == 2, "{said:?}");
        assert!(said.stderr.contains("../up"), "{}", said.stderr);
        // Its documented configuration file is written when there is none, and nothing else.
        let _ = std::fs::remove_dir_all("/etc/riklet");
        assert!(!std::path::Path::new("/var/lib/riklet").exists(), "a refused riklet made its state");
    });
}

/// C-46: nobody outside is listened to unless an address says so, and then there is a warning.
#[test]
fn c46_default_bind_is_loopback_and_anything_else_is_warned_of() {
    story(|lab| {
        let mut scheduler = Command::new(programs::built("scheduler"));
        lab.start("scheduler", scheduler.current_dir(Lab::root()));
        lab.start_controller();
        lab.api().wait_up();
        wait_until(SHORT, "the scheduler to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", 4995)).map(drop)
        });
        let here = Host::here();
        for port in [5000, 4995, 4996] {
            let url = format!("http://{}:{port}/", network::HOST_ADDRESS);
            let error = here.fetch(&url).expect_err("nobody listens there");
            assert!(error.contains("connect") || error.contains("refused"), "{error}");
        }
        lab.stop("scheduler");
        lab.start_scheduler();
        lab.daemon("scheduler").wait_log("0.0.0.0:4995");
        let log = lab.daemon("scheduler").log();
        assert!(log.to_lowercase().contains("warn"), "{log}");
    });
}

/// C-45: what is given on the command line counts, also when the configuration file exists.
#[test]
fn c45_command_line_wins_over_the_file() {
    story(|lab| {
        let file = lab::configuration(NODE);
        std::fs::write(&file, "master_ip = \"http://127.0.0.1:1\"\nlog_level = \"info\"\n").expect("a file");
        lab.start_scheduler();
        lab.start_controller();
        lab.start_node(NODE);
        lab.api().wait_up();
        lab.api().wait_node(NODE, "Ready");
    });
}

#[test]
fn second_riklet_on_the_same_state_says_who_is_there() {
    story(|lab| {
        lab.cluster();
        let first = lab.daemon(NODE).pid();
        let said = rikctl::say(&mut lab::riklet(&Host::here(), NODE, &e2e::programs::built("riklet")));
        assert_ne!(said.code, 0);
        assert!(said.stderr.contains(&first.to_string()), "{}", said.stderr);
        lab.api().wait_node(NODE, "Ready");
    });
}

/// C-20: a second controller does not break the first.
#[test]
fn c20_second_controller_does_not_disturb_the_first() {
    story(|lab| {
        let api = lab.cluster();
        let mut second = Command::new(programs::built("controller"));
        second
            .env("DATABASE_LOCATION", Lab::state().join("second"))
            .env("SCHEDULER_URL", "http://127.0.0.1:4996")
            .env("PORT", "5001")
            .current_dir(Lab::root());
        lab.start("second", &mut second);
        lab.daemon("second").wait_log("scheduler");
        api.run(&sleeper("undisturbed"));
        lab.stop("second");
        api.delete_instance("undisturbed");
        api.wait_gone("undisturbed");
    });
}

#[test]
fn damaged_database_is_an_error_and_never_an_empty_cluster() {
    story(|lab| {
        lab.start_controller();
        let api = lab.api();
        api.wait_up();
        let _ = api.create_workload(&sleeper("precious"));
        lab.stop("controller");
        let file = Lab::state().join("controller").join("rik.db");
        let mut bytes = std::fs::read(&file).expect("the database is a file");
        bytes[..100].fill(0x5A);
        std::fs::write(&file, &bytes).expect("the database can be written");
        lab.start_controller();
        let status = lab.daemon("controller").wait_end();
        assert_ne!(status.code(), Some(0));
        let log = lab.daemon("controller").log();
        assert!(log.contains("rik.db"), "{log}");
        assert_eq!(std::fs::read(&file).expect("it is still there"), bytes, "it was not touched");
    });
}

#[test]
fn database_can_be_read_by_hand() {
    story(|lab| {
        lab.start_controller();
        let api = lab.api();
        api.wait_up();
        let _ = api.create_workload(&sleeper("readable"));
        lab.stop("controller");
        let file = Lab::state().join("controller").join("rik.db");
        let query = "select element_type, element_id from element where element_type = '/workload'";
        let rows = Host::here().run("sqlite3", &[&file.to_string_lossy(), query]);
        assert_eq!(rows.trim(), "/workload|/workload/pods/default/readable");
    });
}
