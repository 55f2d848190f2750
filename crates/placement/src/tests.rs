//! Laws of placement as properties, and its decisions as scenarios.

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

#[derive(Debug)]
struct Machine {
    name: String,
    ready: bool,
    labels: BTreeMap<String, String>,
    capacity: Room,
    used: Room,
    ports: Vec<Port>,
    volumes: Vec<&'static str>,
    listening: Vec<Port>,
}

fn machine(name: &str, millis: u64, memory: u64) -> Machine {
    let capacity = Room { cpu: Cpu(millis), memory: Memory(memory), instances: 110 };
    Machine {
        name: name.to_owned(),
        ready: true,
        labels: BTreeMap::new(),
        capacity,
        used: Room::default(),
        ports: Vec::new(),
        volumes: Vec::new(),
        listening: Vec::new(),
    }
}

fn nodes(machines: &[Machine]) -> Vec<Node<'_>> {
    machines.iter().map(node).collect()
}

fn node(machine: &Machine) -> Node<'_> {
    Node {
        name: &machine.name,
        ready: machine.ready,
        kinds: &[Kind::Pod],
        labels: &machine.labels,
        capacity: machine.capacity,
        used: machine.used,
        ports: machine.ports.clone(),
        volumes: machine.volumes.clone(),
        listening: &machine.listening,
    }
}

static ANYWHERE: BTreeMap<String, String> = BTreeMap::new();

fn pod(uid: &str, millis: u64, memory: u64) -> Waiting<'_> {
    Waiting {
        uid,
        kind: Kind::Pod,
        selector: &ANYWHERE,
        cpu: Cpu(millis),
        memory: Memory(memory),
        ports: Vec::new(),
        volumes: Vec::new(),
    }
}

fn port(number: u16) -> Port {
    Port { protocol: model::Protocol::Tcp, port: number, address: None }
}

#[test]
fn thirty_instances_on_three_equal_nodes_are_ten_each() {
    let machines = [machine("n1", 2000, GIB), machine("n2", 2000, GIB), machine("n3", 2000, GIB)];
    let uids: Vec<String> = (0..30).map(|number| format!("u{number}")).collect();
    let waiting: Vec<Waiting<'_>> = uids.iter().map(|uid| pod(uid, 10, 16 << 20)).collect();
    let plan = plan(&nodes(&machines), &waiting);
    for node in ["n1", "n2", "n3"] {
        assert_eq!(plan.bindings.iter().filter(|(_, on)| on == node).count(), 10, "{node}");
    }
}

#[test]
fn every_group_of_nodes_gets_a_sentence() {
    let mut machines = [
        machine("n1", 2000, GIB),
        machine("n2", 2000, GIB / 2),
        machine("n3", 2000, GIB),
        machine("n4", 100, GIB),
    ];
    machines[2].ready = false;
    let waiting = [pod("u", 500, 2 * GIB)];
    let plan = plan(&nodes(&machines), &waiting);
    insta::assert_snapshot!(plan.unplaced[0].1, @"1 node: not heard from; 1 node: needs 500m cpu, at most 100m is free; 2 nodes: needs 2Gi of memory, at most 1Gi is free");
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let plan = plan(&[], &[pod("u", 1, 1)]);
    assert_eq!(plan.unplaced[0].1, "there is no node yet; start a riklet");
}

#[test]
fn a_port_is_published_once_on_a_node() {
    const WHY: &str =
        "2 nodes: TCP port 8080 is taken; 1 node: a program of the machine listens on TCP port 8080";
    let mut machines = vec![machine("n1", 2000, GIB), machine("n2", 2000, GIB)];
    machines[0].ports.push(port(8080));
    machines.push(machine("n3", 2000, GIB));
    machines[2].listening.push(Port { address: Some(std::net::Ipv4Addr::LOCALHOST), ..port(8080) });
    let web = |uid| Waiting { ports: vec![port(8080)], ..pod(uid, 1, 1) };
    let plan = plan(&nodes(&machines), &[web("a"), web("b")]);
    assert_eq!(plan.bindings, [("a".to_owned(), "n2".to_owned())]);
    assert_eq!(plan.unplaced, [("b".to_owned(), WHY.to_owned())]);
}

#[test]
fn instance_goes_where_its_volume_is_and_nowhere_else() {
    let mut machines = [machine("n1", 2000, GIB), machine("n2", 200, GIB), machine("n3", 2000, GIB)];
    machines[1].volumes.push("db");
    let using = |uid, volumes: &[&'static str]| Waiting { volumes: volumes.to_vec(), ..pod(uid, 100, 1) };
    let waiting = [
        using("a", &["db"]),
        using("b", &["new"]),
        using("c", &["new"]),
        using("d", &["db"]),
        using("e", &["db"]),
        using("f", &["db", "new"]),
    ];
    let plan = plan(&nodes(&machines), &waiting);
    let bound: Vec<(&str, &str)> =
        plan.bindings.iter().map(|(uid, node)| (uid.as_str(), node.as_str())).collect();
    assert_eq!(bound, [("a", "n2"), ("b", "n1"), ("c", "n1"), ("d", "n2")]);
    let left: Vec<String> = plan.unplaced.into_iter().map(|(uid, why)| format!("{uid}: {why}")).collect();
    assert_eq!(
        left,
        [
            "e: 2 nodes: volume \"db\" is on node n2; 1 node: needs 100m cpu, at most 0 is free",
            "f: 2 nodes: volume \"db\" is on node n2; 1 node: volume \"new\" is on node n1",
        ]
    );
}

#[test]
fn labels_and_kinds_are_requirements() {
    let mut machines = [machine("n1", 2000, GIB), machine("n2", 2000, GIB)];
    machines[1].labels.insert("disk".to_owned(), "ssd".to_owned());
    let selector = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let waiting = [
        Waiting { selector: &selector, ..pod("a", 1, 1) },
        Waiting { kind: Kind::Function, ..pod("f", 1, 1) },
    ];
    let plan = plan(&nodes(&machines), &waiting);
    assert_eq!(plan.bindings, [("a".to_owned(), "n2".to_owned())]);
    assert_eq!(plan.unplaced, [("f".to_owned(), "2 nodes: cannot run a Function".to_owned())]);
}

prop_compose! {
    fn any_machine()(ready in prop::bool::weighted(0.8), millis in 0_u64..4000, mebi in 0_u64..4096, slots in 0_u32..20,
                     used_millis in 0_u64..2000, used_mebi in 0_u64..2000) -> Machine {
        let mut machine = machine("", millis, mebi << 20);
        machine.ready = ready;
        machine.capacity.instances = slots;
        machine.used = Room { cpu: Cpu(used_millis), memory: Memory(used_mebi << 20), instances: slots / 3 };
        machine
    }
}

/// Millicores, mebibytes and a port that an instance asks for.
type Asked = (u64, u64, Option<u16>);

fn any_cluster() -> impl Strategy<Value = (Vec<Machine>, Vec<Asked>)> {
    let waiting = (0_u64..1500, 0_u64..1500, prop::option::of(1_u16..6));
    (prop::collection::vec(any_machine(), 0..12), prop::collection::vec(waiting, 0..60)).prop_map(
        |(mut machines, waiting)| {
            for (index, machine) in machines.iter_mut().enumerate() {
                machine.name = format!("n{index}");
            }
            (machines, waiting)
        },
    )
}

fn ask<'a>(uids: &'a [String], asked: &[Asked]) -> Vec<Waiting<'a>> {
    let each = uids.iter().zip(asked);
    each.map(|(uid, (millis, mebi, number))| Waiting {
        ports: number.iter().map(|number| port(*number)).collect(),
        ..pod(uid, *millis, mebi << 20)
    })
    .collect()
}

proptest! {
    #[test]
    fn plan_never_overcommits_a_node((machines, asked) in any_cluster()) {
        let uids: Vec<String> = (0..asked.len()).map(|number| format!("u{number}")).collect();
        let waiting = ask(&uids, &asked);
        let plan = plan(&nodes(&machines), &waiting);
        for machine in &machines {
            let mine = plan.bindings.iter().filter(|(_, node)| *node == machine.name);
            let mine: Vec<&Waiting<'_>> = mine.map(|(uid, _)| waiting.iter().find(|one| one.uid == uid).unwrap()).collect();
            if mine.is_empty() {
                continue;
            }
            prop_assert!(machine.ready);
            let free = machine.capacity.without(machine.used);
            let asked = mine.iter().fold(Room::default(), |sum, one| {
                sum.plus(Room { cpu: one.cpu, memory: one.memory, instances: 1 })
            });
            prop_assert!(asked.cpu <= free.cpu && asked.memory <= free.memory && asked.instances <= free.instances);
            let mut ports: Vec<u16> = mine.iter().flat_map(|one| one.ports.iter().map(|port| port.port)).collect();
            ports.sort_unstable();
            prop_assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn plan_is_deterministic_and_answers_for_everybody((machines, asked) in any_cluster()) {
        let uids: Vec<String> = (0..asked.len()).map(|number| format!("u{number}")).collect();
        let waiting = ask(&uids, &asked);
        let first = plan(&nodes(&machines), &waiting);
        prop_assert_eq!(&first, &plan(&nodes(&machines), &waiting));
        prop_assert_eq!(first.bindings.len() + first.unplaced.len(), waiting.len());
        prop_assert!(first.unplaced.iter().all(|(_, why)| !why.is_empty()));
    }

    /// Left out means that no node could take it when everything else of the plan was placed before it; so alone, on
    /// the nodes as the plan leaves them, it is left out again.
    #[test]
    fn what_is_left_out_fits_nowhere((machines, asked) in any_cluster()) {
        let uids: Vec<String> = (0..asked.len()).map(|number| format!("u{number}")).collect();
        let waiting = ask(&uids, &asked);
        let first = plan(&nodes(&machines), &waiting);
        let mut after: Vec<Machine> = machines;
        for (uid, name) in &first.bindings {
            let one = waiting.iter().find(|one| one.uid == uid).unwrap();
            let machine = after.iter_mut().find(|machine| machine.name == *name).unwrap();
            machine.used = machine.used.plus(Room { cpu: one.cpu, memory: one.memory, instances: 1 });
            machine.ports.extend(&one.ports);
        }
        let left: Vec<Waiting<'_>> = waiting.into_iter().filter(|one| first.unplaced.iter().any(|(uid, _)| uid == one.uid)).collect();
        prop_assert!(plan(&nodes(&after), &left).bindings.is_empty());
    }
}
