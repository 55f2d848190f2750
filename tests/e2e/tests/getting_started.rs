//! The documentation's first steps, typed as they are printed, against four processes.

use e2e::api::{pids, text};
use e2e::rikctl::{self, Said};
use e2e::{SHORT, image, manifest, probe, story, wait_until};

/// What the documentation's `rikctl` lines become, once built.
fn documented(config: &str, arguments: &[&str]) -> Said {
    rikctl::say(rikctl::command().args(arguments).env("RIKCONFIG", config))
}

#[test]
fn documented_getting_started_works_as_typed() {
    story(|lab| {
        let api = lab.cluster();
        lab.load(&image::busybox("alpine:latest"));
        let config = "docs/src/examples/config.json";
        let said = documented(
            config,
            &["create", "workload", "--file", "docs/src/examples/workloads/workload-1.json"],
        )
        .good();
        let id = text(&api.workloads()[0]["id"]);
        assert_eq!(said.trim(), format!("Workload alpine has been successfully created with ID : \"{id}\""));

        let said = documented(config, &["create", "instance", "--workload-id", &id]);
        assert_eq!(said.code, 0, "{said:?}");
        let words = format!("{}{}", said.stdout, said.stderr);
        assert!(words.contains("Create an instance of a workload"), "{words}");
        assert!(
            words.contains(&format!("Instance has been successfully created for workload : {id}")),
            "{words}"
        );

        let instance = text(&api.instances()[0]["id"]);
        let running = api.wait_status(&instance, "Running");
        let table = documented("examples/config.json", &["get", "instances"]).good();
        let words: Vec<&str> = table.split_whitespace().collect();
        assert_eq!(words[..3], ["ID", "NAME", "STATUS"], "{table}");
        assert!(words.contains(&instance.as_str()) && words.contains(&"Running"), "{table}");
        let container = pids(&running)[0];
        assert!(
            probe::command_line(container).contains("busybox sh -c"),
            "{}",
            probe::command_line(container)
        );

        api.delete_instance(&instance);
        api.wait_gone(&instance);
        assert!(!probe::is_alive(container));
    });
}

#[test]
fn image_from_the_loopback_registry_serves_its_page() {
    story(|lab| {
        let api = lab.cluster();
        let reference = lab.registry().push(&image::hello("shop/hello:7"));
        let mut web = manifest::web("shop", 30080);
        web["spec"]["containers"][0]["image"] = reference.into();
        api.run(&web);
        let page = lab.page("http://127.0.0.1:30080/");
        assert!(page.contains("RIK runs your container"), "{page}");
        api.delete_instance("shop");
        api.wait_gone("shop");
        assert_eq!(probe::processes("/bin/hello"), Vec::<u32>::new());
    });
}

#[test]
fn nouns_are_accepted_in_singular_and_plural() {
    story(|lab| {
        let api = lab.cluster();
        for (noun, file) in [("workload", "workload-2.json"), ("workloads", "workload-3.json")] {
            let path = format!("docs/src/examples/workloads/{file}");
            let _ = lab.rikctl(&["create", noun, "-f", &path]).good();
        }
        for noun in ["workload", "workloads"] {
            let table = lab.rikctl(&["get", noun]).good();
            assert!(table.contains("2-distro") && table.contains("replicated"), "{table}");
            let words: Vec<&str> = table.split_whitespace().collect();
            assert_eq!(words[..4], ["ID", "NAME", "KIND", "CONTAINERS"]);
        }
        assert_eq!(api.instances(), Vec::<serde_json::Value>::new(), "a workload by itself deploys nothing");
        for noun in ["instance", "instances"] {
            let _ = lab.rikctl(&["get", noun]).good();
        }
    });
}

/// C-43: an unknown id and a used name are errors in words, with exit code 1.
#[test]
fn c43_rikctl_says_what_went_wrong() {
    story(|lab| {
        lab.cluster();
        let unknown = "00000000-0000-4000-8000-000000000000";
        let words = lab.rikctl(&["create", "instance", "--workload-id", unknown]).bad(1);
        assert!(words.contains(unknown) && words.contains("error:"), "{words}");
        let file = "docs/src/examples/workloads/workload-1.json";
        let _ = lab.rikctl(&["create", "workload", "--file", file]).good();
        let words = lab.rikctl(&["create", "workload", "--file", file]).bad(1);
        assert!(words.contains("alpine") && words.contains("exist"), "{words}");
    });
}

/// C-44: nothing of a manifest is dropped on its way, `--quiet` prints the id alone, and there is a delete.
#[test]
fn c44_rikctl_sends_the_whole_manifest_and_prints_the_id_alone() {
    story(|lab| {
        let api = lab.cluster();
        let file = "docs/src/examples/workloads/hello.json";
        let id = lab.rikctl(&["create", "workload", "--file", file, "--quiet"]).good();
        let workload = &api.workloads()[0];
        assert_eq!(id.trim(), text(&workload["id"]));
        let container = &workload["value"]["spec"]["containers"][0];
        assert_eq!(container["env"][0]["name"], "PORT");
        assert_eq!(container["ports"]["port"], 30080);
        let function = "docs/src/examples/functions/workload-function.json";
        let _ = lab.rikctl(&["create", "workload", "--file", function]).good();
        let stored = api.workloads();
        let stored = stored.iter().find(|one| one["name"] == "my-function").expect("the function is listed");
        assert_eq!(
            stored["value"]["spec"]["function"]["execution"]["rootfs"],
            "https://example.com/rootfs.ext4"
        );
        let _ = lab.rikctl(&["delete", "workload", "hello"]).good();
        wait_until(SHORT, "the workload to be gone", || match api.workloads().len() {
            1 => Ok(()),
            count => Err(format!("{count} workloads")),
        });
    });
}

#[test]
fn documented_function_fails_with_the_reason_that_its_host_is_none() {
    story(|lab| {
        let api = lab.cluster();
        let file = "docs/src/examples/functions/workload-function.json";
        let id = lab.rikctl(&["create", "workload", "--file", file, "--quiet"]).good();
        api.create_instance(id.trim(), "fn");
        let failed = wait_until(SHORT, "the function to fail", || match api.instance("fn") {
            Some(instance) if instance["status"] == "Failed" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(failed["reason"], "ImagePullFailed", "{failed}");
        assert!(text(&failed["message"]).contains("https://example.com/rootfs.ext4"), "{failed}");
    });
}
