//! A profile that the node's operator wrote: JSON as Docker and the runtime specification of the Open Container Initiative
//! have it.
//!
//! *Guarantee*: what is not understood is refused; a rule is never left out, but for calls that this processor does not
//! have and rules that say themselves that they are for others.

use seccompiler::SeccompAction;
use serde::Deserialize;

use super::{
    SeccompError,
    calls::number,
    profile::{Compared, Condition, Profile, Rule},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    /// There are programs of this machine's own processor only, whatever is listed.
    #[serde(default, rename = "architectures")]
    _architectures: serde::de::IgnoredAny,
    #[serde(default, rename = "archMap")]
    _arch_map: serde::de::IgnoredAny,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    name: Option<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default, rename = "comment")]
    _comment: serde::de::IgnoredAny,
    #[serde(default)]
    includes: Selector,
    #[serde(default)]
    excludes: Selector,
}

/// For whom a rule is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    caps: Option<Vec<String>>,
    /// Every kernel that RIK runs on is newer than any that profiles ask for.
    #[serde(default, rename = "minKernel")]
    min_kernel: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile for a container with these capabilities.
///
/// # Errors
/// If it is not understood.
pub(super) fn read(text: &str, capabilities: &[&str]) -> Result<Profile, SeccompError> {
    let document: Document =
        serde_json::from_str(text).map_err(|source| SeccompError::Document { source })?;
    let default = action(&document.default_action, document.default_errno_ret)?;
    let mut rules = Vec::new();
    for entry in document.syscalls {
        if entry.includes.wants_more_than(capabilities) || entry.excludes.meets(capabilities) {
            continue;
        }
        let names = entry.names.iter().chain(&entry.name);
        let when = entry.args.iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        rules.push(Rule {
            calls: names.filter_map(|name| number(name)).collect(),
            action: action(&entry.action, entry.errno_ret)?,
            when,
        });
    }
    Ok(Profile { default, rules })
}

impl Selector {
    /// As `includes`: whether something that it asks for is missing.
    fn wants_more_than(&self, capabilities: &[&str]) -> bool {
        let here = |arch: &String| is_here(arch);
        let has = |capability: &String| capabilities.contains(&capability.as_str());
        self.arches.as_ref().is_some_and(|arches| !arches.is_empty() && !arches.iter().any(here))
            || self.caps.as_ref().is_some_and(|caps| !caps.iter().all(has))
    }

    /// As `excludes`: whether something that it names is there.
    fn meets(&self, capabilities: &[&str]) -> bool {
        let has = |capability: &String| capabilities.contains(&capability.as_str());
        self.arches.iter().flatten().any(|arch| is_here(arch))
            || self.caps.iter().flatten().any(has)
            || self.min_kernel.is_some()
    }
}

fn is_here(arch: &str) -> bool {
    match arch {
        "amd64" | "x86_64" => cfg!(target_arch = "x86_64"),
        "arm64" | "aarch64" => cfg!(target_arch = "aarch64"),
        _ => false,
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        other => return Err(SeccompError::Unknown { what: "action", word: other.to_owned() }),
    })
}

fn condition(argument: &Argument) -> Result<Condition, SeccompError> {
    let compared = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Compared::Equal,
        "SCMP_CMP_NE" => Compared::NotEqual,
        "SCMP_CMP_LT" => Compared::Less,
        "SCMP_CMP_LE" => Compared::LessOrEqual,
        "SCMP_CMP_GT" => Compared::Greater,
        "SCMP_CMP_GE" => Compared::GreaterOrEqual,
        // The first value is the mask, the second what must be left.
        "SCMP_CMP_MASKED_EQ" => Compared::MaskedEqual(argument.value),
        other => return Err(SeccompError::Unknown { what: "comparison", word: other.to_owned() }),
    };
    let masked = matches!(compared, Compared::MaskedEqual(_));
    let value = if masked { argument.value_two } else { argument.value };
    Ok(Condition { argument: argument.index, compared, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_in_dockers_form_is_understood() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "archMap": [],
            "syscalls": [
                { "names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW", "comment": "plain" },
                { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_PTRACE"] } },
                { "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [
                    { "index": 1, "value": 4095, "valueTwo": 511, "op": "SCMP_CMP_MASKED_EQ" }
                ] }
            ]
        }"#;
        let profile = read(text, &[]).unwrap();
        assert_eq!(profile.default, SeccompAction::Errno(38));
        assert_eq!(profile.rules.len(), 2);
        assert_eq!(profile.rules[0].calls.len(), 2);
        let condition = Condition { argument: 1, compared: Compared::MaskedEqual(4095), value: 511 };
        assert_eq!(profile.rules[1].when, [condition]);
        assert_eq!(read(text, &["CAP_SYS_PTRACE"]).unwrap().rules.len(), 3);
        assert_eq!(profile.compile().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        for (text, named) in [
            ("{}", "defaultAction"),
            (r#"{ "defaultAction": "SCMP_ACT_NOTIFY" }"#, "SCMP_ACT_NOTIFY"),
            (r#"{ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }"#, "listenerPath"),
            (
                r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ { "names": ["read"], "action": "SCMP_ACT_KILL",
                     "args": [ { "index": 0, "value": 0, "op": "SCMP_CMP_LIKE" } ] } ] }"#,
                "SCMP_CMP_LIKE",
            ),
        ] {
            let error = read(text, &[]).unwrap_err();
            let said = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(said.contains(named), "{said}");
        }
    }
}
