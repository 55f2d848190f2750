//! Functions whose root file system is behind a URL: the documented way, and that of old clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use e2e::api::text;
use e2e::lab::NODE;
use e2e::network::Host;
use e2e::{LONG, Lab, programs, story, wait_until};
use serde_json::{Value, json};

/// A server of one file that can be changed. Says what was asked for.
struct Site {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    server: Option<thread::JoinHandle<()>>,
    file: Arc<Mutex<(String, Vec<u8>)>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn new(tag: &str, bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let file = Arc::new(Mutex::new((tag.to_owned(), bytes)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (own, list) = (Arc::clone(&file), Arc::clone(&asked));
        let open = Arc::new(AtomicBool::new(true));
        let is_open = Arc::clone(&open);
        let server = thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if !is_open.load(Ordering::Acquire) {
                    return;
                }
                let mut head = Vec::new();
                let mut piece = [0_u8; 1024];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
                        _ => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let (tag, bytes) = own.lock().expect("nobody panicked").clone();
                let same = head.contains(&format!("if-none-match: \"{tag}\""));
                list.lock().expect("nobody panicked").push(if same { "same" } else { "whole" }.to_owned());
                let (status, body) =
                    if same { ("304 Not Modified", &[][..]) } else { ("200 OK", &bytes[..]) };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nETag: \"{tag}\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        Self { address, open, server: Some(server), file, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/rootfs", self.address)
    }

    fn put(&self, tag: &str, bytes: Vec<u8>) {
        *self.file.lock().expect("nobody panicked") = (tag.to_owned(), bytes);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panicked").clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Release);
        // So that it looks once more.
        drop(TcpStream::connect(self.address));
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

/// A root file system whose `init` is a web server on port 8080 that says `words`.
fn tree(words: &str) -> std::path::PathBuf {
    let tree = Lab::root().join(format!("tree-{words}"));
    for dir in ["bin", "sbin", "srv", "etc"] {
        std::fs::create_dir_all(tree.join(dir)).expect("a folder");
    }
    std::fs::copy(programs::needed("busybox"), tree.join("bin/busybox")).expect("busybox");
    let init = format!(
        "#!/bin/busybox sh\necho {words} > /srv/index.html\nexec /bin/busybox httpd -f -p 8080 -h /srv\n"
    );
    std::fs::write(tree.join("bin/start"), init).expect("a program");
    // As distributions have it: a link that leads elsewhere from outside.
    std::os::unix::fs::symlink("/bin/start", tree.join("sbin/init")).expect("a link");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tree.join("bin/start"), mode).expect("its mode");
    tree
}

fn packed(tree: &Path) -> Vec<u8> {
    let out = Command::new("tar").args(["-C"]).arg(tree).args(["-cz", "."]).output().expect("tar runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn ext4(tree: &Path) -> Vec<u8> {
    let image = tree.with_extension("ext4");
    let mut make = Command::new(programs::needed("mke2fs"));
    make.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(&image).arg("16M");
    let out = make.output().expect("mke2fs runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(&image).expect("the image")
}

/// The way of the old clients: `apiVersion` v0, a name with a version in it, no containers, the port in the row at once,
/// something that listens on 8080. C-10: no two of them have the same.
#[test]
fn old_clients_run_a_function_from_a_url_and_reach_it_at_the_port_in_its_row() {
    story(|lab| {
        let api = lab.cluster();
        let site = Site::new("one", packed(&tree("first")));
        let manifest = json!({
            "apiVersion": "v0", "kind": "Function", "name": "fn:v1",
            "spec": { "function": { "execution": { "rootfs": site.url() } } }
        });
        let id = api.create_workload(&manifest);
        let created = api.json("POST", "/api/v0/instances.create", &json!({ "workload_id": id }), 201);
        let name = text(&created[0]);
        let list = api.json("GET", &format!("/api/v0/workloads.instances/{id}"), &Value::Null, 200);
        let row = &list["instances"][0];
        let port = row["spec"]["function"]["exposure"]["port"].as_u64().unwrap_or_default();
        assert!((45_000..50_000).contains(&port), "{row}");
        assert_eq!(row["spec"]["function"]["exposure"]["targetPort"], 8080);
        assert_eq!(row["spec"]["containers"], json!([]));
        let page = |port: u64, words: &str| {
            wait_until(LONG * 2, "the function to answer", || {
                match Host::here().fetch(&format!("http://127.0.0.1:{port}/")) {
                    Ok(page) if page.contains(words) => Ok(()),
                    other => Err(format!("{other:?} {:?}", api.instances())),
                }
            });
        };
        page(port, "first");

        // A second one has another port. The file is asked for again, and not fetched again.
        let second = api.create_instances(&id, 1).remove(0);
        let row = api.instance(&second).expect("it is there");
        let other = row["spec"]["function"]["exposure"]["port"].as_u64().unwrap_or_default();
        assert_ne!(other, port);
        page(other, "first");
        assert_eq!(site.asked(), ["whole", "same"]);
        for name in [&name, &second] {
            api.delete_instance(name);
            api.wait_gone(name);
        }

        // What has changed is fetched, whatever kind it is now. C-38: a changed URL is not ignored.
        site.put("two", ext4(&tree("second")));
        let third = api.create_instances(&id, 1).remove(0);
        let row = api.instance(&third).expect("it is there");
        page(row["spec"]["function"]["exposure"]["port"].as_u64().unwrap_or_default(), "second");
        assert_eq!(site.asked(), ["whole", "same", "whole"]);
    });
}

/// H-URL-01 to H-URL-07: what is not what it should be is refused with its reason, and nothing of it stays.
#[test]
fn h_url_root_file_systems_that_are_none_are_refused_in_words() {
    story(|lab| {
        let api = lab.cluster();
        let page = Site::new("page", b"<html>not found</html>".to_vec());
        let qcow = Site::new("qcow", [b"QFI\xfb".to_vec(), vec![0; 4096]].concat());
        let torn = Site::new("torn", packed(&tree("torn"))[..50_000].to_vec());
        let cases = [
            ("page", page.url(), Value::Null, "is a page"),
            ("qcow", qcow.url(), Value::Null, "qcow2"),
            ("torn", torn.url(), Value::Null, "archive"),
            ("sum", page.url(), json!("0".repeat(64)), "its SHA-256 is"),
            ("far", "http://10.1.2.3/rootfs".to_owned(), Value::Null, "--rootfs-allow"),
            ("cloud", "http://169.254.169.254/latest".to_owned(), Value::Null, "--rootfs-allow"),
            ("closed", "http://127.0.0.1:9/rootfs".to_owned(), Value::Null, "refused"),
        ];
        for (name, url, sha256, _) in &cases {
            let mut execution = json!({ "rootfs": url });
            if !sha256.is_null() {
                execution["sha256"] = sha256.clone();
            }
            let manifest = json!({ "kind": "Function", "name": name, "spec": { "function": { "execution": execution } } });
            let workload = api.create_workload(&manifest);
            api.create_instance(&workload, name);
        }
        for (name, _, _, words) in &cases {
            let failed = wait_until(LONG, "it to be refused", || match api.instance(name) {
                Some(instance) if instance["status"] == "Failed" => Ok(instance),
                other => Err(format!("{other:?}")),
            });
            assert!(text(&failed["message"]).contains(words), "{name}: {failed}");
        }
        let roots = Lab::node_state(NODE).join("microvms/roots");
        let left: Vec<_> =
            std::fs::read_dir(roots).into_iter().flatten().flatten().map(|one| one.file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        for url in ["file:///etc/shadow", "ftp://127.0.0.1/x", "gopher://x"] {
            let manifest = json!({ "kind": "Function", "name": "no", "spec": { "function": { "execution": { "rootfs": url } } } });
            assert_eq!(
                api.send("POST", "/api/v0/workloads.create", &manifest.to_string()).status,
                400,
                "{url}"
            );
        }
    });
}

#[test]
fn function_runs_from_a_file_of_its_node_where_the_operator_allows_it() {
    story(|lab| {
        let images = Lab::root().join("images");
        std::fs::create_dir(&images).expect("a folder");
        std::fs::write(images.join("fn.ext4"), ext4(&tree("first"))).expect("an image");
        std::fs::write(Lab::root().join("other.ext4"), b"not allowed").expect("a file");
        std::os::unix::fs::symlink("../other.ext4", images.join("link.ext4")).expect("a link");
        let api = lab.cluster();
        lab.stop(NODE);
        let mut command = e2e::lab::riklet(&Host::here(), NODE, &programs::built("riklet"));
        lab.start(NODE, command.env("RIKLET_ROOTFS_ALLOW", &images));
        api.wait_node(NODE, "Ready");
        let run = |name: &str, rootfs: &Path| {
            let function = json!({ "execution": { "rootfs": rootfs }, "exposure": { "port": 30_080 } });
            let manifest = json!({ "kind": "Function", "name": name, "spec": { "function": function } });
            api.create_instance(&api.create_workload(&manifest), name)
        };
        let refused = [
            ("outside", Lab::root().join("other.ext4"), "riklet --rootfs-allow"),
            ("link", images.join("link.ext4"), "leads out of"),
            ("folder", images.clone(), "it is no file"),
            ("absent", images.join("none"), "is not there"),
        ];
        for (name, path, words) in refused {
            let failed = api.wait_status(&run(name, &path), "Failed");
            assert!(
                failed["reason"] == "ImagePullFailed" && text(&failed["message"]).contains(words),
                "{name}: {failed}"
            );
            api.delete_instance(name);
            api.wait_gone(name);
        }
        let page = |words: &str| {
            wait_until(LONG * 2, "the function to answer", || {
                match Host::here().fetch("http://127.0.0.1:30080/") {
                    Ok(page) if page.contains(words) => Ok(()),
                    other => Err(format!("{other:?} {:?}", api.instances())),
                }
            });
        };
        run("one", &images.join("fn.ext4"));
        page("first");
        // Whoever runs has its own; whoever begins after that has what is there then.
        std::fs::write(images.join("fn.ext4"), packed(&tree("second"))).expect("an image");
        page("first");
        api.delete_instance("one");
        api.wait_gone("one");
        run("two", &images.join("fn.ext4"));
        page("second");
    });
}
