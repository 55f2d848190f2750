//! Scenarios of the scheduler's state machine: what goes in, what comes out.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use model::{
    Kind, Node, NodeMetrics, NodeStatus, Revision, Status, WorkloadSpec,
    manifest::read::{self, Strictness},
    node::{ListeningPort, NodeFacts},
    quantity::{Cpu, Memory},
};
use proto::{
    Epoch, PROTOCOL,
    link::Placed,
    node::{Assigned, FromNode},
};

use super::*;

const CONTROLLER: Connection = Connection(1);
const NODE: Connection = Connection(2);

fn facts() -> NodeFacts {
    NodeFacts {
        address: None,
        architecture: "x86_64".to_owned(),
        os: String::new(),
        kernel: String::new(),
        version: String::new(),
        cgroups: "v2".to_owned(),
        user_namespaces: "yes".to_owned(),
        microvms: String::new(),
        runtimes: String::new(),
        kinds: vec![Kind::Pod],
        labels: BTreeMap::new(),
        cpu: Cpu(2000),
        memory: Memory(1 << 30),
        max_instances: 10,
    }
}

fn record(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        status: NodeStatus::Ready,
        status_since: Timestamp::UNIX_EPOCH,
        created_at: Timestamp::UNIX_EPOCH,
        pod_subnet: "10.42.1.0/24".to_owned(),
        volumes: std::collections::BTreeSet::new(),
        facts: facts(),
    }
}

fn hello(name: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        facts: facts(),
        cluster: None,
    }
}

fn instance(id: &str, revision: u64, node: Option<&str>, status: Status) -> Placed {
    Placed {
        given: None,
        id: id.to_owned(),
        uid: format!("uid-{id}"),
        kind: Kind::Pod,
        spec: WorkloadSpec::default(),
        status,
        node: node.map(str::to_owned),
        revision: Revision(revision),
        unplaced: None,
    }
}

fn changes(revision: u64, nodes: Vec<Node>, instances: Vec<Placed>) -> FromController {
    FromController::Changes {
        revision: Revision(revision),
        nodes,
        gone_nodes: Vec::new(),
        instances,
        gone_instances: Vec::new(),
    }
}

/// A scheduler and the time.
struct Scene {
    scheduler: Scheduler,
    now: Duration,
}

impl Scene {
    /// A controller is connected, and has sent these.
    fn with(nodes: Vec<Node>, instances: Vec<Placed>) -> (Self, Vec<Output>) {
        let mut scene = Self { scheduler: Scheduler::new(), now: Duration::ZERO };
        let hello = FromController::Hello { protocol: PROTOCOL, cluster: "c".to_owned(), epoch: Epoch(1) };
        scene.controller(hello);
        let snapshot = FromController::Snapshot { revision: Revision(1), more: false, nodes, instances };
        let out = scene.controller(snapshot);
        (scene, out)
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        let mut out = self.scheduler.handle(Time(self.now), input);
        out.extend(self.scheduler.decide());
        out
    }

    fn controller(&mut self, message: FromController) -> Vec<Output> {
        self.input(Input::FromController(CONTROLLER, message))
    }

    /// Lets time pass in ticks; everything that is said meanwhile.
    fn wait(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            self.now += TICK;
            out.extend(self.input(Input::Tick));
        }
        out
    }
}

fn plans(out: &[Output]) -> Vec<(String, String)> {
    let plans = out.iter().filter_map(|output| match output {
        Output::ToController(_, ToController::Plan(plan)) => Some(plan),
        _ => None,
    });
    plans.flat_map(|plan| plan.bindings.iter().map(|one| (one.id.clone(), one.node.clone()))).collect()
}

fn assigned(out: &[Output]) -> Vec<&Assigned> {
    let sets = out.iter().filter_map(|output| match output {
        Output::ToNode(_, ToNode::Assigned(assigned)) => Some(assigned),
        _ => None,
    });
    sets.collect()
}

fn names(assigned: &Assigned) -> Vec<&str> {
    assigned.assignments.iter().map(|one| one.id.as_str()).collect()
}

#[test]
fn a_node_is_welcomed_once_the_controller_has_recorded_it() {
    let (mut scene, _) = Scene::with(vec![], vec![]);
    let out = scene.input(Input::NodeConnected(NODE, hello("n1")));
    assert!(matches!(out[..], [Output::ToController(_, ToController::NodeSeen { .. })]), "{out:?}");
    let out = scene.controller(changes(2, vec![record("n1")], vec![]));
    assert!(matches!(out[0], Output::ToNode(NODE, ToNode::Welcome { .. })), "{out:?}");
    assert!(assigned(&out)[0].full);
}

#[test]
fn a_node_hears_of_a_binding_only_when_it_is_recorded() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let out = scene.controller(changes(2, vec![], vec![instance("web", 2, None, Status::Pending)]));
    assert_eq!(plans(&out), [("web".to_owned(), "n1".to_owned())]);
    assert!(assigned(&out).is_empty(), "{out:?}");
    let out = scene.controller(changes(3, vec![], vec![instance("web", 3, Some("n1"), Status::Pending)]));
    assert_eq!(names(assigned(&out)[0]), ["web"]);
}

#[test]
fn what_a_node_has_reported_is_not_told_to_it_again() {
    let (mut scene, _) =
        Scene::with(vec![record("n1")], vec![instance("web", 1, Some("n1"), Status::Pending)]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let out = scene.controller(changes(2, vec![], vec![instance("web", 2, Some("n1"), Status::Running)]));
    assert!(assigned(&out).is_empty(), "{out:?}");
    let out = scene.controller(changes(3, vec![], vec![instance("web", 3, Some("n1"), Status::Destroying)]));
    assert_eq!(names(assigned(&out)[0]), ["web"]);
}

#[test]
fn a_refused_binding_is_planned_again() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    scene.controller(changes(2, vec![], vec![instance("web", 2, None, Status::Pending)]));
    // While the plan is under way nothing is planned twice.
    assert!(plans(&scene.wait(TICK)).is_empty());
    let out = scene.controller(FromController::PlanResult { plan: 1, refused: vec!["uid-web".to_owned()] });
    assert_eq!(plans(&out), [("web".to_owned(), "n1".to_owned())]);
}

#[test]
fn an_instance_is_placed_as_soon_as_a_node_becomes_fit() {
    let (mut scene, out) = Scene::with(vec![record("n1")], vec![instance("web", 1, None, Status::Pending)]);
    let why = out.iter().find_map(|output| match output {
        Output::ToController(_, ToController::Plan(plan)) => {
            plan.unplaced.first().map(|one| one.message.clone())
        }
        _ => None,
    });
    assert_eq!(why.as_deref(), Some("1 node: not heard from"));
    let out = scene.input(Input::NodeConnected(NODE, hello("n1")));
    assert_eq!(plans(&out), [("web".to_owned(), "n1".to_owned())]);
}

#[test]
fn a_silent_node_is_lost_after_ten_seconds_and_five() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let lost = |out: &[Output]| {
        out.iter().any(|one| matches!(one, Output::ToController(_, ToController::NodeLost { .. })))
    };
    let out = scene.wait(Duration::from_secs(15));
    assert!(!lost(&out), "{out:?}");
    let out = scene.wait(Duration::from_secs(4));
    assert!(out.contains(&Output::CloseNode(NODE)), "{out:?}");
    assert!(lost(&out), "{out:?}");
}

#[test]
fn a_heartbeat_keeps_a_node() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    for _ in 0..10 {
        let out = scene.wait(HEARTBEAT);
        assert!(!out.contains(&Output::CloseNode(NODE)), "{out:?}");
        scene.input(Input::FromNode(NODE, FromNode::Heartbeat(None)));
    }
}

#[test]
fn a_second_machine_of_the_same_name_is_refused_and_the_first_one_stays() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let stranger = Hello { uid: "another".to_owned(), ..hello("n1") };
    let out = scene.input(Input::NodeConnected(Connection(3), stranger));
    assert!(matches!(out[0], Output::ToNode(Connection(3), ToNode::Refused(_))), "{out:?}");
    assert!(!out.contains(&Output::CloseNode(NODE)), "{out:?}");
}

#[test]
fn a_node_of_another_cluster_is_refused_with_what_to_do() {
    let (mut scene, _) = Scene::with(vec![], vec![]);
    let foreign = Hello { cluster: Some("other".to_owned()), ..hello("n1") };
    let out = scene.input(Input::NodeConnected(NODE, foreign));
    assert!(
        matches!(&out[0], Output::ToNode(NODE, ToNode::Refused(why)) if why.contains("riklet reset")),
        "{out:?}"
    );
}

#[test]
fn a_new_snapshot_gives_every_node_its_full_set_again() {
    let (mut scene, _) =
        Scene::with(vec![record("n1")], vec![instance("web", 1, Some("n1"), Status::Running)]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    scene.input(Input::ControllerClosed(CONTROLLER));
    let hello = FromController::Hello { protocol: PROTOCOL, cluster: "c".to_owned(), epoch: Epoch(2) };
    scene.controller(hello);
    let instances = vec![instance("other", 5, Some("n1"), Status::Pending)];
    let nodes = vec![record("n1")];
    let out =
        scene.controller(FromController::Snapshot { revision: Revision(5), more: false, nodes, instances });
    let set = assigned(&out)[0];
    assert_eq!((set.full, set.epoch, names(set)), (true, Epoch(2), vec!["other"]));
}

#[test]
fn a_controller_of_another_cluster_or_of_an_older_reign_is_refused() {
    let (mut scene, _) = Scene::with(vec![], vec![]);
    for (cluster, epoch) in [("other", 9), ("c", 0)] {
        let hello =
            FromController::Hello { protocol: PROTOCOL, cluster: cluster.to_owned(), epoch: Epoch(epoch) };
        let out = scene.input(Input::FromController(Connection(9), hello));
        assert!(matches!(out[0], Output::ToController(Connection(9), ToController::Refused(_))), "{out:?}");
    }
}

#[test]
fn an_explanation_that_was_not_recorded_is_given_again() {
    let (mut scene, _) = Scene::with(vec![], vec![instance("web", 1, None, Status::Pending)]);
    let explained = |out: &[Output]| {
        out.iter().any(|one| matches!(one, Output::ToController(_, ToController::Plan(plan)) if !plan.unplaced.is_empty()))
    };
    assert!(!explained(&scene.wait(TICK)), "it is left out, and that is said already");
    let out = scene.controller(FromController::PlanResult { plan: 1, refused: vec!["uid-web".to_owned()] });
    assert!(explained(&out), "{out:?}");
}

#[test]
fn a_published_port_is_free_again_when_its_instance_has_ended() {
    let manifest = r#"{"kind":"Pod","name":"web","spec":{"containers":[{"name":"c","image":"i","ports":[{"port":8080}]}]}}"#;
    let spec = read::workload(manifest, Strictness::Strict).unwrap().spec;
    let publishing =
        |id, revision, node, status| Placed { spec: spec.clone(), ..instance(id, revision, node, status) };
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let both = vec![publishing("one", 2, None, Status::Pending), publishing("two", 2, None, Status::Pending)];
    let out = scene.controller(changes(2, vec![], both));
    assert_eq!(plans(&out), [("one".to_owned(), "n1".to_owned())]);
    let bound = publishing("one", 3, Some("n1"), Status::Running);
    assert!(plans(&scene.controller(changes(3, vec![], vec![bound]))).is_empty());
    let ended = publishing("one", 4, Some("n1"), Status::Terminated);
    let out = scene.controller(changes(4, vec![], vec![ended]));
    assert_eq!(plans(&out), [("two".to_owned(), "n1".to_owned())]);
}

/// An instance that waits, of this manifest's specification.
fn waiting(id: &str, revision: u64, spec: &str) -> Placed {
    let text = format!("kind: Pod\nname: {id}\nspec: {spec}");
    let spec = read::workload(&text, Strictness::Strict).unwrap().spec;
    Placed { spec, ..instance(id, revision, None, Status::Pending) }
}

#[test]
fn a_controller_that_comes_later_hears_what_nodes_have_measured() {
    let mut scene = Scene { scheduler: Scheduler::new(), now: Duration::ZERO };
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let measured = NodeMetrics { disks: Vec::new(), ..NodeMetrics::default() };
    scene.input(Input::FromNode(NODE, FromNode::Heartbeat(Some(measured.clone()))));
    scene.controller(FromController::Hello { protocol: PROTOCOL, cluster: "c".to_owned(), epoch: Epoch(1) });
    let nodes = vec![record("n1")];
    let out = scene.controller(FromController::Snapshot {
        revision: Revision(1),
        more: false,
        nodes,
        instances: Vec::new(),
    });
    let heard = out.iter().any(|output| match output {
        Output::ToController(_, ToController::NodeHeard { name, metrics }) => {
            name == "n1" && *metrics == Some(measured.clone())
        }
        _ => false,
    });
    assert!(heard, "{out:?}");
}

#[test]
fn a_port_that_a_program_listens_on_is_waited_for() {
    let (mut scene, _) = Scene::with(vec![record("n1")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    let taken = ListeningPort { protocol: model::Protocol::Tcp, port: 80, address: None };
    let says = |listening: Vec<ListeningPort>| {
        let metrics = NodeMetrics { listening, ..NodeMetrics::default() };
        Input::FromNode(NODE, FromNode::Heartbeat(Some(metrics)))
    };
    scene.input(says(vec![taken]));
    let web = waiting("web", 2, "{containers: [{name: a, image: a, ports: [{port: 80}]}]}");
    assert!(plans(&scene.controller(changes(2, vec![], vec![web]))).is_empty());
    assert!(plans(&scene.input(says(vec![taken]))).is_empty());
    assert_eq!(plans(&scene.input(says(Vec::new()))), [("web".to_owned(), "n1".to_owned())]);
}

#[test]
fn instances_of_one_volume_go_to_one_node_before_the_record_says_so() {
    let (mut scene, _) = Scene::with(vec![record("n1"), record("n2")], vec![]);
    scene.input(Input::NodeConnected(NODE, hello("n1")));
    scene.input(Input::NodeConnected(Connection(3), hello("n2")));
    let spec = "{containers: [{name: a, image: a}], volumes: [{name: v, local: {name: db}}]}";
    let first = plans(&scene.controller(changes(2, vec![], vec![waiting("a", 2, spec)])));
    let second = plans(&scene.controller(changes(3, vec![], vec![waiting("b", 3, spec)])));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].1, second[0].1, "the less loaded node is the other one");
}
