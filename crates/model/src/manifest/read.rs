//! Reading a manifest: text in, a [`Workload`] or every fault out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Workload, check, rules, schema,
    tree::{self, Tree},
};

/// How unknown keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Refused, with a suggestion: the v1 API and the command line.
    Strict,
    /// Passed over, as clients of the v0 API rely on.
    Lenient,
}

/// One fault of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Fault {
    /// Field, such as `spec.containers[0].image`; empty for the document as a whole.
    #[serde(default)]
    pub path: String,
    /// Line from 1; 0 if unknown.
    #[serde(default)]
    pub line: u32,
    /// What was found and what is allowed.
    pub message: String,
}

impl Fault {
    /// A fault of the document as a whole.
    #[must_use]
    pub const fn document(message: String) -> Self {
        Self { path: String::new(), line: 0, message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.message)
    }
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manifest has {} fault{}", faults.len(), if faults.len() == 1 { "" } else { "s" })]
pub struct ManifestError {
    /// Every fault, in the order of the document.
    pub faults: Vec<Fault>,
}

/// Reads a workload from JSON or YAML text.
///
/// # Errors
/// Every fault of the document at once.
pub fn workload(text: &str, strictness: Strictness) -> Result<Workload, ManifestError> {
    let tree =
        tree::parse(text).and_then(tree::canonical).map_err(|fault| ManifestError { faults: vec![fault] })?;
    let mut faults = check::check(&tree, "Workload", schema::schemas(), strictness);
    match serde_json::from_value::<Workload>(without_nulls(tree.to_json())) {
        Ok(workload) => {
            let broken = rules::broken(&workload).into_iter();
            faults.extend(broken.map(|(path, message)| Fault { line: line_of(&tree, &path), path, message }));
            faults.sort_by_key(|fault| fault.line);
            if faults.is_empty() { Ok(workload) } else { Err(ManifestError { faults }) }
        }
        Err(error) => {
            if faults.is_empty() {
                faults.push(Fault::document(error.to_string()));
            }
            Err(ManifestError { faults })
        }
    }
}

/// The value without keys whose value is null: for an optional field both mean the same, and lists show nulls.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(entries) => entries
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// The line of the field at `path`, or of the nearest field above it that exists.
fn line_of(tree: &Tree, path: &str) -> u32 {
    let mut here = tree;
    for part in path.split(['.', '[']) {
        let below = match part.strip_suffix(']') {
            Some(index) => match (&here.value, index.parse::<usize>()) {
                (tree::Branch::List(items), Ok(index)) => items.get(index),
                _ => None,
            },
            None => here.get(part),
        };
        match below {
            Some(found) => here = found,
            None => break,
        }
    }
    here.line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Kind;

    fn faults(text: &str) -> String {
        let error = workload(text, Strictness::Strict).unwrap_err();
        error.faults.iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn the_documented_example_is_a_workload() {
        let text = r#"{"apiVersion":"v1","kind":"Pod","name":"alpine","replicas":1,
            "spec":{"containers":[{"name":"alpine","image":"alpine:latest"}]}}"#;
        let workload = workload(text, Strictness::Strict).unwrap();
        assert_eq!((workload.name.as_str(), workload.kind, workload.replicas), ("alpine", Kind::Pod, 1));
    }

    #[test]
    fn what_old_clients_send_is_a_workload_when_lenient() {
        let morty = r#"{"apiVersion":"v0","kind":"Function","name":"fn:v1","extra":1,
            "spec":{"function":{"execution":{"rootfs":"http://127.0.0.1/fn.ext4"}}}}"#;
        let read = workload(morty, Strictness::Lenient).unwrap();
        assert_eq!((read.api_version.as_str(), read.name.as_str()), ("v0", "fn:v1"));
        let listed = r#"{"kind":"Pod","name":"a","spec":{"function":null,"containers":[
            {"name":"a","image":"a","env":null,"ports":{"port":8080,"target_port":80,"type":"NodePort"}}]}}"#;
        let read = workload(listed, Strictness::Strict).unwrap();
        assert_eq!(read.spec.containers[0].ports[0].target(), 80);
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_line() {
        let text = "apiVersion: v1\nkind: pod\nname: Web\nreplica: 3\nreplicas: 0\nspec:\n  containers:\n    - name: a\n      imag: x\n      env:\n        - name: A=B\n          value: 7\n      resources:\n        limits: {memory: 64mb}\n      ports: {port: 70000}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 2: kind: found "pod"; allowed is Pod or Function; did you mean "Pod"?
        line 3: name: found "Web"; a name has 1 to 63 lower-case letters, digits, '-', '.', '_' or ':', and starts and ends with a letter or digit
        line 4: replica: is unknown; did you mean "replicas"?
        line 5: replicas: found 0; allowed is 1 to 1000
        line 8: spec.containers[0].image: is required and missing
        line 9: spec.containers[0].imag: is unknown; did you mean "image"?
        line 11: spec.containers[0].env[0].name: found "A=B"; a variable's name has no '=' and no NUL
        line 12: spec.containers[0].env[0].value: found the number 7; allowed is string
        line 14: spec.containers[0].resources.limits.memory: found "64mb"; "64mb" is not a quantity; allowed are bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T
        line 15: spec.containers[0].ports[0].port: found 70000; allowed is 1 to 65535
        "#);
    }

    #[test]
    fn rules_across_fields_carry_lines_too() {
        let text = "kind: Pod\nname: a\nspec:\n  containers:\n    - {name: a, image: a, ports: [{port: 1}]}\n    - {name: a, image: a, ports: [{port: 1}]}\n  resources:\n    requests: {cpu: 2}\n    limits: {cpu: 1}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 6: spec.containers[1].name: "a" is taken by another container of this pod
        line 6: spec.containers[1].ports[0].port: TCP port 1 is published twice in this pod
        line 8: spec.resources.requests.cpu: 2 is more than the limit of 1
        "#);
        insta::assert_snapshot!(faults("kind: Function\nname: f\nspec: {}\n"), @r#"line 3: spec.function: a Function needs this, with execution.rootfs in it, or one container"#);
        insta::assert_snapshot!(faults("kind: Pod\nname: f\nspec: {containers: []}\n"), @"line 3: spec.containers: a Pod needs at least one container");
    }

    #[test]
    fn what_keeps_a_container_going_obeys_its_rules() {
        let text = "kind: Pod\nname: a\nspec:\n  restartPolicy: Sometimes\n  restartBackoff: {initialSeconds: 9, maxSeconds: 3}\n  initContainers:\n    - {name: a, image: a, readinessProbe: {tcpSocket: {port: 1}}}\n    - {name: b, image: a, restartPolicy: Never}\n  containers:\n    - name: a\n      image: a\n      restartPolicy: Always\n      livenessProbe: {successThreshold: 2, httpGet: {port: 80, path: \"no slash\"}, exec: {command: [x]}}\n      lifecycle: {preStop: {}}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 4: spec.restartPolicy: found "Sometimes"; allowed is Never or OnFailure or Always
        line 13: spec.containers[0].livenessProbe.httpGet.path: found "no slash"; a path of a request begins with '/' and has no spaces; others are written as %20
        "#);
        let text = text.replace("Sometimes", "Always").replace("path: \"no slash\"", "path: /");
        insta::assert_snapshot!(faults(&text), @r#"
        line 5: spec.restartBackoff.initialSeconds: 9 is more than maxSeconds, 3
        line 7: spec.initContainers[0].readinessProbe: an init container runs to its end, and is not asked how it is; with restartPolicy Always it is a sidecar, which may be asked
        line 8: spec.initContainers[1].restartPolicy: can only be Always, which makes a sidecar of an init container
        line 10: spec.containers[0].name: "a" is taken by another container of this pod
        line 12: spec.containers[0].restartPolicy: is for init containers only; for the others, it is spec.restartPolicy
        line 13: spec.containers[0].livenessProbe: needs exactly one of exec, httpGet and tcpSocket
        line 13: spec.containers[0].livenessProbe.successThreshold: can only be 1 for this probe
        line 14: spec.containers[0].lifecycle.preStop: needs exactly one of exec and httpGet
        "#);
    }

    #[test]
    fn what_is_the_nodes_goes_together_with_what_makes_sense_there() {
        let text = "kind: Pod\nname: a\nspec:\n  hostPID: true\n  hostNetwork: true\n  shareProcessNamespace: true\n  containers:\n    - name: a\n      image: a\n      ports: [{port: 80, targetPort: 8080}]\n      securityContext: {privileged: true, allowPrivilegeEscalation: false}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 5: spec.hostNetwork: port 80 cannot lead to 8080: the node's ports are the container's own
        line 6: spec.shareProcessNamespace: its containers see each other in the node's processes already
        line 11: spec.containers[0].securityContext.allowPrivilegeEscalation: a privileged container has all rights already
        "#);
    }

    #[test]
    fn rights_and_volumes_obey_their_rules() {
        let text = "kind: Pod\nname: a\nspec:\n  volumes:\n    - {name: v, emptyDir: {sizeLimit: 1Mi}}\n    - {name: v, hostPath: {path: /a/../b}}\n    - {name: w}\n  containers:\n    - name: a\n      image: a\n      volumeMounts: [{name: x, mountPath: /proc/x}, {name: v, mountPath: /d}, {name: w, mountPath: /d/}]\n      securityContext:\n        privileged: true\n        allowPrivilegeEscalation: true\n        runAsNonRoot: true\n        runAsUser: 0\n        capabilities: {add: [ALL]}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 6: spec.volumes[1].hostPath.path: found "/a/../b"; a path starts with '/' and has no '..'
        line 6: spec.volumes[1].name: "v" is taken by another volume of this pod
        line 7: spec.volumes[2]: needs exactly one of emptyDir, hostPath, local, config and secret
        line 11: spec.containers[0].volumeMounts[0].name: "x" is no volume of this pod
        line 11: spec.containers[0].volumeMounts[0].mountPath: cannot be below /proc, /sys or /dev, but for /dev/shm
        line 11: spec.containers[0].volumeMounts[2].mountPath: is the place of another volume already
        line 13: spec.containers[0].securityContext.privileged: a privileged container has all capabilities and no filter; leave those out
        line 16: spec.containers[0].securityContext.runAsUser: 0 is root, which runAsNonRoot refuses
        line 17: spec.containers[0].securityContext.capabilities.add: ALL can only be dropped; name each one to add
        "#);
        let text = "kind: Pod\nname: a\nspec:\n  securityContext: {seccompProfile: {type: Localhost}}\n  volumes:\n    - {name: v, local: {name: db}, emptyDir: {}}\n  containers:\n    - name: a\n      image: a\n      stdinOnce: true\n      securityContext: {seccompProfile: {type: Unconfined, localhostProfile: a.json}}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 4: spec.securityContext.seccompProfile.localhostProfile: type Localhost needs it
        line 6: spec.volumes[0]: needs exactly one of emptyDir, hostPath, local, config and secret
        line 10: spec.containers[0].stdinOnce: needs stdin: true
        line 11: spec.containers[0].securityContext.seccompProfile.localhostProfile: goes with type Localhost only
        "#);
        let text = "kind: Pod\nname: a\nspec:\n  volumes:\n    - {name: v, local: {name: Db}}\n  containers:\n    - name: a\n      image: a\n      volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]\n      securityContext: {seccompProfile: {type: Localhost, localhostProfile: /etc/x}}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 5: spec.volumes[0].local.name: found "Db"; a name of a config, secret or volume has 1 to 63 lower-case letters, digits or '-', and starts and ends with a letter or digit
        line 9: spec.containers[0].volumeMounts[0].subPath: found "../x"; a relative path does not begin with '/' and has no '.', '..' and no NUL in it
        line 10: spec.containers[0].securityContext.seccompProfile.localhostProfile: found "/etc/x"; a relative path does not begin with '/' and has no '.', '..' and no NUL in it
        "#);
        let text = "kind: Pod\nname: a\nspec:\n  containers:\n    - name: a\n      image: a\n      securityContext: {capabilities: {add: [SYS_ADMIN]}}\n";
        insta::assert_snapshot!(faults(text), @r#"
        line 7: spec.containers[0].securityContext.capabilities.add[0]: found "SYS_ADMIN"; allowed is ALL or AUDIT_WRITE or CHOWN or DAC_OVERRIDE or FOWNER or FSETID or IPC_LOCK or KILL or NET_ADMIN or NET_BIND_SERVICE or NET_RAW or SETFCAP or SETGID or SETPCAP or SETUID or SYS_CHROOT or SYS_NICE or SYS_PTRACE; did you mean "NET_ADMIN"?
        "#);
    }

    #[test]
    fn a_document_that_is_no_manifest_says_what_it_is() {
        for text in ["", "null", "[]", "7", "\"x\"", "\0", "---\na: 1\n---\nb: 2\n"] {
            assert!(workload(text, Strictness::Lenient).is_err(), "{text:?}");
        }
    }
}
