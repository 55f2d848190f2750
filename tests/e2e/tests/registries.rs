//! Registries that are not open to everybody: a login, an authority of its own, and policies of pulling.

use std::{fs, path::PathBuf, process::Command};

use e2e::api::text;
use e2e::lab::{NODE, configuration};
use e2e::manifest::{pod, shell};
use e2e::network::HOST_ADDRESS;
use e2e::{Lab, SHORT, image, programs, story, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const PORT: u16 = 5443;
/// Who may pull, and what the registry knows of it: made by `htpasswd -B`.
const USER: &str = "puller";
const PASSWORD: &str = "canary";
const HASH: &str = "$2b$04$.usvKRpSkbAlt4/LMIEyHuZooutON0W3a05gjy0mbseOQ7NqQI.0K";

fn file(name: &str, content: &str) -> PathBuf {
    let path = Lab::root().join(name);
    fs::write(&path, content).expect("a file");
    path
}

/// An authority, and a key and certificate of it for the address of the lab's host.
fn certificates() -> (PathBuf, PathBuf, PathBuf) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec![HOST_ADDRESS.to_owned()]).expect("parameters");
    let own = own.signed_by(&key, &issuer).expect("a certificate");
    (
        file("authority.pem", &issuer.pem()),
        file("registry.pem", &own.pem()),
        file("registry.key", &key.serialize_pem()),
    )
}

/// Serves what is in the lab's open registry by TLS, to those who know the password.
fn start_private(lab: &mut Lab, certificate: &PathBuf, key: &PathBuf) {
    let passwords = file("htpasswd", &format!("{USER}:{HASH}\n"));
    let settings = json!({
        "version": "0.1",
        "log": { "level": "warn" },
        "storage": { "filesystem": { "rootdirectory": Lab::root().join("registry") } },
        "auth": { "htpasswd": { "realm": "lab", "path": passwords } },
        "http": {
            "addr": format!("{HOST_ADDRESS}:{PORT}"), "tls": { "certificate": certificate, "key": key },
        },
    });
    // JSON is YAML.
    let settings = file("private.yml", &settings.to_string());
    let mut command = Command::new(programs::needed("docker-registry"));
    lab.start("private", command.arg("serve").arg(settings));
    wait_until(SHORT, "the private registry to listen", || {
        std::net::TcpStream::connect((HOST_ADDRESS, PORT)).map(drop)
    });
}

fn using(name: &str, image: &str) -> Value {
    let mut container = shell("main", "busybox sleep 600");
    container["image"] = json!(image);
    pod(name, &[container])
}

/// What is said of an instance of this workload that fails.
fn refusal(lab: &Lab, manifest: &Value) -> String {
    let api = lab.api();
    let workload = api.create_workload(manifest);
    let id = api.create_instance(&workload, manifest["name"].as_str().expect("a name"));
    let failed = api.wait_status(&id, "Failed");
    let words = format!("{} {}", text(&failed["reason"]), text(&failed["message"]));
    api.delete_workload(&workload);
    words
}

#[test]
fn image_of_a_private_registry_is_given_to_those_who_bring_its_login() {
    story(|lab| {
        let (authority, certificate, key) = certificates();
        fs::write(configuration(NODE), format!("[registries]\nauthorities = [{authority:?}]\n"))
            .expect("a file");
        let api = lab.cluster();
        lab.registry().push(&image::busybox("team/app:1"));
        start_private(lab, &certificate, &key);
        let image = format!("{HOST_ADDRESS}:{PORT}/team/app:1");

        let words = refusal(lab, &using("nobody", &image));
        assert!(words.contains("ImagePullFailed") && words.contains("wants a login"), "{words}");

        let login = |password: &str| {
            let host = format!("{HOST_ADDRESS}:{PORT}");
            json!({ "auths": { host: { "username": USER, "password": password } } }).to_string()
        };
        for (name, password) in [("wrong", "no-canary"), ("right", PASSWORD)] {
            let document = file(&format!("{name}.json"), &login(password));
            let from = format!(".dockerconfigjson={}", document.display());
            let _ = lab.rikctl(&["create", "secret", name, "--from-file", &from]).good();
        }
        let mut manifest = using("stranger", &image);
        manifest["spec"]["imagePullSecrets"] = json!([{ "name": "wrong" }]);
        let words = refusal(lab, &manifest);
        assert!(words.contains("does not give") && words.contains(USER), "{words}");
        manifest["name"] = json!("friend");
        manifest["spec"]["imagePullSecrets"] = json!([{ "name": "right" }]);
        let running = api.run(&manifest);
        assert_eq!(text(&running["status"]), "Running", "{running}");
        let said = lab.rikctl(&["events"]).good();
        assert!(said.contains("fetched image") && said.contains(" layers, "), "{said}");
        for daemon in ["controller", "scheduler", NODE] {
            assert!(!lab.daemon(daemon).log().contains(PASSWORD), "the log of {daemon} holds the password");
        }
    });
}

#[test]
fn policy_never_uses_what_the_node_has_and_says_how_to_bring_what_it_has_not() {
    story(|lab| {
        let api = lab.cluster();
        lab.registry().push(&image::busybox("app:1"));
        let absent = lab.registry().reference("app:1");
        let mut manifest = using("absent", &absent);
        manifest["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
        let words = refusal(lab, &manifest);
        assert!(words.contains("imagePullPolicy is Never") && words.contains("rikctl image load"), "{words}");
        let mut manifest = using("present", "busybox:1");
        manifest["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
        assert_eq!(text(&api.run(&manifest)["status"]), "Running");
    });
}
