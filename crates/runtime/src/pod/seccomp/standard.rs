//! The profile that a container has unless its manifest says otherwise: an allow-list, in the spirit of Docker's.
//!
//! What programs of services use is allowed. What changes the machine, looks into other processes or the kernel, or makes
//! namespaces and mounts is not; some of it comes with the capability that it is for.
//!
//! | stricter than Docker's | why |
//! |---|---|
//! | ptrace and its kin come with `SYS_PTRACE` alone | they read and write other processes of the container |
//! | no `AF_ALG` sockets | the kernel's ciphers by socket: seldom used, often at fault |

use seccompiler::SeccompAction;

use super::{
    calls::{free, number},
    profile::{Compared, Condition, Profile, Rule},
};

/// Flags of `clone` that make namespaces (linux/sched.h).
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Values of `personality` (linux/personality.h): the usual one, 32 bits, the older `uname`, both, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
/// Address families of `socket` that are refused (linux/socket.h): `AF_ALG`, `AF_VSOCK`. They are not bound by the
/// network namespace. One family is between them.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];
/// Calls that come with a capability.
const WITH_CAPABILITY: [(&str, &[&str]); 3] = [
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (
        "CAP_SYS_PTRACE",
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
];

/// The profile of a container with these capabilities.
pub(super) fn standard(capabilities: &[&str]) -> Profile {
    let allowed = |calls: Vec<i64>, when: Vec<Condition>| Rule { calls, action: SeccompAction::Allow, when };
    let named = |names: &[&str]| names.iter().filter_map(|name| number(name)).collect::<Vec<i64>>();
    let when = |argument, compared, value| Condition { argument, compared, value };
    let mut rules = vec![allowed(free().collect(), Vec::new())];
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(&capability) {
            rules.push(allowed(named(names), Vec::new()));
        }
    }
    rules.push(allowed(named(&["clone"]), vec![when(0, Compared::MaskedEqual(NEW_NAMESPACES), 0)]));
    let personalities = PERSONALITIES.map(|value| vec![when(0, Compared::Equal, value)]);
    rules.extend(personalities.map(|condition| allowed(named(&["personality"]), condition)));
    // Ranges and not "neither of them": other runtimes take several conditions on one argument for alternatives.
    let [first, second] = REFUSED_FAMILIES;
    for condition in [
        when(0, Compared::Less, first),
        when(0, Compared::Equal, first + 1),
        when(0, Compared::Greater, second),
    ] {
        rules.push(allowed(named(&["socket"]), vec![condition]));
    }
    rules.push(Rule {
        // Its flags are behind a pointer, where no filter can look; the C library then takes `clone`.
        calls: named(&["clone3"]),
        action: SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        when: Vec::new(),
    });
    Profile { default: SeccompAction::Errno(libc::EPERM.unsigned_abs()), rules }
}
