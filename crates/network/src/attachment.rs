//! What a pod is given: the record that its owner keeps, and hands back after a restart.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use model::PortSpec;
use serde::{Deserialize, Serialize};

use crate::{Owner, TapOwner, book::some_address, firewall::Publish, namespace};

/// What a pod asks for.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// The pod.
    pub owner: Owner,
    /// Host name in the pod: at most 64 bytes.
    pub hostname: String,
    /// Where the files that hold the namespaces go: `<state-dir>/run/<uid>/ns`. Made if it is missing.
    pub ns_dir: PathBuf,
    /// Whether the namespaces were just made, by [`namespace::make`]; otherwise they are made, without a user namespace.
    pub has_namespaces: bool,
    /// Who holds the TAP device, if it is a microVM that has the address.
    pub tap: Option<TapOwner>,
    /// Ports to publish on the node.
    pub publish: Vec<PortSpec>,
}

/// A pod's place in the network. Good for as long as its namespaces are: keep it, and give it to
/// [`crate::Network::reconcile`] after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The pod.
    pub owner: Owner,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Host name in the pod.
    pub hostname: String,
    /// Directory of the files that hold the namespaces.
    pub ns_dir: PathBuf,
    /// Name of the link on the node's side.
    pub link: String,
    /// Ports of the node that lead to the pod.
    pub published: Vec<Publish>,
}

impl Attachment {
    /// The file that holds the network namespace.
    #[must_use]
    pub fn net_namespace(&self) -> PathBuf {
        namespace::net_path(&self.ns_dir)
    }

    /// The file that holds the ipc namespace.
    #[must_use]
    pub fn ipc_namespace(&self) -> PathBuf {
        namespace::ipc_path(&self.ns_dir)
    }

    /// The file that holds the uts namespace.
    #[must_use]
    pub fn uts_namespace(&self) -> PathBuf {
        namespace::uts_path(&self.ns_dir)
    }

    /// Whether the attachment is what this request would give.
    pub(crate) fn answers(&self, request: &AttachRequest) -> bool {
        let is_published = |spec: &PortSpec| {
            self.published.iter().any(|published| {
                published.host_port == spec.port
                    && published.protocol == spec.protocol
                    && published.host_address == some_address(spec.host_address)
                    && published.target.port() == spec.target()
            })
        };
        self.ns_dir == request.ns_dir
            && self.hostname == request.hostname
            && self.published.len() == request.publish.len()
            && request.publish.iter().all(is_published)
    }
}

/// Where the pods of a state directory keep their things.
pub(crate) fn pods_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("pods")
}
