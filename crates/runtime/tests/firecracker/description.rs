//! What Firecracker's published description of its API (version 1.17, Apache 2.0) says about the requests that set
//! something: paths, fields, types and bounds. Every request of ours is held against it.

use serde_json::Value;

/// What a field may be.
#[derive(Clone, Copy, Debug)]
pub enum Is {
    /// Words.
    Text,
    /// Yes or no.
    Flag,
    /// A number, from the first to the second.
    Number(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// The last part of the path.
    OfPath,
    /// Something with parts of its own, which RIK does not send.
    Whole,
}

/// A field, and whether it must be there.
type Field = (&'static str, Is, bool);

/// Paths, the last part of one in braces, and the fields of their bodies.
const REQUESTS: &[(&str, &[Field])] = &[
    ("/actions", &[("action_type", Is::OneOf(&["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]), true)]),
    (
        "/boot-source",
        &[
            ("kernel_image_path", Is::Text, true),
            ("initrd_path", Is::Text, false),
            ("boot_args", Is::Text, false),
        ],
    ),
    (
        "/drives/{drive_id}",
        &[
            ("drive_id", Is::OfPath, true),
            ("is_root_device", Is::Flag, true),
            ("is_read_only", Is::Flag, false),
            ("path_on_host", Is::Text, false),
            ("partuuid", Is::Text, false),
            ("cache_type", Is::OneOf(&["Unsafe", "Writeback"]), false),
            ("io_engine", Is::OneOf(&["Sync", "Async"]), false),
            ("rate_limiter", Is::Whole, false),
            ("socket", Is::Text, false),
        ],
    ),
    ("/entropy", &[("rate_limiter", Is::Whole, false)]),
    (
        "/machine-config",
        &[
            ("vcpu_count", Is::Number(1, 32), true),
            ("mem_size_mib", Is::Number(1, i64::MAX), true),
            ("smt", Is::Flag, false),
            ("track_dirty_pages", Is::Flag, false),
            ("huge_pages", Is::OneOf(&["None", "Transparent", "2M"]), false),
            ("cpu_template", Is::OneOf(&["C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"]), false),
        ],
    ),
    (
        "/network-interfaces/{iface_id}",
        &[
            ("iface_id", Is::OfPath, true),
            ("host_dev_name", Is::Text, true),
            ("guest_mac", Is::Text, false),
            ("mtu", Is::Number(68, 65_535), false),
            ("rx_rate_limiter", Is::Whole, false),
            ("tx_rate_limiter", Is::Whole, false),
        ],
    ),
    (
        "/vsock",
        &[
            ("guest_cid", Is::Number(3, i64::MAX), true),
            ("uds_path", Is::Text, true),
            ("vsock_id", Is::Text, false),
        ],
    ),
];

/// Holds a request against the description.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &str, body: &Value) -> Result<(), String> {
    let fields = REQUESTS.iter().find_map(|(known, fields)| {
        let (fixed, open) = known.split_once('{').map_or((*known, false), |(fixed, _)| (fixed, true));
        let rest = path.strip_prefix(fixed)?;
        let fits = if open { !rest.is_empty() && !rest.contains('/') } else { rest.is_empty() };
        fits.then_some(*fields)
    });
    let fields = fields.ok_or_else(|| format!("there is no {path}"))?;
    let given = body.as_object().ok_or_else(|| format!("the body of {path} is no object"))?;
    if let Some((name, _, _)) = fields.iter().find(|(name, _, needed)| *needed && !given.contains_key(*name))
    {
        return Err(format!("{path}: {name} is missing"));
    }
    for (name, value) in given {
        let known = fields.iter().find(|(known, _, _)| known == name);
        let (_, is, _) = known.ok_or_else(|| format!("{path}: {name} is not known"))?;
        let fits = match is {
            Is::Text => value.is_string(),
            Is::Flag => value.is_boolean(),
            Is::Number(least, most) => {
                value.as_i64().is_some_and(|number| (*least..=*most).contains(&number))
            }
            Is::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Is::OfPath => value.as_str().is_some_and(|word| path.rsplit('/').next() == Some(word)),
            Is::Whole => value.is_object(),
        };
        if !fits {
            return Err(format!("{path}: {name} is {value}, allowed is {is:?}"));
        }
    }
    Ok(())
}
