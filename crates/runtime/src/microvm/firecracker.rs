//! The Firecracker driver: what it is told by its API (version 1.14 of its description and later), before its machine runs.
//!
//! Its jailer is not used: the jail of every VMM of RIK (`jail`) has a user namespace beside all that the jailer makes.
//! Firecracker confines itself further by its own filter of system calls. Exit codes of it tell nothing; how a program
//! ended comes from the agent.

use std::path::{Path, PathBuf};

use guest::{
    order::{Api, ApiRequest},
    vmm::{AGENT_PORT, RUN_DIR, VSOCK_WORD},
};
use network::{GUEST_ADDRESS, TAP_LINK};
use serde_json::{Value, json};

use super::{
    Begin, Shape,
    jail::{INITRAMFS, KERNEL, ROOT},
};

/// Name of its program.
pub(super) const PROGRAM: &str = "firecracker";
/// Most processors of a machine.
const MAX_PROCESSORS: u32 = 32;
/// The machine's own number among those that a port leads to: the first that is free.
const MACHINE: u32 = 3;
/// Names of its sockets.
const API_SOCKET: &str = "api.sock";
const PORT_SOCKET: &str = "port.sock";

/// How a machine of this shape is begun in its jail. Nothing in it comes from a user.
#[must_use]
pub(super) fn begin(program: &Path, shape: &Shape) -> Begin {
    let run = |name: &str| format!("{RUN_DIR}/{name}");
    describe(program, shape, &Around { top: "/", run: &run, root: ROOT, link: true })
}

/// How a machine of ours is begun that runs nothing of anybody's, in the directory of the jail; `run` says where its sockets
/// are from there.
#[must_use]
pub(super) fn own_machine(program: &Path, shape: &Shape, run: &dyn Fn(&str) -> String) -> Begin {
    // The disk's driver is not there before the agent has been spoken to, so that what is on it does not matter.
    describe(program, shape, &Around { top: "", run, root: INITRAMFS.trim_start_matches('/'), link: false })
}

/// Where a machine finds what is its own.
struct Around<'a> {
    /// What the jail's directory is called.
    top: &'a str,
    /// Where sockets are.
    run: &'a dyn Fn(&str) -> String,
    /// The disk.
    root: &'a str,
    /// Whether it has a link.
    link: bool,
}

fn describe(program: &Path, shape: &Shape, around: &Around<'_>) -> Begin {
    let Around { top, run, root, link } = around;
    let inside = |path: &str| format!("{top}{}", path.trim_start_matches('/'));
    let socket = run(API_SOCKET);
    let port = run(PORT_SOCKET);
    let args = ["--api-sock", &socket, "--id", "rik", "--level", "Error"];
    let mut requests = vec![
        request(
            "/machine-config",
            json!({
                "vcpu_count": shape.processors.min(MAX_PROCESSORS), "mem_size_mib": shape.memory_mib,
            }),
        ),
        request(
            "/boot-source",
            json!({
                "kernel_image_path": inside(KERNEL),
                "initrd_path": inside(INITRAMFS),
                "boot_args": format!("console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests {VSOCK_WORD}"),
            }),
        ),
        request(
            "/drives/root",
            json!({
                "drive_id": "root", "path_on_host": root, "is_root_device": false, "is_read_only": true,
            }),
        ),
        request("/vsock", json!({ "guest_cid": MACHINE, "uds_path": port })),
    ];
    if *link {
        let mac = GUEST_ADDRESS.map(|byte| format!("{byte:02x}")).join(":");
        requests.push(request(
            "/network-interfaces/eth0",
            json!({ "iface_id": "eth0", "host_dev_name": TAP_LINK, "guest_mac": mac }),
        ));
    }
    requests.push(request("/actions", json!({ "action_type": "InstanceStart" })));
    Begin {
        command: std::iter::once(program.display().to_string()).chain(args.map(str::to_owned)).collect(),
        api: Some(Api { socket: PathBuf::from(socket), requests }),
        port: PathBuf::from(port),
        agent: Some(AGENT_PORT),
    }
}

fn request(path: &str, body: Value) -> ApiRequest {
    ApiRequest { path: path.to_owned(), body }
}

#[cfg(test)]
#[path = "../../tests/firecracker/description.rs"]
mod description;

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { processors: 2, memory_mib: 256, from_template: false };

    #[test]
    fn every_request_is_as_the_published_description_wants_it() {
        let own = own_machine(Path::new("/f"), &SHAPE, &|name| format!("../../x/{name}"));
        for begin in [begin(Path::new("/usr/bin/firecracker"), &SHAPE), own] {
            let api = begin.api.unwrap();
            for request in &api.requests {
                description::check(&request.path, &request.body).unwrap();
            }
            let last = api.requests.last().unwrap();
            assert_eq!(
                (last.path.as_str(), &last.body["action_type"]),
                ("/actions", &json!("InstanceStart"))
            );
        }
    }

    #[test]
    fn description_finds_what_is_wrong() {
        for (path, body, why) in [
            ("/drive/root", json!({}), "there is no /drive/root"),
            ("/vsock", json!({ "guest_cid": 3 }), "uds_path is missing"),
            ("/vsock", json!({ "guest_cid": 2, "uds_path": "x" }), "guest_cid is 2"),
            ("/vsock", json!({ "guest_cid": 3, "uds_path": "x", "id": 1 }), "id is not known"),
            ("/actions", json!({ "action_type": "Start" }), "action_type is \"Start\""),
            ("/drives/root", json!({ "drive_id": "other", "is_root_device": true }), "drive_id is \"other\""),
            ("/machine-config", json!({ "vcpu_count": "2", "mem_size_mib": 1 }), "vcpu_count is \"2\""),
        ] {
            let told = description::check(path, &body).unwrap_err();
            assert!(told.contains(why), "{path}: {told}");
        }
    }

    #[test]
    fn machine_has_a_disk_that_nobody_writes_one_link_and_one_port() {
        let begin = begin(Path::new("/usr/bin/firecracker"), &SHAPE);
        assert_eq!(
            begin.command.join(" "),
            "/usr/bin/firecracker --api-sock /run/api.sock --id rik --level Error"
        );
        let told: Vec<String> =
            begin.api.unwrap().requests.iter().map(|own| format!("{} {}", own.path, own.body)).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        /machine-config {"mem_size_mib":256,"vcpu_count":2}
        /boot-source {"boot_args":"console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests rik.vsock","initrd_path":"/vm/initramfs","kernel_image_path":"/vm/kernel"}
        /drives/root {"drive_id":"root","is_read_only":true,"is_root_device":false,"path_on_host":"/vm/root"}
        /vsock {"guest_cid":3,"uds_path":"/run/port.sock"}
        /network-interfaces/eth0 {"guest_mac":"02:52:00:00:00:01","host_dev_name":"tap0","iface_id":"eth0"}
        /actions {"action_type":"InstanceStart"}
        "#);
    }
}
