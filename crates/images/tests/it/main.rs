//! The crate from outside: real and hostile registries, archives, root filesystems. Needs root.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod hostile;
mod loading;
mod logins;
mod mounting;
mod pulling;
mod real_registry;
mod refusing;
mod saving;
mod sharing;
mod storing;
mod support;
