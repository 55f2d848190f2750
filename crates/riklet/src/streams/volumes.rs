//! Local volumes by stream: what is here, taking one away.

use model::api::VolumeView;
use proto::relay::RelayFailure;
use runtime::pod::{PodRuntime, VolumeNotRemoved};

use super::{Stream, failure};

/// Sends the local volumes of this node as a JSON array.
pub(super) async fn list(pods: &PodRuntime, node: &str, stream: &Stream) -> Result<(), RelayFailure> {
    let found = pods.local_volumes().await.map_err(|error| failure("node-failed", error.to_string()))?;
    let view = |own: runtime::pod::LocalVolumeOnNode| VolumeView {
        name: own.name,
        node: node.to_owned(),
        created_at: own.created_at,
        instances: own.instances,
    };
    let views: Vec<VolumeView> = found.into_iter().map(view).collect();
    super::say(&views, stream).await
}

/// Removes one.
pub(super) async fn remove(pods: &PodRuntime, name: &str) -> Result<(), RelayFailure> {
    pods.remove_local_volume(name).await.map_err(|error| {
        let code = match &error {
            VolumeNotRemoved::Absent(_) => "volume-not-found",
            VolumeNotRemoved::InUse { .. } => "volume-in-use",
            VolumeNotRemoved::Disk { .. } => "node-failed",
        };
        failure(code, daemon::chain(&error))
    })
}
