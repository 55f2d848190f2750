//! Nodes: who takes part, which addresses it gives out, and whether it is heard from.

use std::{collections::BTreeSet, net::Ipv4Addr, str::FromStr, sync::Arc};

use model::{
    Instance, Node, NodeMetrics, NodeStatus, Reason, Status,
    api::{NodeView, Page, Versioned},
    key,
    manifest::names,
    node::NodeFacts,
};

use super::{Cluster, ClusterError, Heard, MAX_TRIES, to_json};

/// The addresses of the cluster's instances, and how they are dealt out to nodes: each node gets one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPlan {
    base: u32,
    prefix: u8,
}

/// Prefix length of a node's block: 253 instances, more than one machine takes.
const NODE_PREFIX: u8 = 24;

impl Default for SubnetPlan {
    fn default() -> Self {
        Self { base: u32::from(Ipv4Addr::new(10, 42, 0, 0)), prefix: 16 }
    }
}

/// A plan that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of addresses for nodes; allowed is a.b.c.d/8 to /23, such as 10.42.0.0/16")]
pub struct SubnetPlanError(String);

impl FromStr for SubnetPlan {
    type Err = SubnetPlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SubnetPlanError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address = Ipv4Addr::from_str(address).map_err(|_| error())?;
        let prefix = u8::from_str(prefix).map_err(|_| error())?;
        let base = u32::from(address);
        let whole = (8..NODE_PREFIX).contains(&prefix) && base & (u32::MAX >> prefix) == 0;
        if whole { Ok(Self { base, prefix }) } else { Err(error()) }
    }
}

impl SubnetPlan {
    /// The first block that is not taken. The first of all is left out: its router would be the cluster's own address.
    fn free(self, taken: &BTreeSet<String>) -> Option<String> {
        let blocks = 1_u32 << (NODE_PREFIX - self.prefix);
        (1..blocks).map(|block| self.block(block)).find(|block| !taken.contains(block))
    }

    fn block(self, number: u32) -> String {
        format!("{}/{NODE_PREFIX}", Ipv4Addr::from(self.base | (number << (32 - NODE_PREFIX))))
    }
}

/// What became of a node that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It takes part, and the record says so.
    Admitted,
    /// It may not, for this reason.
    Refused(String),
}

impl Cluster {
    /// Records that a riklet has connected, or what it says of its machine.
    pub(crate) async fn admit_node(
        &self,
        name: &str,
        uid: &str,
        facts: &NodeFacts,
    ) -> Result<Admission, ClusterError> {
        if let Err(allowed) = names::name(name) {
            return Ok(Admission::Refused(format!(
                "{name:?} cannot be the name of a node: {allowed}; give --node-name"
            )));
        }
        for _ in 0..MAX_TRIES {
            let old = self.mirror().read().nodes.get(name).cloned();
            let node = match &old {
                Some(old) if old.object.uid != uid && old.object.status == NodeStatus::Ready => {
                    return Ok(Admission::Refused(format!(
                        "another machine takes part as {name:?}; stop it, or give this one another --node-name"
                    )));
                }
                Some(old) => self.seen_again(&old.object, uid, facts),
                None => {
                    let Some(node) = self.new_node(name, uid, facts) else {
                        return Ok(Admission::Refused(
                            "the cluster has no addresses left for another node".to_owned(),
                        ));
                    };
                    node
                }
            };
            let element = key::node(name);
            let value = to_json("a node", &node)?;
            let txn = match &old {
                Some(old) if old.object == node => {
                    return self.restore_instances(name).await.map(|()| Admission::Admitted);
                }
                Some(old) => self.txn().replace(element, old.revision, value),
                None => self.txn().create(element, value),
            };
            if self.commit(txn).await?.is_some() {
                tracing::info!(node.name = name, node.subnet = node.pod_subnet, "node is ready");
                self.restore_instances(name).await?;
                return Ok(Admission::Admitted);
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    fn seen_again(&self, old: &Node, uid: &str, facts: &NodeFacts) -> Node {
        let status_since = if old.status == NodeStatus::Ready { old.status_since } else { self.now() };
        Node {
            uid: uid.to_owned(),
            status: NodeStatus::Ready,
            status_since,
            // Another machine by the same name has none of them.
            volumes: if old.uid == uid { old.volumes.clone() } else { BTreeSet::new() },
            facts: facts.clone(),
            ..old.clone()
        }
    }

    fn new_node(&self, name: &str, uid: &str, facts: &NodeFacts) -> Option<Node> {
        let taken = self.mirror().read().nodes.values().map(|node| node.object.pod_subnet.clone()).collect();
        let now = self.now();
        Some(Node {
            name: name.to_owned(),
            uid: uid.to_owned(),
            status: NodeStatus::Ready,
            status_since: now,
            created_at: now,
            pod_subnet: self.0.subnets.free(&taken)?,
            volumes: BTreeSet::new(),
            facts: facts.clone(),
        })
    }

    /// Notes that a node is alive. Nothing of this is stored.
    pub(crate) fn node_heard(&self, name: &str, metrics: Option<NodeMetrics>) {
        let at = self.now();
        let mut live = self.live();
        match live.heard.get_mut(name) {
            Some(heard) => {
                heard.at = at;
                heard.metrics = metrics.or_else(|| heard.metrics.take());
            }
            None => {
                live.heard.insert(name.to_owned(), Heard { at, metrics });
            }
        }
    }

    /// Records that a node is not heard from, and says so in its instances.
    pub(crate) async fn node_lost(&self, name: &str, uid: &str) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let Some(old) = self.mirror().read().nodes.get(name).cloned() else { return Ok(()) };
            if old.object.uid != uid {
                return Ok(());
            }
            if old.object.status == NodeStatus::Unreachable {
                break;
            }
            let node =
                Node { status: NodeStatus::Unreachable, status_since: self.now(), ..old.object.clone() };
            let txn = self.txn().replace(key::node(name), old.revision, to_json("a node", &node)?);
            if self.commit(txn).await?.is_some() {
                tracing::warn!(node.name = name, "node is not heard from any more");
                break;
            }
        }
        let message = format!("node {name} is not heard from; it may still be running there");
        self.rewrite_instances(name, |instance| {
            let lost = instance.holds_resources() && instance.reason != Some(Reason::NodeLost);
            lost.then(|| Instance {
                reason: Some(Reason::NodeLost),
                message: Some(message.clone()),
                ..instance.clone()
            })
        })
        .await
    }

    /// Takes back what [`Cluster::node_lost`] said; the node reports the rest itself.
    async fn restore_instances(&self, name: &str) -> Result<(), ClusterError> {
        self.rewrite_instances(name, |instance| {
            let lost = instance.reason == Some(Reason::NodeLost) && instance.status != Status::Failed;
            lost.then(|| Instance {
                reason: instance.is_deleting().then_some(Reason::Deleted),
                message: None,
                ..instance.clone()
            })
        })
        .await
    }

    /// Writes what `change` makes of each instance on a node, until nothing is left to change.
    async fn rewrite_instances(
        &self,
        node: &str,
        change: impl Fn(&Instance) -> Option<Instance>,
    ) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let changed: Vec<(Arc<Versioned<Instance>>, Instance)> = {
                let state = self.mirror().read();
                let all = state.instances_on(node);
                all.filter_map(|old| change(&old.object).map(|new| (old.clone(), new))).collect()
            };
            if changed.is_empty() {
                return Ok(());
            }
            let mut commits = Vec::with_capacity(changed.len());
            for (old, new) in &changed {
                let element = key::instance(new.kind, &new.id);
                commits.push(self.commit(self.txn().replace(
                    element,
                    old.revision,
                    to_json("an instance", new)?,
                )));
            }
            for committed in futures::future::join_all(commits).await {
                committed?;
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Removes a node that does not take part any more. What ran there is recorded as failed.
    ///
    /// # Errors
    /// There is none, it is still heard from, or the store failed.
    pub async fn delete_node(&self, name: &str) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let found = self.mirror().read().nodes.get(name).cloned();
            let old = found.ok_or_else(|| ClusterError::NodeNotFound { name: name.to_owned() })?;
            if old.object.status == NodeStatus::Ready {
                let detail = "it is heard from; stop its riklet first".to_owned();
                return Err(ClusterError::NodeInUse { node: name.to_owned(), detail });
            }
            if self.commit(self.txn().remove(key::node(name), old.revision)).await?.is_some() {
                self.live().heard.remove(name);
                tracing::info!(node.name = name, "node removed");
                return self.abandon_instances(name).await;
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    async fn abandon_instances(&self, name: &str) -> Result<(), ClusterError> {
        let deleting: Vec<String> = {
            let state = self.mirror().read();
            let deleting = state.instances_on(name).filter(|instance| instance.object.is_deleting());
            deleting.map(|instance| instance.object.id.clone()).collect()
        };
        for id in deleting {
            match self.delete_instance(&id, super::Deletion::Force, None).await {
                Ok(()) | Err(ClusterError::InstanceNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let now = self.now();
        self.rewrite_instances(name, |instance| {
            instance.holds_resources().then(|| Instance {
                status: Status::Failed,
                reason: Some(Reason::NodeLost),
                message: Some(format!("node {name} was removed from the cluster")),
                finished_at: Some(now),
                ..instance.clone()
            })
        })
        .await
    }

    /// Records that a node does not have a local volume any more, unless an instance there needs it by now. Whether
    /// that was news.
    ///
    /// # Errors
    /// The store failed.
    pub async fn forget_volume(&self, name: &str, volume: &str) -> Result<bool, ClusterError> {
        for _ in 0..MAX_TRIES {
            let (old, needed) = {
                let state = self.mirror().read();
                let uses = |instance: &Arc<Versioned<Instance>>| {
                    instance.object.holds_resources()
                        && instance.object.spec.local_volumes().any(|own| own == volume)
                };
                (state.nodes.get(name).cloned(), state.instances_on(name).any(uses))
            };
            let known = old.filter(|old| !needed && old.object.volumes.contains(volume));
            let Some(old) = known else { return Ok(false) };
            let mut node = old.object.clone();
            node.volumes.remove(volume);
            let txn = self.txn().replace(key::node(name), old.revision, to_json("a node", &node)?);
            if self.commit(txn).await?.is_some() {
                tracing::info!(node.name = name, volume, "a local volume is removed");
                return Ok(true);
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Every node, ordered by name.
    #[must_use]
    pub fn nodes(&self) -> Page<NodeView> {
        let state = self.mirror().read();
        let names: Vec<String> = state.nodes.keys().cloned().collect();
        let revision = state.revision;
        drop(state);
        Page { items: names.iter().filter_map(|name| self.node(name)).collect(), revision, next: None }
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeView> {
        let state = self.mirror().read();
        let node = state.nodes.get(name)?.object.clone();
        let bound = state.instances_on(name).filter(|instance| instance.object.holds_resources()).count();
        drop(state);
        let live = self.live();
        let heard = live.heard.get(name);
        Some(NodeView {
            node,
            last_heard: heard.map(|heard| heard.at),
            metrics: heard.and_then(|heard| heard.metrics.clone()),
            instances: u32::try_from(bound).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_block_of_its_own() {
        let plan = SubnetPlan::default();
        let mut taken = BTreeSet::new();
        for _ in 0..255 {
            let block = plan.free(&taken).unwrap();
            assert!(taken.insert(block));
        }
        assert_eq!(plan.free(&taken), None);
        assert!(taken.contains("10.42.1.0/24") && taken.contains("10.42.255.0/24"));
    }

    #[test]
    fn ranges_that_hold_no_node_are_refused() {
        for text in ["", "10.42.0.0", "10.42.0.1/16", "10.42.0.0/24", "10.42.0.0/33", "x/16", "::/16"] {
            assert!(text.parse::<SubnetPlan>().is_err(), "{text:?}");
        }
        assert_eq!("10.42.0.0/16".parse(), Ok(SubnetPlan::default()));
    }
}
