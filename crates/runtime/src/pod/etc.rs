//! The three files that every container of a pod finds in `/etc`: `hosts`, `hostname` and `resolv.conf`.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::InstanceSpec;

/// Where the machine says who resolves names for it: the second is the truth behind a local resolver.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Longest host name of the kernel.
const HOSTNAME_BYTES: usize = 63;

/// The host name of an instance: its id, as far as the kernel takes it.
#[must_use]
pub fn hostname(id: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '-' || letter == '.' { letter } else { '-' }
    };
    let name: String = id.chars().take(HOSTNAME_BYTES).map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "pod".to_owned() } else { name.to_owned() }
}

/// The host name of a pod: the machine's own for one that has the machine's network.
#[must_use]
pub fn hostname_of(spec: &InstanceSpec) -> String {
    if spec.spec.host_network {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    hostname(&spec.id)
}

/// Writes the files of a pod with this address.
///
/// # Errors
/// What the file system says.
pub fn write(dir: &Path, hostname: &str, ip: Ipv4Addr) -> io::Result<()> {
    let host = RESOLVER_FILES.map(|path| fs::read_to_string(path).unwrap_or_default());
    write_all(dir, &hosts(hostname, ip), hostname, &resolv_conf(&host))
}

/// Writes the files of a pod that has the machine's network: they say what the machine's own say.
///
/// # Errors
/// What the file system says.
pub fn write_of_machine(dir: &Path, hostname: &str) -> io::Result<()> {
    let own = |path: &str| fs::read_to_string(path).unwrap_or_default();
    write_all(dir, &own("/etc/hosts"), hostname, &own("/etc/resolv.conf"))
}

fn write_all(dir: &Path, hosts: &str, hostname: &str, resolv_conf: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let hostname = format!("{hostname}\n");
    for (name, text) in [("hosts", hosts), ("hostname", &hostname), ("resolv.conf", resolv_conf)] {
        // Read by any user inside; nobody else comes to this directory.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(dir.join(name))?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn hosts(hostname: &str, ip: Ipv4Addr) -> String {
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n{ip}\t{hostname}\n"
    )
}

/// The machine's own file without what leads nowhere from inside a pod: resolvers on the machine's loopback. The first
/// file that has another resolver is taken; if none has, the rest of the first.
fn resolv_conf(files: &[String]) -> String {
    let useful = |text: &str| -> (bool, String) {
        let mut any = false;
        let mut kept = String::new();
        for line in text.lines() {
            if let Some(server) = line.trim().strip_prefix("nameserver") {
                let address =
                    server.trim().split('%').next().and_then(|address| address.parse::<IpAddr>().ok());
                if address.is_none_or(|address| address.is_loopback()) {
                    continue;
                }
                any = true;
            }
            kept.push_str(line);
            kept.push('\n');
        }
        (any, kept)
    };
    let mut kept = files.iter().map(|text| useful(text));
    let first = kept.next().unwrap_or_default();
    if first.0 { first.1 } else { kept.find(|(any, _)| *any).unwrap_or(first).1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_on_the_machines_loopback_is_left_out() {
        let own = "search lan\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\n".to_owned();
        let real = "nameserver 192.0.2.1\n".to_owned();
        assert_eq!(resolv_conf(&[own.clone(), real.clone()]), real);
        assert_eq!(resolv_conf(&[own, String::new()]), "search lan\noptions edns0\n");
        assert_eq!(resolv_conf(&[real.clone(), String::new()]), real);
    }

    #[test]
    fn host_name_is_what_the_kernel_takes() {
        assert_eq!(hostname("web-1"), "web-1");
        assert_eq!(hostname("a/b\n"), "a-b");
        assert_eq!(hostname("..."), "pod");
        assert!(hostname(&"x".repeat(300)).len() <= HOSTNAME_BYTES);
    }

    #[test]
    fn files_can_be_read_by_every_user_inside() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "web", Ipv4Addr::new(10, 0, 0, 2)).unwrap();
        for name in ["hosts", "hostname", "resolv.conf"] {
            assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o644);
        }
        assert!(fs::read_to_string(dir.path().join("hosts")).unwrap().ends_with("10.0.0.2\tweb\n"));
    }
}
