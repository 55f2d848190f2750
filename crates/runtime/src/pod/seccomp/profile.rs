//! A profile, and how it becomes programs for the kernel.
//!
//! ```text
//!  Profile { default, rules } ─▶ one program for each answer of a rule: what gets it, all else is allowed
//!                              └▶ one program: what a rule names is allowed, all else gets the default
//! ```
//! Of the answers of several programs the kernel takes the strictest, so together they are the profile.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use serde_json::{Value, json};

use super::{SeccompError, calls};

/// Most programs of one profile: an answer for each of the usual error numbers.
const MAX_PROGRAMS: usize = 16;

/// What a container may ask of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// The answer to every call that no rule names.
    pub(super) default: SeccompAction,
    /// Answers to others.
    pub(super) rules: Vec<Rule>,
}

/// The answer to some calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Their numbers.
    pub(super) calls: Vec<i64>,
    /// The answer.
    pub(super) action: SeccompAction,
    /// What must hold of their arguments, all of it; nothing: the answer is always given.
    pub(super) when: Vec<Condition>,
}

/// What must hold of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, from 0 to 5.
    pub(super) argument: u8,
    /// How it is compared.
    pub(super) compared: Compared,
    /// With what.
    pub(super) value: u64,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of this mask.
    MaskedEqual(u64),
}

impl Condition {
    fn compile(self) -> Result<SeccompCondition, SeccompError> {
        let operator = match self.compared {
            Compared::Equal => SeccompCmpOp::Eq,
            Compared::NotEqual => SeccompCmpOp::Ne,
            Compared::Less => SeccompCmpOp::Lt,
            Compared::LessOrEqual => SeccompCmpOp::Le,
            Compared::Greater => SeccompCmpOp::Gt,
            Compared::GreaterOrEqual => SeccompCmpOp::Ge,
            Compared::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask),
        };
        SeccompCondition::new(self.argument, SeccompCmpArgLen::Qword, operator, self.value).map_err(compile)
    }

    fn document(self) -> Value {
        let (operator, value, second) = match self.compared {
            Compared::Equal => ("SCMP_CMP_EQ", self.value, 0),
            Compared::NotEqual => ("SCMP_CMP_NE", self.value, 0),
            Compared::Less => ("SCMP_CMP_LT", self.value, 0),
            Compared::LessOrEqual => ("SCMP_CMP_LE", self.value, 0),
            Compared::Greater => ("SCMP_CMP_GT", self.value, 0),
            Compared::GreaterOrEqual => ("SCMP_CMP_GE", self.value, 0),
            Compared::MaskedEqual(mask) => ("SCMP_CMP_MASKED_EQ", mask, self.value),
        };
        json!({ "index": self.argument, "op": operator, "value": value, "valueTwo": second })
    }
}

fn compile(source: seccompiler::BackendError) -> SeccompError {
    SeccompError::Compile { source }
}

impl Profile {
    /// The programs, to be loaded in this order.
    ///
    /// # Errors
    /// If they are larger than the kernel takes.
    pub(super) fn compile(&self) -> Result<Vec<BpfProgram>, SeccompError> {
        let mut answers: Vec<&SeccompAction> = Vec::new();
        for rule in &self.rules {
            if rule.action != SeccompAction::Allow && !answers.contains(&&rule.action) {
                answers.push(&rule.action);
            }
        }
        if answers.len() >= MAX_PROGRAMS {
            return Err(SeccompError::TooManyAnswers { max: MAX_PROGRAMS });
        }
        let mut programs = Vec::new();
        for answer in answers.into_iter().filter(|answer| **answer != self.default) {
            let named = self.rules.iter().filter(|rule| rule.action == *answer);
            programs.push(program(named, &SeccompAction::Allow, answer)?);
        }
        // The last one: it may forbid the loading of another.
        if self.default != SeccompAction::Allow {
            // A call that gets another answer has to pass here, unless it is the same answer.
            let passing = self.rules.iter().filter(|rule| rule.action != self.default);
            programs.push(program(passing, &self.default, &SeccompAction::Allow)?);
        }
        Ok(programs)
    }

    /// The profile as the runtime specification has it, for other runtimes.
    pub(super) fn document(&self) -> Value {
        let (action, number) = action_document(&self.default);
        let architecture =
            if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
        let mut document = json!({ "defaultAction": action, "architectures": [architecture] });
        if let Some(number) = number {
            document["defaultErrnoRet"] = number.into();
        }
        document["syscalls"] = self.rules.iter().map(Rule::document).collect();
        document
    }
}

impl Rule {
    fn document(&self) -> Value {
        let names: Vec<&str> = self.calls.iter().filter_map(|call| calls::name(*call)).collect();
        let (action, number) = action_document(&self.action);
        let args: Vec<Value> = self.when.iter().map(|condition| condition.document()).collect();
        let mut document = json!({ "names": names, "action": action, "args": args });
        if let Some(number) = number {
            document["errnoRet"] = number.into();
        }
        document
    }
}

/// An answer by its name in the runtime specification, and its number if it has one.
fn action_document(action: &SeccompAction) -> (&'static str, Option<u32>) {
    match action {
        SeccompAction::Allow => ("SCMP_ACT_ALLOW", None),
        SeccompAction::Errno(number) => ("SCMP_ACT_ERRNO", Some(*number)),
        SeccompAction::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        SeccompAction::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        SeccompAction::Log => ("SCMP_ACT_LOG", None),
        SeccompAction::Trace(number) => ("SCMP_ACT_TRACE", Some(*number)),
        SeccompAction::Trap => ("SCMP_ACT_TRAP", None),
    }
}

/// A program that gives `named` to the calls of the rules and `others` to all others.
fn program<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    others: &SeccompAction,
    named: &SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let mut chains: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for rule in rules {
        for call in &rule.calls {
            let chain = chains.entry(*call).or_default();
            if rule.when.is_empty() {
                always.push(*call);
                continue;
            }
            let conditions = rule.when.iter().map(|condition| condition.compile());
            let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
            chain.push(SeccompRule::new(conditions).map_err(compile)?);
        }
    }
    for call in always {
        // No conditions at all mean "always", whatever other rules say.
        chains.insert(call, Vec::new());
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(compile)?;
    let filter = SeccompFilter::new(chains, others.clone(), named.clone(), arch).map_err(compile)?;
    let body: BpfProgram = filter.try_into().map_err(compile)?;
    Ok(unknown_is_absent().into_iter().chain(body).collect())
}

/// What stands before every program: calls of another processor's interface and calls that are newer than we know are
/// answered as by a kernel that does not have them, so that programs fall back to what there is.
fn unknown_is_absent() -> [sock_filter; 6] {
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_JMP | BPF_JGT | BPF_K`, `BPF_RET | BPF_K` of
    /// linux/bpf_common.h.
    const LOAD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const IF_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    /// Places in `struct seccomp_data` of linux/seccomp.h.
    const NUMBER_AT: u32 = 0;
    const ARCHITECTURE_AT: u32 = 4;
    /// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64` of linux/audit.h.
    const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xC000_00B7 } else { 0xC000_003E };
    let absent = u32::from(SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    let line = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        line(LOAD, 0, 0, ARCHITECTURE_AT),
        line(IF_EQUAL, 0, 2, ARCHITECTURE),
        line(LOAD, 0, 0, NUMBER_AT),
        line(IF_GREATER, 0, 1, calls::NEWEST),
        line(RETURN, 0, 0, absent),
        // Reached by every known call; the body loads what it needs itself.
        line(LOAD, 0, 0, NUMBER_AT),
    ]
}
