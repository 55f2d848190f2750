//! `image`: lists what nodes have, and brings archives there.

use serde_json::json;

use crate::{Desk, controller::Controller, minutes_ago, node, page};

fn two_nodes() -> Controller {
    let view = |node: &str| {
        page(&[
            json!({ "node": node, "reference": "docker.io/library/hello:1", "digest": format!("sha256:{}", "ab".repeat(32)),
            "size": 2_200_000, "pulledAt": minutes_ago(3) }),
        ])
    };
    Controller::start()
        .says("GET /nodes", 200, page(&[node("n1", "Ready"), node("n2", "Ready"), node("n3", "Unreachable")]))
        .says("GET /nodes/n1", 200, node("n1", "Ready"))
        .says("GET /nodes/n1/images", 200, view("n1"))
        .says("GET /nodes/n2/images", 200, view("n2"))
        .says("POST /nodes/n1/images", 200, json!(["hello:1"]))
        .refuses("POST /nodes/n2/images", 422, "image-refused", "the archive has no index.json")
}

#[test]
fn images_of_ready_nodes_are_listed() {
    let desk = Desk::of(&two_nodes());
    insta::assert_snapshot!(desk.run("image ls"), @r#"
    exit 0
    stdout:
       NODE  IMAGE                      DIGEST               SIZE     CONTAINERS  AGE  USED·
       n1    docker.io/library/hello:1  sha256:abababababab  2.0 MiB  0           3m   -····
       n2    docker.io/library/hello:1  sha256:abababababab  2.0 MiB  0           3m   -····
    "#);
    insta::assert_snapshot!(desk.run("images list --node n1 -q"), @r#"
    exit 0
    stdout:
      docker.io/library/hello:1
    "#);
}

#[test]
fn an_archive_is_sent_whole_to_each_node_and_a_refusal_stops_no_other() {
    let controller = two_nodes();
    let desk = Desk::of(&controller);
    let archive: Vec<u8> = (0..300_000_u32).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
    desk.file("hello.tar", &archive);
    insta::assert_snapshot!(desk.run("image load hello.tar"), @r#"
    exit 1
    stdout:
      image hello:1 loaded on node n1
    stderr:
      sending hello.tar to node/n1
      sending hello.tar to node/n2
      error: the archive has no index.json
    "#);
    let sent: Vec<_> =
        controller.requests().into_iter().filter(|request| request.line.starts_with("POST")).collect();
    assert_eq!(sent.len(), 2);
    for request in &sent {
        assert!(request.body == archive, "{} bytes arrived of {}", request.body.len(), archive.len());
        assert_eq!(request.headers["content-type"], "application/x-tar");
    }
}

#[test]
fn a_file_that_is_not_there_is_told_before_anything_is_asked() {
    let controller = two_nodes();
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("image load absent.tar"), @r#"
    exit 1
    stderr:
      error: absent.tar cannot be read: no such file or directory
    "#);
    insta::assert_snapshot!(desk.run("image load ."), @r#"
    exit 1
    stderr:
      error: . is a directory, and an image archive is one file
      hint: tar -C . -cf image.tar .
    "#);
    assert_eq!(controller.lines(), "");
    insta::assert_snapshot!(desk.run("image load -"), @r#"
    exit 1
    stderr:
      error: stdin can be read once, and there are 2 nodes
      hint: name one with --node, or give a file
    "#);
}

#[test]
fn volumes_are_listed_and_removed_where_they_are() {
    let volume = |node: &str, users: &[&str]| json!({ "name": "db", "node": node, "createdAt": minutes_ago(3), "instances": users });
    let controller = Controller::start()
        .says("GET /nodes", 200, page(&[node("n1", "Ready"), node("n2", "Ready")]))
        .says("GET /nodes/n1/volumes", 200, page(&[volume("n1", &["a", "b"])]))
        .says("GET /nodes/n2/volumes", 200, page(&[]))
        .refuses("DELETE /nodes/n1/volumes/db", 409, "volume-in-use", "volume \"db\" is used by a, b")
        .refuses(
            "DELETE /nodes/n2/volumes/db",
            404,
            "volume-not-found",
            "there is no volume \"db\" on this node",
        )
        .says("DELETE /nodes/n1/volumes/old", 204, json!(null))
        .refuses("DELETE /nodes/n2/volumes/old", 404, "volume-not-found", "there is no volume \"old\"");
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("volume ls"), @r#"
    exit 0
    stdout:
       NODE  VOLUME  INSTANCES  AGE·
       n1    db      a,b        3m··
    "#);
    insta::assert_snapshot!(desk.run("volume rm db old"), @r#"
    exit 1
    stdout:
      volume old removed from node n1
    stderr:
      error: volume "db" is used by a, b
    "#);
}
