//! Sixty hostile requests: each gets a clear error, nothing is created or lost, and everything else runs on.

use e2e::http::{self, Answer};
use e2e::manifest::{container, pod, web};
use e2e::{Api, story};
use serde_json::{Value, json};

/// One hostile request: what it is, how it is sent, and which codes are a clear error.
struct Case {
    what: String,
    method: &'static str,
    path: String,
    body: String,
    allowed: &'static [u16],
}

const BAD: &[u16] = &[400];
const BAD_OR_LARGE: &[u16] = &[400, 413];
const UNKNOWN: &[u16] = &[404];
const TAKEN: &[u16] = &[404, 409];

fn case(what: impl Into<String>, path: &str, body: impl Into<String>, allowed: &'static [u16]) -> Case {
    Case { what: what.into(), method: "POST", path: path.into(), body: body.into(), allowed }
}

const CREATE: &str = "/api/v0/workloads.create";
const INSTANCE: &str = "/api/v0/instances.create";

/// Documents that are not what they should be.
fn documents() -> Vec<Case> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    [
        ("nothing", String::new()),
        ("one brace", "{".into()),
        ("not JSON", "kind: [Pod".into()),
        ("a number", "42".into()),
        ("null", "null".into()),
        ("a list", "[]".into()),
        ("an empty object", "{}".into()),
        ("trailing garbage", format!("{} x", web("a", 30001))),
        ("100,000 brackets", deep),
        ("200 levels", nested),
        ("a NUL", "\0".into()),
        ("not a number", "{\"replicas\": NaN}".into()),
        (
            "a name twice",
            "{\"kind\":\"Pod\",\"name\":\"a\",\"name\":\"b\",\"spec\":{\"containers\":[]}}".into(),
        ),
    ]
    .into_iter()
    .map(|(what, body)| case(what, CREATE, body, BAD))
    .chain([
        case("10 MB of spaces", CREATE, " ".repeat(10_000_000), BAD_OR_LARGE),
        case("a 10 MB name", CREATE, web(&"a".repeat(10_000_000), 30001).to_string(), BAD_OR_LARGE),
    ])
    .collect()
}

/// Names that are paths, arguments, escape sequences, or too long.
fn names() -> Vec<Case> {
    let long = "a".repeat(64);
    let bad = [
        "",
        ".",
        "..",
        "../../etc",
        "/abs",
        "a/b",
        "a b",
        "-rf",
        "--help",
        "a\0b",
        "a\nb",
        "\u{1b}[2J",
        "\u{202e}gnp",
        "\u{1f980}",
        "Ünicode",
        &long,
    ];
    bad.into_iter()
        .map(|name| case(format!("the name {name:?}"), CREATE, web(name, 30001).to_string(), BAD))
        .collect()
}

/// Fields of the wrong type or out of range.
fn fields() -> Vec<Case> {
    let changed = |what: &str, pointer: &str, value: Value| {
        let mut manifest = web("odd", 30001);
        if let Some((parent, key)) = pointer.rsplit_once('/')
            && let Some(object) = manifest.pointer_mut(parent).and_then(Value::as_object_mut)
        {
            object.insert(key.into(), value);
        }
        case(what, CREATE, manifest.to_string(), BAD)
    };
    let main = "/spec/containers/0";
    vec![
        changed("an unknown kind", "/kind", json!("Deployment")),
        changed("a kind that is a number", "/kind", json!(1)),
        changed("no replicas", "/replicas", json!(0)),
        changed("negative replicas", "/replicas", json!(-1)),
        changed("too many replicas", "/replicas", json!(4_294_967_296_u64)),
        changed("half a replica", "/replicas", json!(1.5)),
        changed("no specification", "/spec", Value::Null),
        changed("containers that are text", "/spec/containers", json!("web")),
        changed("no container", "/spec/containers", json!([])),
        changed(
            "two containers of one name",
            "/spec/containers",
            json!([container("a", "b"), container("a", "c")]),
        ),
        changed("an empty image", &format!("{main}/image"), json!("")),
        changed("an image with a scheme", &format!("{main}/image"), json!("http://x/y")),
        changed("an image that is a path", &format!("{main}/image"), json!("../../etc/passwd")),
        changed("an image with a broken digest", &format!("{main}/image"), json!("a@sha256:123")),
        changed("an image like an option", &format!("{main}/image"), json!("--help")),
        changed("port 0", &format!("{main}/ports"), json!({ "port": 0, "type": "NodePort" })),
        changed("port 65536", &format!("{main}/ports"), json!({ "port": 65536, "type": "NodePort" })),
        changed(
            "a port that is text",
            &format!("{main}/ports"),
            json!({ "port": "http", "type": "NodePort" }),
        ),
        changed(
            "an unknown protocol",
            &format!("{main}/ports"),
            json!({ "port": 30001, "protocol": "ICMP" }),
        ),
        changed("a variable with =", &format!("{main}/env"), json!([{ "name": "A=B", "value": "c" }])),
        changed("a directory that is relative", &format!("{main}/workingDir"), json!("../up")),
        changed("negative memory", "/spec/resources", json!({ "limits": { "memory": "-1Gi" } })),
        changed("memory without end", "/spec/resources", json!({ "limits": { "memory": "1e30Gi" } })),
    ]
}

/// Things that do not exist, or exist already.
fn references(workload: &str) -> Vec<Case> {
    let get = |what: &str, path: &str, allowed| Case { method: "GET", ..case(what, path, "", allowed) };
    vec![
        case("an unknown workload", INSTANCE, json!({ "workload_id": "no-such" }).to_string(), UNKNOWN),
        case("a workload that is a number", INSTANCE, json!({ "workload_id": 7 }).to_string(), BAD),
        case("no workload", INSTANCE, "{}", BAD),
        case(
            "one name for two",
            INSTANCE,
            json!({ "workload_id": workload, "name": "x", "replicas": 2 }).to_string(),
            BAD,
        ),
        case(
            "a used name",
            INSTANCE,
            json!({ "workload_id": workload, "name": "witness" }).to_string(),
            TAKEN,
        ),
        case("a used workload name", CREATE, web("witness", 30001).to_string(), TAKEN),
        case(
            "an instance name that is a path",
            INSTANCE,
            json!({ "workload_id": workload, "name": "../x" }).to_string(),
            BAD,
        ),
        case("delete of an unknown instance", "/api/v0/instances.delete", "{\"id\":\"no-such\"}", UNKNOWN),
        case("delete without id", "/api/v0/instances.delete", "{}", BAD),
        case("delete of an unknown workload", "/api/v0/workloads.delete", "{\"id\":\"no-such\"}", UNKNOWN),
        get("a path that climbs", "/api/v0/../../etc/passwd", &[400, 404]),
        get("an encoded path that climbs", "/api/v0/%2e%2e/%2e%2e/etc/passwd", &[400, 404]),
        get("an encoded NUL", "/api/v1/instances/%00", &[400, 404]),
        get("an unknown route", "/api/v9/everything", UNKNOWN),
        Case { method: "PATCH", ..case("an unknown method", CREATE, "{}", &[404, 405]) },
    ]
}

/// Bytes that are not proper HTTP. Closing without a word is an answer too (status 0).
fn raw() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("no HTTP at all", b"hello there\r\n\r\n".to_vec()),
        ("a 64 KB path", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(65_536)).into_bytes()),
        ("10,000 headers", format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000)).into_bytes()),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(),
        ),
        ("a length that is text", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n".to_vec()),
    ]
}

fn assert_refused(what: &str, answer: &Answer, allowed: &[u16]) {
    assert!(allowed.contains(&answer.status), "{what}: {} {}", answer.status, answer.body);
    assert!(answer.body.len() < 20_000, "{what}: the answer has {} bytes", answer.body.len());
    assert!(!answer.body.contains('\x1b'), "{what}: the answer moves the cursor");
}

fn send(api: Api, case: &Case) -> Answer {
    let headers = [("Content-Type", "application/json")];
    http::request(api.server, case.method, &case.path, &headers, case.body.as_bytes())
        .unwrap_or_else(|error| panic!("{}: {error}", case.what))
}

#[test]
fn sixty_hostile_requests_are_refused_and_nothing_else_notices() {
    story(|lab| {
        let api = lab.cluster();
        let witness = api.run(&web("witness", 30080));
        let workload = e2e::api::text(&api.workloads()[0]["id"]);
        let controller = lab.daemon("controller").pid();
        let cases: Vec<Case> =
            [documents(), names(), fields(), references(&workload)].into_iter().flatten().collect();
        assert!(cases.len() + raw().len() >= 60, "only {} cases", cases.len());
        for case in &cases {
            assert_refused(&case.what, &send(api, case), case.allowed);
        }
        for (what, bytes) in raw() {
            if let Ok(answer) = http::raw(api.server, &bytes) {
                assert_refused(what, &answer, &[0, 400, 404, 405, 414, 431]);
            }
        }
        assert_eq!(api.workloads().len(), 1, "nothing was created");
        assert_eq!(api.instances().len(), 1);
        let now = api.instance("witness").expect("it is still there");
        assert_eq!(now["containers"][0]["pid"], witness["containers"][0]["pid"]);
        assert!(lab.page("http://127.0.0.1:30080/").contains("RIK"));
        assert_eq!(lab.daemon("controller").pid(), controller);
        let log = lab.daemon("controller").log();
        assert!(!log.contains("panicked"), "{log}");
    });
}

#[test]
fn hostile_files_are_refused_by_rikctl_with_every_fault_named() {
    story(|lab| {
        lab.cluster();
        let file = e2e::Lab::root().join("faulty.yaml");
        let text =
            "apiVersion: v1\nkind: Pod\nname: Bad Name\nspec:\n  containers:\n    - name: a\n      imge: b\n";
        std::fs::write(&file, text).expect("a file");
        let words = lab.rikctl(&["create", "workload", "--file", &file.to_string_lossy()]).bad(1);
        for expected in ["line 3", "name", "imge", "did you mean", "image"] {
            assert!(words.contains(expected), "{expected:?} is not in {words}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
        std::fs::write(&file, bomb).expect("a file");
        let words = lab.rikctl(&["create", "workload", "--file", &file.to_string_lossy()]).bad(1);
        assert!(words.contains("error:"), "{words}");
        for path in ["/", "/dev/null", "/no/such/file"] {
            let words = lab.rikctl(&["create", "workload", "--file", path]).bad(1);
            assert!(words.contains(path) || words.contains("error:"), "{words}");
        }
    });
}

/// A pod whose image reference is legal but leads nowhere good never harms its neighbours.
#[test]
fn hostile_pods_fail_alone() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&web("witness", 30080));
        let reference = lab.registry().reference("no/such:1");
        let mut forbidden = container("main", "busybox:1");
        forbidden["command"] =
            json!(["/bin/busybox", "sh", "-c", "busybox mount -t tmpfs x /srv || exit 42"]);
        for (name, container, reason) in [
            ("absent", container("main", &reference), "ImagePullFailed"),
            ("mounts", forbidden, "NonZeroExit"),
        ] {
            let workload = api.create_workload(&pod(name, &[container]));
            api.create_instance(&workload, name);
            let failed =
                e2e::wait_until(e2e::LONG, &format!("{name} to fail"), || match api.instance(name) {
                    Some(instance) if instance["status"] == "Failed" => Ok(instance),
                    other => Err(format!("{other:?}")),
                });
            assert_eq!(failed["reason"], reason, "{failed}");
        }
        assert!(lab.page("http://127.0.0.1:30080/").contains("RIK"));
    });
}
