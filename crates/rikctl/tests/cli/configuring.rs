//! Which cluster: the sources in their order, and what is told when it does not answer.

use std::net::TcpListener;

use crate::{Desk, cluster, controller::Controller, finished, page};

/// An address where nobody listens: bound once, and closed again.
fn nobody() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn d11_the_documented_config_file_selects_the_cluster() {
    let controller = Controller::start().says("GET /instances", 200, page(&[]));
    let desk = Desk { server: Some(nobody()), ..Desk::without_cluster() };
    let text = format!(r#"{{"cluster":{{"name":"default","server":"{}"}}}}"#, controller.url());
    let config = desk.file("config.json", text);
    let child = desk.command("get instances").env("RIKCONFIG", config).spawn().unwrap();
    assert!(desk.told(finished(child)).starts_with("exit 0"));
}

#[test]
fn a_controller_that_is_away_is_named_with_where_its_address_comes_from() {
    let server = nobody();
    let desk = Desk { server: Some(server.clone()), ..Desk::without_cluster() };
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 1
    stderr:
      error: the controller of cluster "rik.local" at SERVER cannot be reached: connection refused
        the address comes from RIK_CLUSTER_SERVER
      hint: see that the controller runs there and listens on this address
    "#);
    let config = desk.file("config.yaml", format!("cluster:\n  name: far\n  server: {server}\n"));
    let child = desk.command("get instances").env("RIKCONFIG", config).spawn().unwrap();
    insta::assert_snapshot!(desk.told(finished(child)), @r#"
    exit 1
    stderr:
      error: the controller of cluster "far" at SERVER cannot be reached: connection refused
        the address comes from RIKCONFIG, HOME/config.yaml
      hint: see that the controller runs there and listens on this address
    "#);
}

#[test]
fn a_broken_or_missing_config_is_an_error_and_no_default() {
    let desk = Desk::without_cluster();
    desk.file("broken.yaml", "cluster:\n  name: x\n  serve: http://127.0.0.1:5000\n");
    for name in ["broken.yaml", "absent.yaml"] {
        let child = desk.command("get instances").env("RIKCONFIG", name).spawn().unwrap();
        let told = desk.told(finished(child));
        if name == "broken.yaml" {
            insta::assert_snapshot!(told, @r#"
            exit 1
            stderr:
              error: the configuration broken.yaml is broken: line 3: unknown field `serve`, expected one of name, server
              hint: it should look like {"cluster": {"name": "default", "server": "http://127.0.0.1:5000"}}
            "#);
        } else {
            insta::assert_snapshot!(told, @r#"
            exit 1
            stderr:
              error: the configuration absent.yaml cannot be read: no such file or directory
              hint: correct RIKCONFIG, or unset it to use ~/.rik/config.yaml
            "#);
        }
    }
    insta::assert_snapshot!(desk.run("get instances --server localhost:5000"), @r#"
    exit 1
    stderr:
      error: "localhost:5000" is not the address of a controller: it does not begin with http://
        it comes from --server
      hint: write it as http://HOST:5000
    "#);
}

#[test]
fn the_configuration_in_force_can_be_seen() {
    let desk = Desk::without_cluster();
    insta::assert_snapshot!(desk.run("config view"), @r#"
    exit 0
    stdout:
      cluster:
        name: rik.local
        server: http://127.0.0.1:5000
    stderr:
      the server comes from the built-in default
    "#);
    assert!(desk.path().join(".rik/config.yaml").exists());
    insta::assert_snapshot!(desk.run("config view --server http://example.test:5000/"), @r#"
    exit 0
    stdout:
      cluster:
        name: rik.local
        server: http://example.test:5000
    stderr:
      the server comes from --server
    "#);
}

#[test]
fn versions_of_both_ends_are_told() {
    let controller = Controller::start().says("GET /cluster", 200, cluster(false));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("version"), @r#"
    exit 0
    stdout:
      rikctl     0.1.0
      controller 0.1.0 at SERVER
      cluster    rik.local (6f1c)
      scheduler  not connected; nothing new is placed
    "#);
    insta::assert_snapshot!(desk.run("version --client -o json"), @r#"
    exit 0
    stdout:
      {
        "client": {
          "version": "0.1.0"
        },
        "controller": null
      }
    "#);
    assert!(
        Desk { server: Some(nobody()), ..Desk::without_cluster() }
            .run("version")
            .starts_with("exit 1\nstdout:\n  rikctl ")
    );
}
