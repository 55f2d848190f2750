//! Functions: microVMs of their own, used as pods are. Emulated here, for the tests run on machines that are virtual
//! themselves.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use e2e::api::{pids, text};
use e2e::lab::{self, NODE};
use e2e::manifest::{function, script};
use e2e::network::{HOST_ADDRESS, Host};
use e2e::terminal::Typed;
use e2e::{LONG, Lab, SHORT, probe, programs, rikctl, story, wait_until};
use serde_json::{Value, json};

/// A web server in the busybox image that answers with what its environment says.
const WEB: &str = "echo here is $NAME > /srv/index.html; echo started; exec busybox httpd -f -p 8080 -h /srv";

fn web(name: &str) -> Value {
    let mut manifest = function(name, WEB);
    let container = &mut manifest["spec"]["containers"][0];
    container["env"] = json!([{ "name": "NAME", "value": name }]);
    container["readinessProbe"] = json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 });
    manifest
}

fn wait_log(lab: &Lab, name: &str, words: &str) {
    wait_until(LONG, "the function's words", || {
        let said = lab.rikctl(&["logs", name]);
        if said.stdout.contains(words) { Ok(()) } else { Err(format!("{}{}", said.stdout, said.stderr)) }
    });
}

/// C-41: its address is of the block of its node, as a pod's, and not of a network that houses have.
#[test]
fn function_of_an_image_is_reached_like_a_pod() {
    story(|lab| {
        let outside = lab.add_host("outside");
        let api = lab.cluster();
        // As a container engine beside us sets it.
        let here = Host::here();
        let _ = here.run("iptables", &["-P", "FORWARD", "DROP"]);
        let mut manifest = web("fn");
        manifest["spec"]["containers"][0]["ports"] = json!({ "port": 30080, "targetPort": 8080 });
        let running = api.run(&manifest);
        wait_log(lab, "fn", "started");
        for url in ["http://127.0.0.1:30080/", &format!("http://{HOST_ADDRESS}:30080/")] {
            wait_until(SHORT, "the function to answer", || match here.fetch(url) {
                Ok(page) if page.contains("here is fn") => Ok(()),
                other => Err(format!("{url}: {other:?}")),
            });
        }
        let page = wait_until(SHORT, "the other host to be answered", || {
            outside.fetch(&format!("http://{HOST_ADDRESS}:30080/"))
        });
        assert!(page.contains("here is fn"), "{page}");
        wait_until(SHORT, "its probe to be answered", || match api.instance("fn") {
            Some(instance) if lab.rikctl(&["get", "instances", "-o", "wide"]).stdout.contains("1/1") => {
                Ok(instance)
            }
            other => Err(format!("{other:?}")),
        });

        // A kernel of its own, an address among the pods', and its own processes alone.
        let kernel = lab.rikctl(&["exec", "fn", "--", "busybox", "uname", "-r"]).good();
        let boot = programs::guest_kernel().expect("the tests' kernel");
        let version = boot.file_name().unwrap_or_default().to_string_lossy().replace("vmlinuz-", "");
        assert_eq!(kernel.trim(), version);
        let processes = lab.rikctl(&["exec", "fn", "--", "busybox", "ps", "-o", "pid,args"]).good();
        assert!(processes.contains("    1 busybox httpd") && !processes.contains("init"), "{processes}");

        // A pod reaches it, and it a pod.
        let address = text(&running["ip"]);
        assert!(address.starts_with("10.42."), "{address}");
        let other = api.run(&script("pod", "exec busybox httpd -f -p 8080 -h /srv"));
        let ask = |from: &str, address: &str| {
            let line = format!("printf 'GET /motd HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} 8080");
            lab.rikctl(&["exec", from, "--", "/bin/busybox", "sh", "-c", &line]).stdout
        };
        for (from, address) in [("pod", address.as_str()), ("fn", &text(&other["ip"]))] {
            wait_until(SHORT, "the two to reach each other", || match ask(from, address) {
                page if page.contains("from the image") => Ok(()),
                page => Err(page),
            });
        }

        api.delete_instance("fn");
        api.wait_gone("fn");
        let _ = here.run("iptables", &["-P", "FORWARD", "ACCEPT"]);
    });
}

/// Programs, files, a terminal, secrets: as with a container.
#[test]
fn function_of_an_image_is_operated_like_a_pod() {
    story(|lab| {
        let api = lab.cluster();
        let secret = json!({ "name": "db", "data": { "word": "hidden" } });
        let _ = api.json("POST", "/api/v1/secrets", &secret, 201);
        let mut manifest = web("fn");
        let word =
            json!({ "name": "WORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "word" } } });
        manifest["spec"]["containers"][0]["env"].as_array_mut().expect("a list").push(word);
        api.run(&manifest);
        wait_log(lab, "fn", "started");
        let said =
            lab.rikctl(&["exec", "fn", "--", "/bin/busybox", "sh", "-c", "echo $WORD $NAME $FLAVOUR"]).good();
        assert_eq!(said.trim(), "hidden fn image", "of the secret, the manifest and the image");
        let _ = lab.rikctl(&["exec", "fn", "--", "/bin/busybox", "sh", "-c", "exit 7"]).bad(7);
        // Whoever goes takes his program along, however much of its output he has left unread.
        let mut flood = rikctl::command();
        flood.args(["exec", "fn", "--", "/bin/busybox", "yes"]).stdout(Stdio::piped());
        let mut flood = flood.spawn().expect("rikctl begins");
        let out = flood.stdout.as_mut().expect("its output");
        out.read_exact(&mut [0_u8; 4096]).expect("some of it");
        flood.kill().expect("it is there");
        drop(flood.wait());
        wait_until(SHORT, "the program to be gone", || {
            let list = lab.rikctl(&["exec", "fn", "--", "busybox", "ps", "-o", "args"]).stdout;
            if list.contains("busybox yes") { Err(list) } else { Ok(()) }
        });
        let missing = lab.rikctl(&["exec", "fn", "--", "nothing-there"]);
        assert!(missing.stderr.contains("\"nothing-there\" not found in the image"), "{}", missing.stderr);
        let mut command = rikctl::command();
        command.args(["exec", "-it", "fn", "--", "/bin/busybox", "sh"]);
        let mut terminal = Typed::start(command, 33, 99);
        terminal.press("busybox stty size; tty=$(busybox tty); echo on $tty\n");
        terminal.wait_for("33 99");
        terminal.wait_for("on /dev/pts/");
        terminal.press("exit 5\n");
        assert_eq!(terminal.code(), Some(5));
        let folder = Lab::root().join("copied");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("note"), vec![b'x'; 300_000]).expect("a file");
        let note = folder.join("note").display().to_string();
        let _ = lab.rikctl(&["cp", &note, "fn:/srv/note"]).good();
        let back = folder.join("back").display().to_string();
        let _ = lab.rikctl(&["cp", "fn:/srv/note", &back]).good();
        assert_eq!(std::fs::read(&back).expect("the copy").len(), 300_000);

        // Its clock is finer than a tick, and its processor has what programs of today want.
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let clock = lab.rikctl(&["exec", "fn", "--", "busybox", "cat", clock]).good();
        assert!(["tsc", "kvm-clock"].contains(&clock.trim()), "{clock}");
        let flags =
            lab.rikctl(&["exec", "fn", "--", "busybox", "grep", "-m1", "flags", "/proc/cpuinfo"]).good();
        assert!(flags.contains(" sse4_2 ") && flags.contains(" popcnt "), "{flags}");

        // What it is on the machine is told, and where the time went.
        let sheet = lab.rikctl(&["describe", "instance", "fn"]).good();
        assert!(sheet.contains("Kind:          Function") && sheet.contains("Start:"), "{sheet}");
        let node = lab.rikctl(&["describe", "node", NODE]).good();
        assert!(node.contains("qemu-system-x86_64 with the kernel"), "{node}");
    });
}

/// One line, with pipes and with a terminal: nothing of what is typed or said is lost, and the code is the program's.
#[test]
fn one_line_runs_a_program_in_a_microvm_and_talks_to_it() {
    story(|lab| {
        let _ = lab.cluster();
        let mut count = rikctl::command();
        count.args(["run", "--function", "-i", "--rm", "--name", "count", "busybox:1", "--"]);
        count.args(["/bin/busybox", "sh", "-c", "busybox wc -c; exit 3"]);
        let mut count = count.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("rikctl begins");
        let mut input = count.stdin.take().expect("its input");
        input.write_all(&vec![b'x'; 200_000]).expect("it reads");
        drop(input);
        let done = count.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "200000");
        assert_eq!(done.status.code(), Some(3));
        let mut shell = rikctl::command();
        shell.args([
            "run",
            "--function",
            "-it",
            "--rm",
            "--name",
            "shell",
            "busybox:1",
            "--",
            "/bin/busybox",
            "sh",
        ]);
        let mut terminal = Typed::start(shell, 31, 97);
        terminal.wait_for("#");
        terminal.press("busybox stty size; echo $((6*7))\n");
        terminal.wait_for("31 97");
        terminal.wait_for("42");
        terminal.press("exit 4\n");
        assert_eq!(terminal.code(), Some(4));
    });
}

/// S-VM-01, S-VM-02, S-VM-07, S-VM-09: a VMM has no rights and sees nothing; its guest reaches nothing of the machine.
#[test]
fn s_vm_01_vmm_is_confined_and_its_guest_reaches_nothing_of_the_machine() {
    story(|lab| {
        let api = lab.cluster();
        let running = api.run(&web("own-name"));
        let supervisor = pids(&running)[0];
        let vmm = child(supervisor);
        for pid in [supervisor, vmm] {
            assert_eq!(probe::status(pid, "CapEff").trim_start_matches('0'), "", "no capability");
            assert_eq!(probe::status(pid, "CapBnd").trim_start_matches('0'), "", "and none to be had");
            assert_eq!(probe::status(pid, "NoNewPrivs"), "1");
            assert_eq!(probe::status(pid, "Seccomp"), "2");
            let uid: u32 =
                probe::status(pid, "Uid").split_whitespace().next().unwrap_or("0").parse().unwrap_or(0);
            assert!(uid > 65_536, "user {uid} is nobody on the machine");
            for kind in ["mnt", "net", "pid", "user", "ipc", "uts"] {
                assert_ne!(probe::namespace(pid, kind), probe::namespace(std::process::id(), kind), "{kind}");
            }
            let root = format!("/proc/{pid}/root");
            assert!(!Path::new(&root).join("root").exists() && !Path::new(&root).join("home").exists());
            assert!(
                std::fs::write(Path::new(&root).join("rik-guest"), "x").is_err(),
                "its root is read-only"
            );
        }
        let line = probe::command_line(vmm);
        assert!(
            line.contains("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
        );
        assert!(!line.contains("own-name"), "nothing of the user is in its arguments: {line}");

        // The API of the controller listens on the machine; so does what the clouds have at the usual place.
        let reach = |address: &str, port: u16| {
            let line = format!("busybox nc -w 2 {address} {port} < /dev/null");
            lab.rikctl(&["exec", "own-name", "--", "/bin/busybox", "sh", "-c", &line]).code
        };
        let gateway =
            text(&running["ip"]).rsplit_once('.').map(|(net, _)| format!("{net}.1")).unwrap_or_default();
        assert_ne!(reach(&gateway, 5000), 0, "the controller is closed to it");
        assert_ne!(reach(HOST_ADDRESS, 5000), 0, "by every address");
        assert_ne!(reach("169.254.169.254", 80), 0, "metadata");
        // With another's address nothing comes through: not even an answer from a pod of the same node.
        let pod = api.run(&script("pod", "exec busybox httpd -f -p 8080 -h /srv"));
        let target = text(&pod["ip"]);
        assert_eq!(reach(&target, 8080), 0, "a pod answers");
        let liar = target.rsplit_once('.').map(|(net, _)| format!("{net}.77")).unwrap_or_default();
        let spoof = format!(
            "busybox ip addr add {liar}/24 dev eth0; busybox nc -w 2 -s {liar} {target} 8080 < /dev/null"
        );
        assert_ne!(lab.rikctl(&["exec", "own-name", "--", "/bin/busybox", "sh", "-c", &spoof]).code, 0);
    });
}

/// S-VM-08, S-VM-10: each way in which a microVM can end has a status that says so. C-40: one that cannot begin leaves
/// nothing behind.
#[test]
fn s_vm_10_every_end_of_a_microvm_is_told() {
    story(|lab| {
        let api = lab.cluster();
        let ends = [
            ("done", "echo bye", "Terminated", "", ""),
            ("three", "exit 3", "Failed", "NonZeroExit", "exit code 3"),
            (
                "panic",
                "echo c > /proc/sysrq-trigger; busybox sleep 100",
                "Failed",
                "MicrovmFailed",
                "the microVM ended: Kernel panic - not syncing: sysrq triggered crash",
            ),
            ("hungry", "exec busybox tail /dev/zero", "Failed", "OutOfMemory", "memory"),
        ];
        for (name, script, _, _, _) in ends {
            let workload = api.create_workload(&function(name, script));
            api.create_instance(&workload, name);
        }
        let mut missing = function("missing", "");
        missing["spec"]["containers"][0]["command"] = json!(["/bin/nothing"]);
        missing["spec"]["containers"][0]["args"] = json!([]);
        let workload = api.create_workload(&missing);
        api.create_instance(&workload, "missing");
        let more = [("missing", "", "Failed", "StartFailed", "\"/bin/nothing\" not found in the image")];
        for (name, _, status, reason, words) in ends.into_iter().chain(more) {
            let ended = wait_until(LONG * 2, "the microVM to end", || match api.instance(name) {
                Some(instance) if ["Terminated", "Failed"].contains(&text(&instance["status"]).as_str()) => {
                    Ok(instance)
                }
                other => Err(format!("{name}: {other:?}")),
            });
            let found = (text(&ended["status"]), text(&ended["reason"]));
            assert_eq!(found, (status.to_owned(), reason.to_owned()), "{ended}");
            assert!(text(&ended["message"]).contains(words), "{ended}");
        }
        assert_eq!(lab.rikctl(&["logs", "done"]).stdout, "bye\n");
        // A VMM that is killed, and one that runs again because its policy says so.
        let mut kept = web("kept");
        kept["spec"]["restartPolicy"] = "OnFailure".into();
        let first = pids(&api.run(&kept))[0];
        let vmm = child(first);
        kill(vmm);
        let again = wait_until(LONG, "it to run again", || match api.instance("kept") {
            Some(instance) if instance["restarts"] == 1 && instance["status"] == "Running" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert_ne!(pids(&again).first(), Some(&first));
        assert!(!probe::is_alive(vmm) && !probe::is_alive(first));
        let sheet = lab.rikctl(&["describe", "instance", "kept"]).good();
        assert!(sheet.contains("MicrovmFailed"), "{sheet}");
    });
}

/// S-VM-06: what a guest says on its console is read and thrown away, however much it is.
#[test]
fn s_vm_06_flooded_console_costs_nobody_memory_and_holds_nothing_up() {
    /// Bytes that are read before it is looked at what they cost: many times what is kept.
    const SAID: u64 = 128 << 10;
    story(|lab| {
        let api = lab.cluster();
        let running = api.run(&function("loud", "busybox yes flood > /dev/ttyS0 & exec busybox sleep 1000"));
        let supervisor = pids(&running)[0];
        wait_until(LONG, "much to be said", || {
            let io = std::fs::read_to_string(format!("/proc/{supervisor}/io")).unwrap_or_default();
            let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok());
            if read.is_some_and(|bytes| bytes > SAID) { Ok(()) } else { Err(io) }
        });
        let memory = probe::status(supervisor, "VmRSS");
        let kib: u64 = memory.trim_end_matches(" kB").trim().parse().unwrap_or(u64::MAX);
        assert!(kib < 16 << 10, "the supervisor has {memory}");
        let _ = lab.rikctl(&["exec", "loud", "--", "/bin/busybox", "true"]).good();
        assert_eq!(lab.rikctl(&["logs", "loud"]).stdout, "");
    });
}

/// S-VM-11: who runs the guests' instructions is found out by booting the very kernel, and told with the reason.
#[test]
fn s_vm_11_processor_is_tried_and_what_is_fallen_back_to_is_told() {
    story(|lab| {
        let api = lab.cluster();
        let _ = lab.stop(NODE);
        let mut command = lab::riklet(&Host::here(), NODE, &programs::built("riklet"));
        command.args(["--vm-accelerator", "auto"]);
        lab.start(NODE, &mut command);
        api.wait_node(NODE, "Ready");
        api.run(&web("fn"));
        wait_log(lab, "fn", "started");
        let told = wait_until(LONG, "the node to tell", || {
            let sheet = lab.rikctl(&["describe", "node", NODE]).good();
            let line =
                sheet.lines().find(|line| line.starts_with("MicroVMs:")).unwrap_or_default().to_owned();
            if line.contains(", by KVM") || line.contains(", emulated (") { Ok(line) } else { Err(sheet) }
        });
        // On a machine whose processor cannot, the reason is more than that it cannot.
        assert!(told.contains("by KVM") || told.contains("emulated (KVM was tried: "), "{told}");
        let verdict = Lab::node_state(NODE).join("microvms/jails/kvm.json");
        let kept = std::fs::read_to_string(&verdict).unwrap_or_default();
        assert!(kept.contains("whyNot") || !Path::new("/dev/kvm").exists(), "{kept}");
    });
}

/// They begin from one template, and are all different: address, clock, random numbers, name. C-39: nothing of them stays.
#[test]
fn twenty_functions_that_begin_at_once_are_all_different() {
    const COUNT: usize = 20;
    story(|lab| {
        let api = lab.cluster();
        let words = "busybox date +%s; busybox hostname; busybox head -c 16 /dev/urandom | busybox od -An -tx1; \
                     busybox cat /proc/sys/kernel/random/boot_id; busybox ip -4 -o addr show eth0; exec busybox sleep 1000";
        let workload = api.create_workload(&function("many", words));
        let names = api.create_instances(&workload, u32::try_from(COUNT).unwrap_or_default());
        for name in &names {
            let _ = wait_until(LONG * 3, "it to run", || match api.instance(name) {
                Some(instance) if instance["status"] == "Running" => Ok(instance),
                other => Err(format!("{other:?}")),
            });
        }
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let mut told: Vec<std::collections::BTreeSet<String>> = vec![Default::default(); 5];
        for name in &names {
            let log = wait_until(SHORT, "its words", || match lab.rikctl(&["logs", name]).stdout {
                log if log.lines().count() >= 5 => Ok(log),
                log => Err(log),
            });
            for (number, line) in log.lines().take(5).enumerate() {
                told[number].insert(line.trim().to_owned());
            }
            let clock: u64 = log.lines().next().and_then(|line| line.parse().ok()).unwrap_or_default();
            assert!(clock.abs_diff(now) < 300, "{name}: its clock says {clock}, ours {now}");
        }
        // Names, random numbers, ids of the start, addresses: of each as many as there are microVMs.
        let counts: Vec<usize> = told[1..].iter().map(std::collections::BTreeSet::len).collect();
        assert_eq!(counts, [COUNT; 4], "{told:?}");
        let sheet = lab.rikctl(&["describe", "instance", &names[COUNT - 1]]).good();
        assert!(sheet.contains("(warm, from a template)"), "{sheet}");
        api.delete_workload(&workload);
        for name in &names {
            api.wait_gone(name);
        }
    });
}

#[test]
fn microvms_go_on_while_their_riklet_is_away() {
    story(|lab| {
        let api = lab.cluster();
        let mut manifest = web("fn");
        manifest["spec"]["containers"][0]["ports"] = json!({ "port": 30080, "targetPort": 8080 });
        let before = pids(&api.run(&manifest));
        wait_log(lab, "fn", "started");
        lab.kill(NODE);
        wait_until(SHORT, "it to answer", || Host::here().fetch("http://127.0.0.1:30080/"));
        lab.start_node(NODE);
        api.wait_node(NODE, "Ready");
        wait_until(SHORT, "its node to know it", || {
            let said = lab.rikctl(&["exec", "fn", "--", "/bin/busybox", "true"]);
            if said.code == 0 { Ok(()) } else { Err(said.stderr) }
        });
        assert_eq!(pids(&api.instance("fn").expect("it is there")), before);
        api.delete_instance("fn");
        api.wait_gone("fn");
        assert!(before.iter().all(|pid| !probe::is_alive(*pid)));
    });
}

/// The one child of a process.
fn child(pid: u32) -> u32 {
    wait_until(SHORT, "the process's child", || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().and_then(|child| child.parse().ok()).ok_or(text)
    })
}

/// Ends a process that this story has begun.
fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or_default()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is there");
}

/// Where the processor cannot run a guest, a program stands for Firecracker that takes its API as strictly, and looks at what
/// a machine of it would be given.
#[test]
fn function_runs_by_firecracker_where_that_is_there() {
    story(|lab| {
        let fake = programs::built("firecracker-for-tests");
        let api = lab.cluster();
        start_with_firecracker(lab, &fake, "kvm");
        let mut manifest = function("fire", "echo not seen");
        manifest["spec"]["resources"] = json!({ "limits": { "cpu": "2", "memory": "256Mi" } });
        let id = api.create_instance(&api.create_workload(&manifest), "fire");
        let failed = api.wait_status(&id, "Failed");
        assert_eq!((&failed["reason"], &failed["exitCode"]), (&json!("NonZeroExit"), &json!(7)), "{failed}");
        let said = lab.rikctl(&["logs", "fire"]).good();
        let expected =
            "fire with 2 processors and 256 MiB, address true, clock true, random numbers 64: Run(";
        assert!(said.starts_with(expected) && said.contains("echo not seen"), "{said}");
        let told = format!("{} with the kernel ", fake.display());
        wait_until(SHORT, "the node to tell what it runs them with", || {
            let said = lab.rikctl(&["describe", "node", NODE]).good();
            if said.contains(&told) && said.contains("by KVM (as configured)") { Ok(()) } else { Err(said) }
        });
    });
}

/// A riklet in place of the one that runs, with that program as Firecracker and nothing else.
fn start_with_firecracker(lab: &mut Lab, program: &Path, accelerator: &str) {
    lab.stop(NODE);
    let mut command = lab::riklet(&Host::here(), NODE, &programs::built("riklet"));
    command
        .env("FIRECRACKER_LOCATION", program)
        .env("RIKLET_VMM", "firecracker")
        .env("RIKLET_VM_ACCELERATOR", accelerator);
    lab.start(NODE, &mut command);
    lab.api().wait_node(NODE, "Ready");
}

#[test]
fn firecracker_that_cannot_run_the_kernel_is_told_with_the_reason() {
    story(|lab| {
        let api = lab.cluster();
        start_with_firecracker(lab, Path::new("/bin/true"), "auto");
        let id = api.create_instance(&api.create_workload(&function("fire", "echo not seen")), "fire");
        let failed = api.wait_status(&id, "Failed");
        assert_eq!(failed["reason"], "KindUnsupported", "{failed}");
        let message = text(&failed["message"]);
        // A machine without KVM says that instead.
        let why = ["the VMM ended at once", "/dev/kvm: "].iter().any(|why| message.contains(why));
        assert!(message.contains("true was tried: ") && why, "{failed}");
    });
}

#[test]
fn function_has_volumes_in_the_memory_of_its_microvm() {
    const CANARY: &str = "canary-of-the-volume";
    story(|lab| {
        let api = lab.cluster();
        let made = lab.rikctl(&["create", "config", "site", "--from-literal", "motd=good morning"]).good();
        assert_eq!(made, "config/site created\n");
        let token = format!("token={CANARY}");
        let made = lab.rikctl(&["create", "secret", "key", "--from-literal", &token]).good();
        assert_eq!(made, "secret/key created\n");
        let script = "busybox cat /srv/text/motd; echo; busybox cat /run/keys/token; echo; \
             busybox stat -c '%a %u %n' /run/keys/token /space /etc/motd; \
             echo x > /run/keys/new || echo given is read-only; \
             echo data > /space/own && busybox cat /space/own; \
             echo part > /part/of && busybox cat /space/a/b/of; \
             echo x > /seen/new || echo seen is read-only; \
             busybox dd if=/dev/zero of=/small/much bs=64k count=32 2>&1 || echo small is full; \
             echo all was seen; busybox sleep 600";
        let mut manifest = function("fn", script);
        manifest["spec"]["volumes"] = json!([
            { "name": "conf", "config": { "name": "site" } },
            { "name": "keys", "secret": { "name": "key" } },
            { "name": "work", "emptyDir": {} },
            { "name": "small", "emptyDir": { "sizeLimit": "1Mi" } },
        ]);
        let container = &mut manifest["spec"]["containers"][0];
        container["securityContext"] = json!({ "runAsUser": 1000 });
        container["volumeMounts"] = json!([
            { "name": "conf", "mountPath": "/srv/text" },
            { "name": "conf", "mountPath": "/etc/motd", "subPath": "motd" },
            { "name": "keys", "mountPath": "/run/keys" },
            { "name": "work", "mountPath": "/space" },
            { "name": "work", "mountPath": "/seen", "readOnly": true },
            { "name": "work", "mountPath": "/part", "subPath": "a/b" },
            { "name": "small", "mountPath": "/small" },
        ]);
        api.run(&manifest);
        wait_log(lab, "fn", "all was seen");
        let said = lab.rikctl(&["logs", "fn"]).good();
        for words in [
            "good morning\n",
            CANARY,
            "400 1000 /run/keys/token\n",
            "777 0 /space\n",
            "444 1000 /etc/motd\n",
            "given is read-only\n",
            "seen is read-only\n",
            "\ndata\npart\n",
            "small is full\n",
        ] {
            assert!(said.contains(words), "{words:?} in {said}");
        }
        // What is secret is in memory alone: on the node, below `g` of the pod.
        let mut grep = std::process::Command::new("grep");
        grep.args(["-rlF", "--exclude-dir=g", "--exclude-dir=logs", CANARY]).arg(Lab::node_state(NODE));
        let found = grep.output().expect("grep runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "on the disk");

        let mut foreign = function("no", "true");
        foreign["spec"]["volumes"] = json!([{ "name": "host", "hostPath": { "path": "/srv" } }]);
        let answer = api.send("POST", "/api/v1/workloads", &foreign.to_string());
        assert!(answer.status == 400 && answer.body.contains("spec.volumes[0].hostPath"), "{}", answer.body);
    });
}
