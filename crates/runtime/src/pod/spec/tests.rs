//! The specification that comes of manifest and image: rules as examples, and one whole document.

use model::manifest::EnvVar;

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn image(entrypoint: &str, cmd: &str) -> ImageConfig {
    let mut image = ImageConfig::default();
    image.entrypoint = words(entrypoint);
    image.cmd = words(cmd);
    image
}

fn container(command: &str, args: &str) -> ContainerSpec {
    ContainerSpec { command: words(command), args: words(args), ..ContainerSpec::default() }
}

fn machine() -> Machine {
    Machine {
        cgroups_shown: vec![PathBuf::from("/sys/fs/cgroup/memory")],
        open_files_max: 20_000,
        processors: 1,
    }
}

fn setup() -> ContainerSetup {
    let at = |name: &str| PathBuf::from("/state/pods/uid").join(name);
    ContainerSetup {
        security: Security::of(&model::WorkloadSpec::default(), &ContainerSpec::default()),
        volumes: Vec::new(),
        rootfs: at("c/0/rootfs"),
        etc_dir: at("etc"),
        namespaces: Namespaces {
            net: Some(at("ns/net")),
            ipc: Some(at("ns/ipc")),
            uts: Some(at("ns/uts")),
            pids: Pids::Own,
        },
        ids: None,
        user: Account { uid: 101, gid: 102, groups: vec![200] },
        working_dir: PathBuf::from("/srv"),
        hostname: "web".to_owned(),
        machine: machine(),
    }
}

#[test]
fn command_and_args_replace_what_kubernetes_says_they_replace() {
    let cases =
        [("", "", "entry cmd"), ("own", "", "own"), ("", "arg", "entry arg"), ("own", "arg", "own arg")];
    for (command, args, expected) in cases {
        let line = command_line(&container(command, args), &image("entry", "cmd")).unwrap();
        assert_eq!(line.join(" "), expected, "command {command:?}, args {args:?}");
    }
    assert_eq!(command_line(&container("", ""), &image("", "/bin/sh")).unwrap(), ["/bin/sh"]);
}

#[test]
fn container_without_any_command_is_refused() {
    assert_eq!(command_line(&container("", ""), &image("", "")), Err(SpecError::NoCommand));
}

#[test]
fn environment_of_the_manifest_wins_over_the_image_and_that_over_defaults() {
    let mut image = image("", "");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    image.env = vec![pair("PATH", "/opt/bin"), pair("MODE", "image"), pair("", "x"), pair("A=B", "x")];
    let env = vec![EnvVar { name: "MODE".to_owned(), value: "own".to_owned(), ..EnvVar::default() }];
    let container = ContainerSpec { env, ..ContainerSpec::default() };
    assert_eq!(
        environment(&container, &image, "web").unwrap(),
        ["PATH=/opt/bin", "HOSTNAME=web", "MODE=own"]
    );
}

#[test]
fn environment_with_a_nul_is_refused() {
    let env = vec![EnvVar { name: "A".to_owned(), value: "\0".to_owned(), ..EnvVar::default() }];
    let container = ContainerSpec { env, ..ContainerSpec::default() };
    assert!(environment(&container, &image("", ""), "web").is_err());
}

#[test]
fn whole_specification_is_understood_by_libcontainer() {
    let value = container_spec(&container("/bin/sh -c", "true"), &image("entry", "cmd"), &setup()).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_value(value.clone()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(
        linux.readonly_paths().as_ref().and_then(|paths| paths.last()).map(String::as_str),
        Some("/sys/fs/cgroup/memory")
    );
    let process = spec.process().as_ref().unwrap();
    assert_eq!((process.user().uid(), process.no_new_privileges()), (101, Some(true)));
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().map(std::collections::HashSet::len), Some(11));
    assert_eq!(capabilities.ambient().as_ref().map(std::collections::HashSet::len), Some(0));
    insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!("specification", value) });
}
