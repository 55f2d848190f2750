//! The images of nodes: listed, pulled before they are needed, and removed when nothing uses them.

use e2e::api::text;
use e2e::manifest::pod;
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
