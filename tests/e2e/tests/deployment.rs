//! `compose.yaml` and the units of systemd call the programs with flags and settings that these programs have.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use e2e::programs;
use serde::Deserialize;

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    command: String,
    container_name: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

fn read(path: &str) -> String {
    let path = programs::workspace_folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

/// What `command` and `--help` print; the word before an unknown flag would be the last.
fn help(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = Command::new(programs::built(&name)).args(words).arg("--help").output();
    let output = output.unwrap_or_else(|error| panic!("failed to run {name}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

fn assert_known<'a>(place: &str, command: &str, settings: impl IntoIterator<Item = &'a str>) {
    let help = help(command).unwrap_or_else(|error| panic!("{place}: {command}: {error}"));
    for setting in settings {
        assert!(help.contains(&format!("[env: {setting}")), "{place}: {command} does not read {setting}");
    }
}

#[test]
fn unknown_flag_is_refused_before_help_is_given() {
    for program in ["scheduler", "controller", "riklet"] {
        assert!(help(&format!("{program} --no-such-flag")).is_err(), "{program}");
    }
}

#[test]
fn compose_file_starts_the_programs_as_they_are() {
    let compose: Compose = serde_saphyr::from_str(&read("compose.yaml")).expect("it is YAML");
    let image = read("Dockerfile");
    for (name, service) in &compose.services {
        assert_known(name, &service.command, service.environment.keys().map(String::as_str));
        let program = service.command.split_whitespace().next().unwrap_or_default();
        assert!(image.contains(&format!("/release/{program} ")), "the image has no {program}");
    }
    let [controller, scheduler, worker] = ["controller", "scheduler", "worker"].map(|name| {
        compose.services.get(name).unwrap_or_else(|| panic!("compose.yaml has no service {name}"))
    });
    assert_eq!(scheduler.container_name.as_deref(), Some("rik-scheduler"));
    assert_eq!(
        controller.environment.get("SCHEDULER_URL").map(String::as_str),
        Some("http://rik-scheduler:4996")
    );
    assert_eq!(worker.command, "riklet --master-ip rik-scheduler:4995");
}

#[test]
fn units_start_the_programs_as_they_are() {
    for unit in ["scheduler", "rik-controller", "riklet"] {
        let text = read(&format!("packaging/systemd/{unit}.service"));
        let values = |key: &str| -> Vec<&str> {
            text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
        };
        let [command] = values("ExecStart")[..] else { panic!("{unit} has not one command") };
        let settings = values("Environment").into_iter().filter_map(|setting| setting.split('=').next());
        assert_known(unit, command, settings);
        assert_eq!((values("Restart"), values("RestartSec")), (vec!["always"], vec!["3"]), "{unit}");
    }
    let riklet = read("packaging/systemd/riklet.service");
    assert!(riklet.lines().any(|line| line == "KillMode=process"), "stopping it would end its pods");
    // Each of these would give the riklet mounts of its own, which the next riklet does not see.
    for setting in ["Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "DynamicUser", "Root"] {
        assert!(!riklet.lines().any(|line| line.starts_with(setting)), "{setting}… hides mounts of pods");
    }
}
