//! The laws of the firewall, held against a small model of `iptables-restore`, and what the rules look like.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use model::Protocol;
use proptest::prelude::*;

use super::{rule_text::NormalRule, *};

/// What `iptables-restore --noflush` does to the tables. Fails where the program would refuse the whole input.
fn restore(mut observed: Observed, batch: &str) -> Result<Observed, String> {
    let mut current = None;
    for line in batch.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let table = Table::from_name(name).ok_or(line)?;
            current = Some(table);
            let chains = &mut observed.tables.entry(table).or_default().chains;
            for chain in builtin(table) {
                chains.entry((*chain).to_owned()).or_default();
            }
            continue;
        }
        let table = current.ok_or("no table")?;
        let chains = &mut observed.tables.get_mut(&table).unwrap().chains;
        let mut words = line.splitn(3, ' ');
        let (verb, chain, rest) =
            (words.next().unwrap(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match verb {
            "COMMIT" => {
                for rule in chains.values().flatten() {
                    let target = NormalRule::read(rule).target().unwrap_or("ACCEPT").to_owned();
                    let known = target.chars().all(char::is_uppercase) || chains.contains_key(&target);
                    known.then_some(()).ok_or(format!("{rule}: no chain {target}"))?;
                }
            }
            "-A" => chains.get_mut(chain).ok_or(line)?.push(rest.to_owned()),
            "-I" => {
                chains.get_mut(chain).ok_or(line)?.insert(0, rest.strip_prefix("1 ").ok_or(line)?.to_owned())
            }
            "-D" => {
                let rules = chains.get_mut(chain).ok_or(line)?;
                let same = |rule: &String| NormalRule::read(rule) == NormalRule::read(rest);
                let at = rules.iter().position(same).ok_or(line)?;
                rules.remove(at);
            }
            "-X" => {
                let used =
                    chains.values().flatten().any(|rule| NormalRule::read(rule).target() == Some(chain));
                let empty = chains.remove(chain).is_some_and(|rules| rules.is_empty());
                (empty && !used).then_some(()).ok_or(line)?;
            }
            declaration => {
                chains.insert(declaration.strip_prefix(':').ok_or(line)?.to_owned(), Vec::new());
            }
        }
    }
    Ok(observed)
}

fn builtin(table: Table) -> &'static [&'static str] {
    match table {
        Table::Raw => &["PREROUTING", "OUTPUT"],
        Table::Filter => &["INPUT", "FORWARD", "OUTPUT"],
        Table::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
    }
}

fn apply(observed: Observed, rules: &Rules) -> Observed {
    match plan(&observed, rules) {
        Some(batch) => restore(observed, batch.as_str()).unwrap_or_else(|line| panic!("{line}\n{batch}")),
        None => observed,
    }
}

/// Every rule that is not ours, chain by chain, in order.
fn foreign(observed: &Observed) -> Vec<(Table, String, String)> {
    let mut rules = Vec::new();
    for (table, found) in &observed.tables {
        for (chain, found) in &found.chains {
            if !is_own_chain(*table, chain) {
                let others = found.iter().filter(|rule| !NormalRule::read(rule).is_marked());
                rules.extend(others.map(|rule| (*table, chain.clone(), rule.clone())));
            }
        }
    }
    rules
}

fn publish(owner: u8, host_port: u16, protocol: Protocol, host_address: Option<Ipv4Addr>) -> Publish {
    let target = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, owner.max(2)), 80);
    Publish { host_port, protocol, host_address, owner: format!("pod-{owner}").parse().unwrap(), target }
}

fn state(published: impl IntoIterator<Item = Publish>) -> FirewallState {
    FirewallState {
        bridge: "rik0".into(),
        subnet: "10.42.0.0/24".parse().unwrap(),
        uplink: None,
        forwarding: Forwarding::BeforeUs,
        forbidden: BTreeSet::new(),
        published: published.into_iter().collect(),
    }
}

fn batch_text(state: &FirewallState) -> String {
    plan(&Observed::default(), &render(state)).unwrap().to_string()
}

#[test]
fn the_rules_of_a_node_without_pods_are_these() {
    insta::assert_snapshot!(batch_text(&state([])));
}

#[test]
fn the_rules_of_a_node_with_everything_are_these() {
    let mut state = state([
        publish(2, 8080, Protocol::Tcp, None),
        publish(3, 53, Protocol::Udp, Some(Ipv4Addr::new(192, 0, 2, 9))),
        publish(3, 9000, Protocol::Tcp, Some(Ipv4Addr::LOCALHOST)),
    ]);
    state.uplink = Some("eth0".into());
    state.forwarding = Forwarding::BecauseOfUs;
    state.forbidden = [
        Destination { network: "192.0.2.4/32".parse().unwrap(), tcp_port: Some(5000) },
        Destination { network: "198.51.100.0/24".parse().unwrap(), tcp_port: None },
    ]
    .into();
    insta::assert_snapshot!(batch_text(&state));
}

#[test]
fn one_more_port_replaces_one_chain_and_nothing_else() {
    let before = Observed::of(&render(&state([publish(2, 8080, Protocol::Tcp, None)])));
    let after =
        render(&state([publish(2, 8080, Protocol::Tcp, None), publish(3, 8081, Protocol::Tcp, None)]));
    insta::assert_snapshot!(plan(&before, &after).unwrap());
}

#[test]
fn chains_with_similar_names_are_not_ours() {
    let text = "*filter\n:FORWARD DROP [0:0]\n:RIKLET-USER - [0:0]\n:rik-x - [0:0]\n:RIKLET - [0:0]\n\
                -A FORWARD -j RIKLET-USER\n-A FORWARD -j rik-x\n-A RIKLET-USER -s 10.0.0.0/8 -j DROP\n\
                -A RIKLET -j ACCEPT\nCOMMIT\n";
    let before = Observed::parse(text).unwrap();
    let during = apply(before.clone(), &render(&state([])));
    assert_eq!(foreign(&before), foreign(&during));
    let after = apply(during, &Rules::none());
    assert_eq!(foreign(&before), foreign(&after));
    assert!(after.tables[&Table::Filter].chains.contains_key("RIKLET"));
}

#[test]
fn a_chain_that_a_stranger_jumps_to_is_emptied_but_not_removed() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:RIKLET - [0:0]\n-A PREROUTING -i eth1 -j RIKLET\nCOMMIT\n";
    let before = Observed::parse(text).unwrap();
    let after = apply(apply(before.clone(), &render(&state([]))), &Rules::none());
    assert_eq!(after.tables[&Table::Nat].chains["RIKLET"], Vec::<String>::new());
    assert_eq!(foreign(&before), foreign(&after));
    assert_eq!(plan(&after, &Rules::none()), None);
}

fn any_publish() -> impl Strategy<Value = Publish> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let address = prop::option::of(any::<[u8; 4]>().prop_map(Ipv4Addr::from));
    (2_u8..9, 1_u16.., protocol, address)
        .prop_map(|(who, port, protocol, at)| publish(who, port, protocol, at))
}

fn any_state() -> impl Strategy<Value = FirewallState> {
    let uplink = prop::option::of(Just("eth0".to_owned()));
    let port = prop::option::of(1_u16..);
    let forbidden = prop::collection::btree_set((any::<u32>(), 8_u8..=32, port), 0..3);
    (prop::collection::btree_set(any_publish(), 0..8), uplink, any::<bool>(), forbidden).prop_map(
        |(published, uplink, ours, forbidden)| FirewallState {
            uplink,
            forwarding: if ours { Forwarding::BecauseOfUs } else { Forwarding::BeforeUs },
            forbidden: forbidden
                .into_iter()
                .map(|(bits, prefix, tcp_port)| Destination {
                    network: Subnet::containing(Ipv4Addr::from_bits(bits), prefix),
                    tcp_port,
                })
                .collect(),
            ..state(published)
        },
    )
}

/// What another program, or a person, does to the tables.
#[derive(Clone, Debug)]
enum Meddling {
    InsertFirst(u8),
    Append(u8),
    FlushChain(u8),
    DropRule(u8, u8),
    RepeatRule(u8, u8),
    FlushTable(u8),
}

fn meddling() -> impl Strategy<Value = Vec<Meddling>> {
    let one = prop_oneof![
        any::<u8>().prop_map(Meddling::InsertFirst),
        any::<u8>().prop_map(Meddling::Append),
        any::<u8>().prop_map(Meddling::FlushChain),
        any::<(u8, u8)>().prop_map(|(chain, rule)| Meddling::DropRule(chain, rule)),
        any::<(u8, u8)>().prop_map(|(chain, rule)| Meddling::RepeatRule(chain, rule)),
        any::<u8>().prop_map(Meddling::FlushTable),
    ];
    prop::collection::vec(one, 0..12)
}

fn meddle(mut observed: Observed, deeds: &[Meddling]) -> Observed {
    for (number, deed) in deeds.iter().enumerate() {
        let chains: Vec<_> = observed
            .tables
            .iter()
            .flat_map(|(table, found)| found.chains.keys().map(|chain| (*table, chain.clone())))
            .collect();
        if chains.is_empty() {
            continue;
        }
        let chain_at = |at: u8| chains[usize::from(at) % chains.len()].clone();
        let other = format!("-s 10.9.{number}.0/24 -m comment --comment \"not rik:{number}\" -j ACCEPT");
        match *deed {
            Meddling::InsertFirst(at) => {
                with_rules(&mut observed, chain_at(at), |rules| rules.insert(0, other))
            }
            Meddling::Append(at) => with_rules(&mut observed, chain_at(at), |rules| rules.push(other)),
            Meddling::FlushChain(at) => with_rules(&mut observed, chain_at(at), Vec::clear),
            Meddling::DropRule(at, which) => with_rules(&mut observed, chain_at(at), |rules| {
                if !rules.is_empty() {
                    rules.remove(usize::from(which) % rules.len());
                }
            }),
            Meddling::RepeatRule(at, which) => with_rules(&mut observed, chain_at(at), |rules| {
                if !rules.is_empty() {
                    rules.push(rules[usize::from(which) % rules.len()].clone());
                }
            }),
            Meddling::FlushTable(at) => {
                let table = observed.tables.get_mut(&chain_at(at).0).unwrap();
                table.chains.values_mut().for_each(Vec::clear);
            }
        }
    }
    observed
}

fn with_rules(
    observed: &mut Observed,
    (table, chain): (Table, String),
    change: impl FnOnce(&mut Vec<String>),
) {
    change(observed.tables.get_mut(&table).unwrap().chains.get_mut(&chain).unwrap());
}

/// Tables as they may be found: what an earlier state left, and what others did before and after it.
fn any_observed() -> impl Strategy<Value = Observed> {
    (meddling(), prop::option::of(any_state()), meddling()).prop_map(|(before, left, after)| {
        let empty = restore(Observed::default(), "*raw\nCOMMIT\n*filter\nCOMMIT\n*nat\nCOMMIT").unwrap();
        let observed = meddle(empty, &before);
        let observed = match left {
            Some(left) => apply(observed, &render(&left)),
            None => observed,
        };
        meddle(observed, &after)
    })
}

proptest! {
    #[test]
    fn planning_again_after_a_plan_was_applied_gives_nothing(observed in any_observed(), state in any_state()) {
        let rules = render(&state);
        let after = apply(observed, &rules);
        prop_assert_eq!(plan(&after, &rules), None);
    }

    #[test]
    fn rules_of_others_stay_byte_identical_and_in_order(observed in any_observed(), state in any_state()) {
        let before = foreign(&observed);
        let during = apply(observed, &render(&state));
        prop_assert_eq!(&before, &foreign(&during));
        prop_assert_eq!(before, foreign(&apply(during, &Rules::none())));
    }

    #[test]
    fn nothing_of_ours_is_left_when_no_rule_is_wanted(observed in any_observed(), state in any_state()) {
        let after = apply(apply(observed, &render(&state)), &Rules::none());
        prop_assert_eq!(plan(&after, &Rules::none()), None);
        for (table, found) in &after.tables {
            for (chain, rules) in &found.chains {
                prop_assert!(!is_own_chain(*table, chain));
                prop_assert!(!rules.iter().any(|rule| NormalRule::read(rule).is_marked()));
            }
        }
    }

    #[test]
    fn an_owner_that_is_gone_leaves_no_trace(observed in any_observed(), state in any_state(), who in 2_u8..9) {
        let during = apply(observed, &render(&state));
        let owner: Owner = format!("pod-{who}").parse().unwrap();
        let mut without = state;
        without.published.retain(|publish| publish.owner != owner);
        let after = apply(during, &render(&without));
        let trace = format!("{after:?}").contains(&owner.mark());
        prop_assert!(!trace);
    }

    #[test]
    fn drops_that_protect_the_node_stand_first(observed in any_observed(), state in any_state()) {
        let after = apply(observed, &render(&state));
        for (table, chain) in [(Table::Raw, "PREROUTING"), (Table::Filter, "INPUT"), (Table::Filter, "FORWARD")] {
            let first = &after.tables[&table].chains[chain][0];
            let target = NormalRule::read(first).target().map(str::to_owned).unwrap();
            prop_assert!(is_own_chain(table, &target), "{} begins with {}", chain, first);
        }
    }

    #[test]
    fn reading_what_was_rendered_gives_the_same_rules(state in any_state()) {
        let rules = render(&state);
        let text = plan(&Observed::default(), &rules).unwrap().to_string();
        let restored = restore(Observed::default(), &text).unwrap();
        prop_assert_eq!(plan(&restored, &rules), None);
        prop_assert_eq!(plan(&Observed::of(&rules), &rules), None);
    }
}
