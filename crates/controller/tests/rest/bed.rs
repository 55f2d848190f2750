//! A controller's API on a port of its own, over the memory store, with a clock that stands still.

use std::{net::SocketAddr, sync::Arc};

use controller::{
    cluster::{Cluster, ClusterError, Ids, NodeStream, Parts, Relay, SubnetPlan},
    http::{Limits, Server},
    link::{self, Link},
};
use model::{
    Clock, Kind, Status,
    lifecycle::{Report, Said},
    node::NodeFacts,
    quantity::{Cpu, Memory},
};
use proto::{
    link::{Binding, Decisions, FromController, ToController},
    node::Numbered,
    relay::{Frame, HELD_FRAMES, StreamRequest},
};
use store::MemoryStore;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::wire::{Answer, Wire, soon};

/// The workload that most tests use.
pub(crate) const WEB: &str = r#"{"apiVersion":"v1","kind":"Pod","name":"web","spec":{"containers":[{"name":"web","image":"nginx:1"}]}}"#;

/// The controller under test.
pub(crate) struct Bed {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: Cluster,
    pub(crate) store: MemoryStore,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: tokio::task::JoinHandle<()>,
    _end: [DropGuard; 2],
}

/// A request, told apart from how it is sent.
pub(crate) struct Ask<'a> {
    bed: &'a Bed,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Vec<u8>,
}

impl<'a> Ask<'a> {
    pub(crate) fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    pub(crate) fn json(self, body: impl Into<Vec<u8>>) -> Self {
        let asked = self.with("content-type", "application/json");
        Self { body: body.into(), ..asked }
    }

    /// Sends the head and body, and leaves the answer to be read.
    pub(crate) async fn open(self) -> Wire {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || matches!(self.method, "POST" | "PUT") {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut wire = Wire::open(self.bed.address).await;
        wire.send(&[text.into_bytes(), self.body].concat()).await;
        wire
    }

    pub(crate) async fn answer(self) -> Answer {
        let head_only = self.method == "HEAD";
        self.open().await.answer(head_only).await
    }
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let store = MemoryStore::new();
        let clock = Clock::new(|| "2026-01-02T03:04:05Z".parse().unwrap());
        let parts = Parts {
            store: Arc::new(store.clone()),
            clock,
            ids: Ids::seeded(7),
            subnets: SubnetPlan::default(),
            sealer: controller::sealing::Sealer::in_memory(),
        };
        let cluster = Cluster::open(parts).await.unwrap();
        let followed = cluster.clone();
        let shutdown = CancellationToken::new();
        // The mirror outlives the server, whose last requests wait for it.
        let over = CancellationToken::new();
        let end = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = followed.follow() => {}
                () = end.cancelled() => {}
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(cluster.clone()).names(vec!["rik.example".to_owned()]).limits(limits);
        let server = tokio::spawn(server.serve(listener, shutdown.clone()));
        Self {
            address,
            cluster,
            store,
            _end: [shutdown.clone().drop_guard(), over.drop_guard()],
            shutdown,
            server,
        }
    }

    pub(crate) fn ask<'a>(&'a self, method: &'a str, path: &'a str) -> Ask<'a> {
        let headers = vec![("host", "localhost".to_owned()), ("x-request-id", "r1".to_owned())];
        Ask { bed: self, method, path, headers, body: Vec::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).answer().await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path).json(body).answer().await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path).answer().await
    }

    /// Sends these bytes and nothing else; reads one answer.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut wire = Wire::open(self.address).await;
        wire.send(bytes).await;
        wire.answer(false).await
    }

    /// Defines [`WEB`] and returns its id.
    pub(crate) async fn web(&self) -> String {
        let answer = self.post("/api/v0/workloads.create", WEB).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Creates an instance of [`WEB`] with this name.
    pub(crate) async fn instance(&self, name: &str) {
        let body = format!(r#"{{"workload":"web","name":{name:?}}}"#);
        assert_eq!(self.post("/api/v1/instances", &body).await.status, 201);
    }
}

/// A scheduler in name only: it says what a test wants the controller to hear.
pub(crate) struct Scheduler<'a> {
    bed: &'a Bed,
    send: mpsc::Sender<ToController>,
    receive: mpsc::Receiver<FromController>,
}

impl<'a> Scheduler<'a> {
    pub(crate) async fn connect(bed: &'a Bed) -> Self {
        let (send, received) = mpsc::channel(64);
        let (sent, receive) = mpsc::channel(64);
        let cluster = bed.cluster.clone();
        tokio::spawn(async move { link::serve(&cluster, Link { send: sent, receive: received }).await });
        Self { bed, send, receive }
    }

    /// Tells the controller something, and waits until `done` says that it has had its effect.
    async fn tell(&mut self, message: ToController, done: impl Fn(&Cluster) -> bool) {
        self.send.send(message).await.unwrap();
        soon(async {
            while !done(&self.bed.cluster) {
                let seen = self.bed.cluster.mirror().read().revision;
                tokio::select! {
                    () = self.bed.cluster.mirror().passed(seen) => {}
                    message = self.receive.recv() => assert!(message.is_some(), "the link ended"),
                }
            }
        })
        .await;
    }

    pub(crate) async fn node(&mut self, name: &str) {
        let facts = NodeFacts {
            address: Some("192.0.2.1".to_owned()),
            architecture: "x86_64".to_owned(),
            os: "Debian GNU/Linux 12".to_owned(),
            kernel: "6.1.0".to_owned(),
            version: "0.1.0".to_owned(),
            cgroups: "v2".to_owned(),
            user_namespaces: "yes".to_owned(),
            microvms: String::new(),
            runtimes: String::new(),
            kinds: vec![Kind::Pod],
            labels: std::collections::BTreeMap::new(),
            cpu: Cpu(2000),
            memory: Memory(1 << 30),
            max_instances: 20,
        };
        let seen = ToController::NodeSeen { name: name.to_owned(), uid: format!("uid-{name}"), facts };
        self.tell(seen, |cluster| cluster.node(name).is_some()).await;
    }

    pub(crate) async fn lose(&mut self, name: &str) {
        let lost = ToController::NodeLost { name: name.to_owned(), uid: format!("uid-{name}") };
        self.tell(lost, |cluster| cluster.node(name).unwrap().node.status == model::NodeStatus::Unreachable)
            .await;
    }

    /// Binds an instance to a node.
    pub(crate) async fn bind(&mut self, id: &str, node: &str) {
        let instance = self.bed.cluster.instance(id).unwrap();
        let binding = Binding {
            id: id.to_owned(),
            uid: instance.object.uid.clone(),
            kind: Kind::Pod,
            revision: instance.revision,
            node: node.to_owned(),
        };
        let plan = Decisions { plan: 1, bindings: vec![binding], unplaced: Vec::new() };
        self.tell(ToController::Plan(plan), |cluster| cluster.instance(id).unwrap().object.node.is_some())
            .await;
    }

    /// What the controller says that an instance is given.
    pub(crate) async fn given(&mut self, id: &str) -> Arc<model::given::Given> {
        soon(async {
            loop {
                let message = self.receive.recv().await.expect("the link goes on");
                let FromController::Changes { instances, .. } = message else { continue };
                let own = instances.into_iter().filter(|placed| placed.id == id);
                if let Some(given) = own.filter_map(|placed| placed.given).next() {
                    break given;
                }
            }
        })
        .await
    }

    /// Reports an instance as running.
    pub(crate) async fn run(&mut self, id: &str, node: &str) {
        let instance = self.bed.cluster.instance(id).unwrap();
        let said = Said::Status(Status::Running, Box::default());
        let report = Report { id: id.to_owned(), uid: instance.object.uid.clone(), said };
        let reports = vec![Numbered { sequence: 1, report }];
        let reports = ToController::Reports { node: node.to_owned(), reports };
        self.tell(reports, |cluster| cluster.instance(id).unwrap().object.status == Status::Running).await;
    }
}

/// The other end of a stream to a node.
pub(crate) struct NodeEnd {
    pub(crate) request: StreamRequest,
    /// To the client.
    pub(crate) send: mpsc::Sender<Frame>,
    /// From the client.
    pub(crate) receive: mpsc::Receiver<Frame>,
}

/// Makes streams to nodes come out here.
pub(crate) fn nodes_of(bed: &Bed) -> mpsc::Receiver<NodeEnd> {
    let (opened, ends) = mpsc::channel(64);
    let relay: Relay = Arc::new(move |_node, request| {
        let opened = opened.clone();
        Box::pin(async move {
            let (send, receive_theirs) = mpsc::channel(HELD_FRAMES);
            let (send_theirs, receive) = mpsc::channel(HELD_FRAMES);
            opened.send(NodeEnd { request, send: send_theirs, receive: receive_theirs }).await.unwrap();
            Ok::<_, ClusterError>(NodeStream { send, receive })
        })
    });
    bed.cluster.set_relay(Some(relay));
    ends
}
