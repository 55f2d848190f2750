//! Kernel settings of the network namespace that the calling thread is in.

use std::{fs, io, path::PathBuf};

/// IPv4 forwarding, for the whole namespace.
pub(crate) const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// Why a setting could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading failed.
    #[error("read the kernel setting {name}")]
    Read {
        /// Its name, as `sysctl` prints it.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("set the kernel setting {name} to {value}{hint}")]
    Write {
        /// Its name, as `sysctl` prints it.
        name: String,
        /// What it should have become.
        value: &'static str,
        /// What to do about it, or nothing.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether packets sent to 127.0.0.0/8 may leave by, and answers to them come in by, this link.
pub(crate) fn route_localnet(link: &str) -> String {
    format!("net/ipv4/conf/{link}/route_localnet")
}

/// The current value.
pub(crate) fn read(key: &str) -> Result<String, SysctlError> {
    let text =
        fs::read_to_string(path(key)).map_err(|source| SysctlError::Read { name: name(key), source })?;
    Ok(text.trim().to_owned())
}

/// Sets a value. Says whether it was another before.
pub(crate) fn set(key: &str, value: &'static str) -> Result<bool, SysctlError> {
    if read(key)? == value {
        return Ok(false);
    }
    fs::write(path(key), value).map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                ": /proc/sys is not writable here; run the riklet as root and, inside a container, as a privileged one"
            }
            _ => "",
        };
        SysctlError::Write { name: name(key), value, hint, source }
    })?;
    Ok(true)
}

/// Sets a value where the kernel has the setting at all: one that was built or started without IPv6 has none of it.
pub(crate) fn set_if_known(key: &str, value: &'static str) -> Result<(), SysctlError> {
    if path(key).exists() { set(key, value).map(|_| ()) } else { Ok(()) }
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    path("net/ipv6").exists()
}

/// Turns IPv6 off on a link, or with `default` on all links to come.
pub(crate) fn disable_ipv6(link: &str) -> Result<(), SysctlError> {
    set_if_known(&format!("net/ipv6/conf/{link}/accept_ra"), "0")?;
    set_if_known(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn name(key: &str) -> String {
    key.replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_exist_is_an_error_that_names_it() {
        let error = read("net/ipv4/conf/no-such-link/route_localnet").unwrap_err();
        assert_eq!(error.to_string(), "read the kernel setting net.ipv4.conf.no-such-link.route_localnet");
        assert!(set_if_known("net/ipv6/conf/no-such-link/accept_ra", "0").is_ok());
    }
}
