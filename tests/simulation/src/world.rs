//! The processes, what survives them, and what befalls them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use controller::cluster::{Cluster, Deletion, Ids, Parts, SubnetPlan};
use jiff::{SignedDuration, Timestamp};
use model::{
    Clock, Kind,
    api::CreateInstances,
    manifest::read::{Strictness, workload},
    node::NodeFacts,
    quantity::{Cpu, Memory},
};
use proto::wire;
use riklet::{agent, identity::IdentityFile};
use runtime::{
    Runtime,
    fake::{FakeHost, FakeRuntime},
};
use scheduler::serve::engine::{Engine, Handle};
use store::{CommitFailure, MemoryStore};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    history::History,
    laws::{self, Ledger},
    network::{Fate, carry},
};

/// Nodes of the simulated cluster.
const NODES: usize = 3;
/// Things that befall the cluster in one history.
const EVENTS: u32 = 60;
/// How long a cluster that is left in peace may take to settle.
const SETTLE: Duration = Duration::from_secs(90);
/// Messages that a connection holds.
const HELD: usize = 64;

/// What the workloads' images do.
const IMAGES: [&str; 4] = ["runs", "ends-well", "ends-badly", "missing"];

/// A cluster, its history and its fate.
pub struct World {
    history: History,
    random: fastrand::Rng,
    fate: Fate,
    store: MemoryStore,
    hosts: Vec<FakeHost>,
    directories: Vec<TempDir>,
    scheduler: watch::Sender<Option<Handle>>,
    cluster: watch::Sender<Option<Cluster>>,
    controller: Option<JoinSet<()>>,
    engine: Option<JoinSet<()>>,
    riklets: Vec<Option<JoinSet<()>>>,
    epochs: u64,
    ledger: Ledger,
}

/// Runs the history of one seed. Returns its text; an error is the law that was broken, with the history before it.
///
/// # Errors
/// A law was broken.
pub fn run_seed(seed: u64) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut world = World::begin(seed).map_err(|error| error.to_string())?;
        let lived = world.live().await;
        let history = world.history.text();
        match lived {
            Ok(()) => Ok(history),
            Err(broken) => Err(format!("seed {seed}: {broken}\n{history}")),
        }
    })
}

impl World {
    fn begin(seed: u64) -> std::io::Result<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let directories = (0..NODES).map(|_| TempDir::new()).collect::<Result<_, _>>()?;
        let hosts = (0..NODES).map(|_| FakeHost::new(random.u64(..))).collect();
        let history = History::begin();
        history.note(format_args!("seed {seed}"));
        Ok(Self {
            fate: Fate::new(random.u64(..)),
            random,
            history,
            store: MemoryStore::new(),
            hosts,
            directories,
            scheduler: watch::channel(None).0,
            cluster: watch::channel(None).0,
            controller: None,
            engine: None,
            riklets: (0..NODES).map(|_| None).collect(),
            epochs: 0,
            ledger: Ledger::default(),
        })
    }

    async fn live(&mut self) -> Result<(), String> {
        let watching = laws::watch_history(&self.store).await;
        self.start_scheduler();
        self.start_controller();
        for node in 0..NODES {
            self.start_riklet(node);
        }
        for _ in 0..EVENTS {
            let pause = Duration::from_millis(self.random.u64(10..1500));
            tokio::time::sleep(pause).await;
            self.befall().await;
            laws::during(&self.hosts)?;
        }
        self.history.note("left in peace");
        self.fate.calm_down();
        self.bring_everything_back();
        let deadline = Instant::now() + SETTLE;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            laws::during(&self.hosts)?;
            match laws::settled(&self.store, &self.hosts, &self.ledger).await {
                Ok(()) => break,
                Err(why) if Instant::now() >= deadline => return Err(format!("it never settled: {why}")),
                Err(_) => {}
            }
        }
        self.history.note("settled");
        watching.judge()
    }

    /// One thing happens: somebody asks for something, or something goes wrong.
    async fn befall(&mut self) {
        let node = self.random.usize(..NODES);
        match self.random.u32(..100) {
            0..30 => self.ask_for_instances().await,
            30..50 => self.ask_for_deletion().await,
            50..58 => self.ask_for_workload_deletion().await,
            58..66 => self.kill_controller(),
            66..74 => self.kill_scheduler(),
            74..85 => self.kill_riklet(node),
            85..88 => self.reboot(node),
            88..92 => {
                self.history.note("the store fails once, before it has written");
                self.store.fail_next_commit(CommitFailure::BeforeApplying);
            }
            92..96 => {
                self.history.note("the store fails once, after it has written");
                self.store.fail_next_commit(CommitFailure::AfterApplying);
            }
            _ => self.bring_everything_back(),
        }
        // What was killed comes back after a while, so that there are histories with it away.
        if self.random.u32(..3) == 0 {
            self.bring_everything_back();
        }
    }

    fn bring_everything_back(&mut self) {
        if self.engine.is_none() {
            self.start_scheduler();
        }
        if self.controller.is_none() {
            self.start_controller();
        }
        for node in 0..NODES {
            if self.riklets[node].is_none() {
                self.start_riklet(node);
            }
        }
    }

    async fn ask_for_instances(&mut self) {
        let Some(cluster) = self.cluster.borrow().clone() else { return };
        let image = IMAGES[self.random.usize(..IMAGES.len())];
        let name = format!("w{}", self.random.u32(..4));
        let replicas = self.random.u32(1..4);
        let text = format!(
            "kind: Pod\nname: {name}\nspec:\n  containers: [{{name: a, image: {image}}}]\n  resources: {{requests: {{cpu: 100m}}}}\n"
        );
        let Ok(manifest) = workload(&text, Strictness::Strict) else { return };
        if cluster.workload(&name).is_none() {
            let made = cluster.create_workload(manifest, None).await;
            self.history
                .note(format_args!("workload {name} ({image}): {}", outcome(&made.as_ref().map(|_| ()))));
        }
        let request = CreateInstances { workload: name.clone(), name: None, replicas: Some(replicas) };
        let asked = cluster.create_instances(request, None).await;
        match &asked {
            Ok(ids) => {
                self.history.note(format_args!("asked for {ids:?}"));
                for id in ids {
                    match cluster.instance(id) {
                        Some(instance) => self.ledger.created(id, &instance.object.uid),
                        None => self.ledger.fault(format!("{id} was acknowledged and is not visible")),
                    }
                }
            }
            Err(_) => self.history.note(format_args!("asked for {replicas} of {name}: {}", outcome(&asked))),
        }
    }

    async fn ask_for_deletion(&mut self) {
        let Some(cluster) = self.cluster.borrow().clone() else { return };
        let ids = self.ledger.alive();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.usize(..ids.len())].clone();
        let deleted = cluster.delete_instance(&id, Deletion::Graceful, None).await;
        self.history.note(format_args!("deletion of {id}: {}", outcome(&deleted)));
        // Not acknowledged may still have been done.
        if deleted.is_ok() { self.ledger.deleted(&id) } else { self.ledger.doubtful(&id) }
    }

    async fn ask_for_workload_deletion(&mut self) {
        let Some(cluster) = self.cluster.borrow().clone() else { return };
        let name = format!("w{}", self.random.u32(..4));
        let Some(found) = cluster.workload(&name) else { return };
        let ids: Vec<String> = {
            let state = cluster.mirror().read();
            state.instances_of(&found.object.id).map(|one| one.object.id.clone()).collect()
        };
        let deleted = cluster.delete_workload(&name, None).await;
        self.history.note(format_args!("deletion of workload {name}: {}", outcome(&deleted)));
        for id in ids {
            // Not acknowledged may still have been done.
            if deleted.is_ok() { self.ledger.deleted(&id) } else { self.ledger.doubtful(&id) }
        }
    }

    fn kill_controller(&mut self) {
        if self.controller.take().is_some() {
            self.history.note("the controller is killed");
            self.cluster.send_replace(None);
        }
    }

    fn kill_scheduler(&mut self) {
        if self.engine.take().is_some() {
            self.history.note("the scheduler is killed");
            self.scheduler.send_replace(None);
        }
    }

    fn kill_riklet(&mut self, node: usize) {
        if self.riklets[node].take().is_some() {
            self.history.note(format_args!("riklet n{node} is killed"));
        }
    }

    fn reboot(&mut self, node: usize) {
        self.kill_riklet(node);
        self.history.note(format_args!("machine n{node} starts again"));
        self.hosts[node].reboot();
    }

    fn start_scheduler(&mut self) {
        self.history.note("the scheduler starts");
        let (engine, handle) = Engine::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run());
        self.engine = Some(tasks);
        self.scheduler.send_replace(Some(handle));
    }

    fn start_controller(&mut self) {
        self.history.note("the controller starts");
        self.epochs += 1;
        let parts = Parts {
            store: Arc::new(self.store.clone()),
            clock: clock(),
            ids: Ids::seeded(self.random.u64(..)),
            subnets: SubnetPlan::default(),
            sealer: controller::sealing::Sealer::in_memory(),
        };
        let (announce, schedulers) = (self.cluster.clone(), self.scheduler.subscribe());
        let (fate, history) = (self.fate.clone(), self.history.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let opened = loop {
                match Cluster::open(parts_again(&parts)).await {
                    Ok(cluster) => break cluster,
                    Err(error) => {
                        history.note(format_args!("the controller cannot open the store yet: {error}"))
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            };
            announce.send_replace(Some(opened.clone()));
            tokio::select! {
                biased;
                _ = opened.follow() => {}
                () = keep_link(&opened, schedulers, fate) => {}
            }
        });
        self.controller = Some(tasks);
    }

    fn start_riklet(&mut self, node: usize) {
        self.history.note(format_args!("riklet n{node} starts"));
        let uid = format!("machine-{node}");
        let Ok(identity) = IdentityFile::open(self.directories[node].path(), || uid) else { return };
        let host = self.hosts[node].clone();
        let parts = agent::Parts {
            name: format!("n{node}"),
            facts: facts(),
            identity,
            open_runtime: Arc::new(move |_| {
                let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new(host.clone()));
                Box::pin(async move { Ok(runtime) })
            }),
            measure: Box::new(model::NodeMetrics::default),
            clock: clock(),
        };
        let (schedulers, fate) = (self.scheduler.subscribe(), self.fate.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Ok(mut agent) = agent::Agent::open(parts).await {
                keep_session(&mut agent, schedulers, fate).await;
            }
        });
        self.riklets[node] = Some(tasks);
    }
}

fn parts_again(parts: &Parts) -> Parts {
    Parts {
        store: parts.store.clone(),
        clock: parts.clock.clone(),
        ids: parts.ids.clone(),
        subnets: parts.subnets,
        sealer: parts.sealer.clone(),
    }
}

/// The controller's side of the network: a link whenever there is a scheduler.
async fn keep_link(cluster: &Cluster, mut schedulers: watch::Receiver<Option<Handle>>, fate: Fate) {
    loop {
        let found = schedulers.borrow_and_update().clone();
        if let Some(handle) = found
            && let Ok(connected) = handle.controller_connected().await
        {
            let mut wires = JoinSet::new();
            let (send, sending) = mpsc::channel(HELD);
            let (arriving, mut arrived) = mpsc::channel(HELD);
            let (received, receive) = mpsc::channel(HELD);
            carry(&mut wires, fate.clone(), sending, arriving, |message| {
                again::<_, wire::FromController>(message)
            });
            carry(&mut wires, fate.clone(), connected.outgoing, received, |message| {
                again::<_, wire::ToController>(message)
            });
            let connection = connected.connection;
            let upward = handle.clone();
            wires.spawn(async move {
                while let Some(message) = arrived.recv().await {
                    if upward.from_controller(connection, message).await.is_err() {
                        return;
                    }
                }
            });
            let serving = controller::link::serve(cluster, controller::link::Link { send, receive });
            tokio::select! {
                biased;
                _ = schedulers.changed() => {}
                // The first wire that ends is a broken connection.
                _ = wires.join_next() => {}
                _ = serving => {}
            }
            wires.abort_all();
            handle.controller_closed(connection).await;
        }
        tokio::select! {
            biased;
            changed = schedulers.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
}

/// A riklet's side of the network: a session whenever there is a scheduler.
async fn keep_session(agent: &mut agent::Agent, mut schedulers: watch::Receiver<Option<Handle>>, fate: Fate) {
    loop {
        let found = schedulers.borrow_and_update().clone();
        if let Some(handle) = found {
            let mut wires = JoinSet::new();
            let (send, mut first) = mpsc::channel(HELD);
            let (to_agent, receive) = mpsc::channel(HELD);
            let link = agent::Link { send, receive };
            let connecting = async {
                let Some(proto::node::FromNode::Hello(hello)) = first.recv().await else { return };
                let Ok(connected) = handle.node_connected(hello).await else { return };
                let (arriving, mut arrived) = mpsc::channel(HELD);
                carry(&mut wires, fate.clone(), first, arriving, again::<_, wire::FromNode>);
                carry(&mut wires, fate.clone(), connected.outgoing, to_agent, |message| {
                    again::<_, wire::ToNode>(message)
                });
                let (upward, connection) = (handle.clone(), connected.connection);
                wires.spawn(async move {
                    while let Some(message) = arrived.recv().await {
                        if upward.from_node(connection, message).await.is_err() {
                            return;
                        }
                    }
                });
                let _ = wires.join_next().await;
                wires.abort_all();
                handle.node_closed(connection).await;
            };
            tokio::select! {
                biased;
                _ = schedulers.changed() => {}
                () = connecting => {}
                _ = agent.serve(link, |_, _| {}) => {}
            }
        }
        tokio::select! {
            biased;
            changed = schedulers.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
}

/// The message as it is after a journey over the wire.
fn again<T, W>(message: T) -> T
where
    W: From<T>,
    T: TryFrom<W>,
    <T as TryFrom<W>>::Error: std::fmt::Debug,
{
    T::try_from(W::from(message)).expect("what was encoded can be decoded")
}

fn outcome<T, E: std::error::Error>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A clock that goes with the simulated time.
fn clock() -> Clock {
    let began = Instant::now();
    Clock::new(move || {
        let passed = SignedDuration::try_from(began.elapsed()).unwrap_or_default();
        Timestamp::UNIX_EPOCH + passed
    })
}

fn facts() -> NodeFacts {
    NodeFacts {
        address: None,
        architecture: "x86_64".to_owned(),
        os: "none".to_owned(),
        kernel: "none".to_owned(),
        version: "0".to_owned(),
        cgroups: "v2".to_owned(),
        user_namespaces: "yes".to_owned(),
        microvms: String::new(),
        runtimes: String::new(),
        kinds: vec![Kind::Pod],
        labels: BTreeMap::new(),
        cpu: Cpu(2000),
        memory: Memory(8 << 30),
        max_instances: 15,
    }
}
