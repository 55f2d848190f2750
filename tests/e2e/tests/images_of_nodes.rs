//! The images of nodes: listed, pulled before they are needed, and removed when nothing uses them.

use e2e::api::text;
use e2e::lab::{Lab, NODE};
use e2e::manifest::{pod, web};
use e2e::{image, story};
use serde_json::json;

#[test]
fn images_are_pulled_and_removed_by_hand_and_what_is_used_stays() {
    story(|lab| {
        let api = lab.cluster();
        lab.registry().push(&image::hello("app:1"));
        let app = lab.registry().reference("app:1");

        let said = lab.rikctl(&["image", "pull", &app]).good();
        assert!(
            said.starts_with(&format!("image {app} (sha256:")) && said.contains(" is on node "),
            "{said}"
        );
        let absent = lab.registry().reference("absent:1");
        let said = lab.rikctl(&["image", "pull", &absent]).bad(1);
        assert!(said.contains("not found in registry"), "{said}");

        // A name may go while another one keeps the content.
        let said = lab.rikctl(&["image", "rm", "hello:1"]).good();
        assert!(said.starts_with("removed from node ") && said.contains("hello:1 (0 B freed)"), "{said}");
        let container = json!({ "name": "main", "image": app });
        let running = api.run(&pod("user", &[container]));
        let id = text(&running["id"]);
        let table = lab.rikctl(&["image", "ls"]).good();
        let line = table.lines().find(|line| line.contains("app:1")).expect("the image is listed").to_owned();
        assert!(line.contains("  1  "), "one container: {table}");

        let said = lab.rikctl(&["image", "rm", &app]).bad(1);
        assert!(said.contains(&format!("is used by {id}")), "{said}");
        let said = lab.rikctl(&["image", "rm", "absent:1"]).bad(1);
        assert!(said.contains("there is no image") && said.contains("absent:1"), "{said}");

        let said = lab.rikctl(&["image", "prune"]).good();
        assert!(said.contains("busybox:1") && !said.contains("app:1"), "{said}");
        assert_eq!(text(&api.instance(&id).expect("it is there")["status"]), "Running");
        api.delete_instance(&id);
        api.wait_gone(&id);
        let said = lab.rikctl(&["image", "prune"]).good();
        assert!(said.contains("app:1"), "{said}");
        assert!(lab.rikctl(&["image", "prune"]).good().contains("has no image that nothing uses"));
    });
}

#[test]
fn image_is_saved_on_one_node_and_loaded_where_it_was_not() {
    story(|lab| {
        lab.cluster();
        let file = Lab::root().join("hello.tar");
        let at = file.to_str().expect("words");
        let said = lab.rikctl(&["image", "save", "hello:1", "-o", at]).good();
        assert_eq!(said, format!("image hello:1 of node {NODE} saved as {at}\n"));
        assert!(lab.rikctl(&["image", "rm", "hello:1"]).good().contains("removed"));
        let said = lab.rikctl(&["image", "save", "hello:1", "-o", at]).bad(1);
        assert!(said.contains("there is no image docker.io/library/hello:1 on this node"), "{said}");
        assert!(file.exists(), "what is there stays when nothing comes instead");
        let said = lab.rikctl(&["image", "load", at]).good();
        assert_eq!(said, format!("image docker.io/library/hello:1 loaded on node {NODE}\n"));
        lab.api().run(&web("page", 8080));
        assert!(lab.page("http://127.0.0.1:8080/").contains("RIK"));
        // What others make of it.
        for form in ["oci-archive", "docker-archive"] {
            let mut inspect = std::process::Command::new("skopeo");
            let inspect = inspect.args(["inspect", "--config"]).arg(format!("{form}:{at}"));
            let seen = inspect.output().expect("skopeo is installed");
            assert!(String::from_utf8_lossy(&seen.stdout).contains("/bin/hello"), "{form}: {seen:?}");
        }
        let nowhere = Lab::root().join("no/where.tar");
        let said = lab.rikctl(&["image", "save", "hello:1", "-o", nowhere.to_str().expect("words")]).bad(1);
        assert!(said.contains("cannot be written: no such file"), "{said}");
    });
}
