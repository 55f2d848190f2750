//! The harness itself: an enclosure is a machine of one's own, and leaves nothing behind.

use std::fs;
use std::process::Command;

use e2e::ledger::Ledger;
use e2e::network::{self, Host};
use e2e::{SHORT, cgroups, image, probe, story, wait_until};

#[test]
fn enclosure_is_empty_at_the_start() {
    story(|_| {
        assert_eq!(network::all(), [Host::here()]);
        let run = fs::read_dir("/run").expect("/run can be listed").flatten();
        assert_eq!(run.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["netns"]);
        assert_eq!(probe::processes("riklet"), Vec::<u32>::new());
        let links = Host::here().run("ip", &["-brief", "link"]);
        assert!(!links.contains("eth"), "{links}");
    });
}

#[test]
fn files_of_the_machine_can_be_read_and_not_changed() {
    story(|_| {
        let error = fs::write("/usr/rik", "").expect_err("/usr is the machine's");
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        for folder in ["/etc", "/var/lib", "/root"] {
            let file = format!("{folder}/written-by-a-story");
            fs::write(&file, "").expect("a layer can be written");
            let upper = rustix::fs::statfs(&file).expect("it is there").f_type;
            assert_eq!(upper, OVERLAY, "{folder} is the machine's own");
        }
        assert_eq!(std::env::var("HOME").as_deref(), Ok("/tmp/lab/home"));
    });
}

/// The kernel's number for overlays, `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY: i64 = 0x794c_7630;

#[test]
fn ledger_names_everything_that_is_left_behind() {
    story(|lab| {
        let before = Ledger::of_lab();
        let host = lab.add_host("other");
        host.run("iptables", &["-t", "nat", "-N", "LEFT"]);
        fs::write("/run/left", "").expect("a file can be written");
        cgroups::make("left").expect("a cgroup can be made");
        let mut sleeper = Command::new("sleep").arg("600").spawn().expect("sleep is installed");
        // A process has no arguments yet when `spawn` returns, for the blink of an eye.
        wait_until(SHORT, "sleep to run", || {
            (probe::processes("sleep 600").len() == 1).then_some(()).ok_or("no")
        });
        let seen = before.differences(&Ledger::of_lab()).join("\n");
        for expected in [
            "left behind: namespace other",
            "left behind: link host lab-other",
            "left behind: rule other iptables-nft-save nat chain LEFT -",
            "left behind: file /run/left",
            "left behind: process sleep 600 (sleep)",
            "left behind: mount /run/netns/other nsfs",
        ] {
            assert!(seen.contains(expected), "{expected:?} is not in\n{seen}");
        }
        assert!(seen.contains("left behind: cgroup ") && seen.contains("/left"), "{seen}");
        sleeper.kill().and_then(|()| sleeper.wait()).expect("sleep can be ended");
        fs::remove_file("/run/left").expect("the file can be removed");
        assert_eq!(cgroups::remove("left").expect("cgroups can be listed"), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn hosts_of_a_lab_reach_each_other() {
    story(|lab| {
        let (one, two) = (lab.add_host("one"), lab.add_host("two"));
        one.run("busybox", &["ping", "-c", "1", "-W", "5", &two.address]);
        two.run("busybox", &["ping", "-c", "1", "-W", "5", network::HOST_ADDRESS]);
    });
}

#[test]
fn registry_takes_and_gives_images() {
    story(|lab| {
        let host = lab.add_host("one");
        let registry = lab.registry();
        let reference = registry.push(&image::busybox("tools/busybox:1"));
        assert_eq!(reference, registry.reference("tools/busybox:1"));
        let tags = "http://127.0.0.1:5080/v2/tools/busybox/tags/list";
        assert!(lab.page(tags).contains("\"1\""));
        assert!(host.fetch(tags).expect("the other host has the registry too").contains("\"1\""));
    });
}
