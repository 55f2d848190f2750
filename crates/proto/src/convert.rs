//! Between the model's words and the wire.

use std::{str::FromStr, sync::Arc};

use model::{
    Kind, Revision, Status,
    given::{Given, ObjectKind},
    lifecycle::{Desired, Report, Said},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Epoch,
    link::{Binding, Decisions, FromController, Placed, ToController, Unplaced},
    node::{Ack, Assigned, Assignment, FromNode, Hello, Numbered, ToNode},
    relay::{Frame, RelayFailure},
    wire,
};

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The oneof is empty, or from a newer version.
    #[error("read a message of an unknown type in {0}")]
    UnknownMessage(&'static str),
    /// A value that is not one of those that exist.
    #[error("read {field}: {found:?} is unknown")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// What it held.
        found: String,
    },
    /// A noun in JSON that is none.
    #[error("read {field}")]
    Json {
        /// The field.
        field: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the model's nouns have string keys and finite numbers")
}

fn from_json<T: DeserializeOwned>(field: &'static str, text: &str) -> Result<T, DecodeError> {
    serde_json::from_str(text).map_err(|source| DecodeError::Json { field, source })
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn kind(text: &str) -> Result<Kind, DecodeError> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| DecodeError::UnknownValue { field: "kind", found: text.to_owned() })
}

const fn status_to_wire(status: Status) -> wire::Status {
    match status {
        Status::Pending => wire::Status::Pending,
        Status::Running => wire::Status::Running,
        Status::Failed => wire::Status::Failed,
        Status::Terminated => wire::Status::Terminated,
        Status::Creating => wire::Status::Creating,
        Status::Destroying => wire::Status::Destroying,
    }
}

fn status(number: i32) -> Result<Status, DecodeError> {
    match wire::Status::try_from(number) {
        Ok(wire::Status::Pending) => Ok(Status::Pending),
        Ok(wire::Status::Running) => Ok(Status::Running),
        Ok(wire::Status::Failed) => Ok(Status::Failed),
        Ok(wire::Status::Terminated) => Ok(Status::Terminated),
        Ok(wire::Status::Creating) => Ok(Status::Creating),
        Ok(wire::Status::Destroying) => Ok(Status::Destroying),
        Ok(wire::Status::Unspecified) | Err(_) => {
            Err(DecodeError::UnknownValue { field: "status", found: number.to_string() })
        }
    }
}

fn each<A, B>(
    items: impl IntoIterator<Item = A>,
    convert: impl Fn(A) -> Result<B, DecodeError>,
) -> Result<Vec<B>, DecodeError> {
    items.into_iter().map(convert).collect()
}

fn into<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}

impl From<FromNode> for wire::FromNode {
    fn from(message: FromNode) -> Self {
        use wire::from_node::Message;
        Self {
            message: Some(match message {
                FromNode::Hello(hello) => Message::Hello(wire::NodeHello {
                    protocol: hello.protocol,
                    name: hello.name,
                    uid: hello.uid,
                    facts_json: to_json(&hello.facts),
                    cluster: hello.cluster.unwrap_or_default(),
                }),
                FromNode::Heartbeat(metrics) => Message::Heartbeat(wire::Heartbeat {
                    metrics_json: metrics.map(|metrics| to_json(&metrics)).unwrap_or_default(),
                }),
                FromNode::Reports(reports) => Message::Reports(wire::NodeReports { reports: into(reports) }),
            }),
        }
    }
}

impl TryFrom<wire::FromNode> for FromNode {
    type Error = DecodeError;

    fn try_from(message: wire::FromNode) -> Result<Self, DecodeError> {
        use wire::from_node::Message;
        Ok(match message.message.ok_or(DecodeError::UnknownMessage("FromNode"))? {
            Message::Hello(hello) => Self::Hello(Hello {
                protocol: hello.protocol,
                name: hello.name,
                uid: hello.uid,
                facts: from_json("hello.facts", &hello.facts_json)?,
                cluster: some(hello.cluster),
            }),
            Message::Heartbeat(beat) => Self::Heartbeat(
                some(beat.metrics_json).map(|text| from_json("heartbeat.metrics", &text)).transpose()?,
            ),
            Message::Reports(reports) => Self::Reports(each(reports.reports, Numbered::try_from)?),
        })
    }
}

impl From<Numbered> for wire::Report {
    fn from(numbered: Numbered) -> Self {
        use wire::report::Said as Wire;
        let Report { id, uid, said } = numbered.report;
        let said = match said {
            Said::Status(status, facts) => Wire::Status(wire::StatusReport {
                status: status_to_wire(status).into(),
                facts_json: to_json(&facts),
            }),
            Said::Removing(facts) => Wire::RemovingJson(to_json(&facts)),
            Said::Gone => Wire::Gone(true),
        };
        Self { sequence: numbered.sequence, id, uid, said: Some(said) }
    }
}

impl TryFrom<wire::Report> for Numbered {
    type Error = DecodeError;

    fn try_from(report: wire::Report) -> Result<Self, DecodeError> {
        use wire::report::Said as Wire;
        let said = match report.said.ok_or(DecodeError::UnknownMessage("Report"))? {
            Wire::Status(said) => {
                Said::Status(status(said.status)?, Box::new(from_json("report.facts", &said.facts_json)?))
            }
            Wire::RemovingJson(facts) => Said::Removing(from_json("report.removing", &facts)?),
            Wire::Gone(_) => Said::Gone,
        };
        Ok(Self { sequence: report.sequence, report: Report { id: report.id, uid: report.uid, said } })
    }
}

impl From<ToNode> for wire::ToNode {
    fn from(message: ToNode) -> Self {
        use wire::to_node::Message;
        Self {
            message: Some(match message {
                ToNode::Welcome { cluster, pod_subnet } => {
                    Message::Welcome(wire::Welcome { cluster, pod_subnet })
                }
                ToNode::Refused(message) => Message::Refused(wire::Refused { message }),
                ToNode::Assigned(assigned) => Message::Assigned(wire::Assigned {
                    epoch: assigned.epoch.0,
                    revision: assigned.revision.0,
                    full: assigned.full,
                    more: assigned.more,
                    assignments: into(assigned.assignments),
                    withdrawn: assigned.withdrawn,
                }),
                ToNode::Acks(acks) => Message::Acks(wire::Acks { acks: into(acks) }),
                ToNode::ReportAll => Message::ReportAll(true),
                ToNode::Open { stream, request } => {
                    Message::Open(wire::OpenStream { stream, request_json: to_json(&request) })
                }
            }),
        }
    }
}

impl TryFrom<wire::ToNode> for ToNode {
    type Error = DecodeError;

    fn try_from(message: wire::ToNode) -> Result<Self, DecodeError> {
        use wire::to_node::Message;
        Ok(match message.message.ok_or(DecodeError::UnknownMessage("ToNode"))? {
            Message::Welcome(welcome) => {
                Self::Welcome { cluster: welcome.cluster, pod_subnet: welcome.pod_subnet }
            }
            Message::Refused(refused) => Self::Refused(refused.message),
            Message::Assigned(assigned) => Self::Assigned(Assigned {
                epoch: Epoch(assigned.epoch),
                revision: Revision(assigned.revision),
                full: assigned.full,
                more: assigned.more,
                assignments: each(assigned.assignments, Assignment::try_from)?,
                withdrawn: assigned.withdrawn,
            }),
            Message::Acks(acks) => Self::Acks(into(acks.acks)),
            Message::ReportAll(_) => Self::ReportAll,
            Message::Open(open) => {
                Self::Open { stream: open.stream, request: from_json("open.request", &open.request_json)? }
            }
        })
    }
}

fn given_to_wire(given: &Given) -> wire::Given {
    let objects = given.objects.iter().map(|((kind, name), contents)| wire::GivenObject {
        secret: *kind == ObjectKind::Secret,
        name: name.clone(),
        contents: contents.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    });
    wire::Given { objects: objects.collect(), problem: given.problem.clone().unwrap_or_default() }
}

fn given_from_wire(wire: wire::Given) -> Given {
    let objects = wire.objects.into_iter().map(|object| {
        let kind = if object.secret { ObjectKind::Secret } else { ObjectKind::Config };
        ((kind, object.name), object.contents.into_iter().collect())
    });
    Given { objects: objects.collect(), problem: some(wire.problem) }
}

impl From<Assignment> for wire::Assignment {
    fn from(assignment: Assignment) -> Self {
        Self {
            id: assignment.id,
            uid: assignment.uid,
            kind: assignment.kind.to_string(),
            spec_json: to_json(&assignment.spec),
            destroy: assignment.desired == Desired::Destroy,
            recorded: status_to_wire(assignment.recorded).into(),
            given: assignment.given.as_deref().map(given_to_wire),
        }
    }
}

impl TryFrom<wire::Assignment> for Assignment {
    type Error = DecodeError;

    fn try_from(wire: wire::Assignment) -> Result<Self, DecodeError> {
        Ok(Self {
            id: wire.id,
            uid: wire.uid,
            kind: kind(&wire.kind)?,
            spec: from_json("assignment.spec", &wire.spec_json)?,
            desired: if wire.destroy { Desired::Destroy } else { Desired::Run },
            recorded: status(wire.recorded)?,
            given: wire.given.map(|given| Arc::new(given_from_wire(given))),
        })
    }
}

impl From<Ack> for wire::Ack {
    fn from(ack: Ack) -> Self {
        Self { uid: ack.uid, sequence: ack.sequence }
    }
}

impl From<wire::Ack> for Ack {
    fn from(ack: wire::Ack) -> Self {
        Self { uid: ack.uid, sequence: ack.sequence }
    }
}

impl From<FromController> for wire::FromController {
    fn from(message: FromController) -> Self {
        use wire::from_controller::Message;
        Self {
            message: Some(match message {
                FromController::Hello { protocol, cluster, epoch } => {
                    Message::Hello(wire::ControllerHello { protocol, cluster, epoch: epoch.0 })
                }
                FromController::Snapshot { revision, more, nodes, instances } => {
                    Message::Snapshot(wire::Snapshot {
                        revision: revision.0,
                        more,
                        nodes_json: nodes.iter().map(to_json).collect(),
                        instances: into(instances),
                    })
                }
                FromController::Changes { revision, nodes, gone_nodes, instances, gone_instances } => {
                    Message::Changes(wire::Changes {
                        revision: revision.0,
                        nodes_json: nodes.iter().map(to_json).collect(),
                        gone_nodes,
                        instances: into(instances),
                        gone_instances,
                    })
                }
                FromController::PlanResult { plan, refused } => {
                    Message::Result(wire::PlanResult { plan, refused })
                }
                FromController::Acks { node, acks } => {
                    Message::Acks(wire::NodeAcks { node, acks: into(acks) })
                }
                FromController::NodeRefused { name, uid, message } => {
                    Message::Refused(wire::NodeRefused { name, uid, message })
                }
            }),
        }
    }
}

impl TryFrom<wire::FromController> for FromController {
    type Error = DecodeError;

    fn try_from(message: wire::FromController) -> Result<Self, DecodeError> {
        use wire::from_controller::Message;
        let nodes = |texts: Vec<String>| each(texts, |text| from_json("node", &text));
        Ok(match message.message.ok_or(DecodeError::UnknownMessage("FromController"))? {
            Message::Hello(hello) => {
                Self::Hello { protocol: hello.protocol, cluster: hello.cluster, epoch: Epoch(hello.epoch) }
            }
            Message::Snapshot(snapshot) => Self::Snapshot {
                revision: Revision(snapshot.revision),
                more: snapshot.more,
                nodes: nodes(snapshot.nodes_json)?,
                instances: each(snapshot.instances, Placed::try_from)?,
            },
            Message::Changes(changes) => Self::Changes {
                revision: Revision(changes.revision),
                nodes: nodes(changes.nodes_json)?,
                gone_nodes: changes.gone_nodes,
                instances: each(changes.instances, Placed::try_from)?,
                gone_instances: changes.gone_instances,
            },
            Message::Result(result) => Self::PlanResult { plan: result.plan, refused: result.refused },
            Message::Acks(acks) => Self::Acks { node: acks.node, acks: into(acks.acks) },
            Message::Refused(refused) => {
                Self::NodeRefused { name: refused.name, uid: refused.uid, message: refused.message }
            }
        })
    }
}

impl From<Placed> for wire::Placed {
    fn from(placed: Placed) -> Self {
        Self {
            id: placed.id,
            uid: placed.uid,
            kind: placed.kind.to_string(),
            spec_json: to_json(&placed.spec),
            status: status_to_wire(placed.status).into(),
            node: placed.node.unwrap_or_default(),
            revision: placed.revision.0,
            unplaced: placed.unplaced.unwrap_or_default(),
            given: placed.given.as_deref().map(given_to_wire),
        }
    }
}

impl TryFrom<wire::Placed> for Placed {
    type Error = DecodeError;

    fn try_from(wire: wire::Placed) -> Result<Self, DecodeError> {
        Ok(Self {
            id: wire.id,
            uid: wire.uid,
            kind: kind(&wire.kind)?,
            spec: from_json("placed.spec", &wire.spec_json)?,
            status: status(wire.status)?,
            node: some(wire.node),
            revision: Revision(wire.revision),
            unplaced: some(wire.unplaced),
            given: wire.given.map(|given| Arc::new(given_from_wire(given))),
        })
    }
}

impl From<ToController> for wire::ToController {
    fn from(message: ToController) -> Self {
        use wire::to_controller::Message;
        Self {
            message: Some(match message {
                ToController::Refused(message) => Message::Refused(wire::Refused { message }),
                ToController::Plan(plan) => Message::Plan(wire::Plan {
                    plan: plan.plan,
                    bindings: into(plan.bindings),
                    unplaced: into(plan.unplaced),
                }),
                ToController::NodeSeen { name, uid, facts } => {
                    Message::Seen(wire::NodeSeen { name, uid, facts_json: to_json(&facts) })
                }
                ToController::NodeHeard { name, metrics } => Message::Heard(wire::NodeHeard {
                    name,
                    metrics_json: metrics.map(|metrics| to_json(&metrics)).unwrap_or_default(),
                }),
                ToController::NodeLost { name, uid } => Message::Lost(wire::NodeLost { name, uid }),
                ToController::Reports { node, reports } => {
                    Message::Reports(wire::ReportsFrom { node, reports: into(reports) })
                }
            }),
        }
    }
}

impl TryFrom<wire::ToController> for ToController {
    type Error = DecodeError;

    fn try_from(message: wire::ToController) -> Result<Self, DecodeError> {
        use wire::to_controller::Message;
        Ok(match message.message.ok_or(DecodeError::UnknownMessage("ToController"))? {
            Message::Refused(refused) => Self::Refused(refused.message),
            Message::Plan(plan) => Self::Plan(Decisions {
                plan: plan.plan,
                bindings: each(plan.bindings, Binding::try_from)?,
                unplaced: each(plan.unplaced, Unplaced::try_from)?,
            }),
            Message::Seen(seen) => Self::NodeSeen {
                name: seen.name,
                uid: seen.uid,
                facts: from_json("seen.facts", &seen.facts_json)?,
            },
            Message::Heard(heard) => Self::NodeHeard {
                name: heard.name,
                metrics: some(heard.metrics_json)
                    .map(|text| from_json("heard.metrics", &text))
                    .transpose()?,
            },
            Message::Lost(lost) => Self::NodeLost { name: lost.name, uid: lost.uid },
            Message::Reports(reports) => {
                Self::Reports { node: reports.node, reports: each(reports.reports, Numbered::try_from)? }
            }
        })
    }
}

impl From<Binding> for wire::Binding {
    fn from(binding: Binding) -> Self {
        Self {
            id: binding.id,
            uid: binding.uid,
            kind: binding.kind.to_string(),
            revision: binding.revision.0,
            node: binding.node,
        }
    }
}

impl TryFrom<wire::Binding> for Binding {
    type Error = DecodeError;

    fn try_from(wire: wire::Binding) -> Result<Self, DecodeError> {
        let kind = kind(&wire.kind)?;
        Ok(Self { id: wire.id, uid: wire.uid, kind, revision: Revision(wire.revision), node: wire.node })
    }
}

impl From<Unplaced> for wire::Unplaced {
    fn from(unplaced: Unplaced) -> Self {
        Self {
            id: unplaced.id,
            uid: unplaced.uid,
            kind: unplaced.kind.to_string(),
            revision: unplaced.revision.0,
            message: unplaced.message,
        }
    }
}

impl TryFrom<wire::Unplaced> for Unplaced {
    type Error = DecodeError;

    fn try_from(wire: wire::Unplaced) -> Result<Self, DecodeError> {
        let kind = kind(&wire.kind)?;
        Ok(Self {
            id: wire.id,
            uid: wire.uid,
            kind,
            revision: Revision(wire.revision),
            message: wire.message,
        })
    }
}

impl From<Frame> for wire::Frame {
    fn from(frame: Frame) -> Self {
        use wire::frame::Frame as Wire;
        Self {
            frame: Some(match frame {
                Frame::Open(stream) => Wire::Open(stream),
                Frame::Request { node, request } => {
                    Wire::Request(wire::RelayRequest { node, request_json: to_json(&request) })
                }
                Frame::Data(data) => Wire::Data(data),
                Frame::End => Wire::End(true),
                Frame::Failed(failure) => {
                    Wire::Error(wire::RelayError { code: failure.code, message: failure.message })
                }
            }),
        }
    }
}

impl TryFrom<wire::Frame> for Frame {
    type Error = DecodeError;

    fn try_from(frame: wire::Frame) -> Result<Self, DecodeError> {
        use wire::frame::Frame as Wire;
        Ok(match frame.frame.ok_or(DecodeError::UnknownMessage("Frame"))? {
            Wire::Open(stream) => Self::Open(stream),
            Wire::Request(request) => Self::Request {
                node: request.node,
                request: from_json("relay.request", &request.request_json)?,
            },
            Wire::Data(data) => Self::Data(data),
            Wire::End(_) => Self::End,
            Wire::Error(error) => Self::Failed(RelayFailure { code: error.code, message: error.message }),
        })
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
