//! The network of one node's pods: the face of this crate.
//!
//! ```text
//!  open ─▶ reconcile ─▶ attach / detach, any number at once ─▶ (teardown)
//!                        ensure, every few seconds
//! ```
//!
//! *Guarantees.* Attaching and detaching go on to their end even if the caller no longer waits, in the order in which
//! they were asked for. Both may be repeated.
//! A failed attach leaves nothing. A restart changes nothing for pods that are known. Work that belongs to one pod
//! never waits for another pod's, but for the rules, which many pods share one run of.
//!
//! *Assumptions.* The process has one network namespace and one mount namespace, and is root in them. One riklet in
//! one network namespace.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::future;
use tokio::sync::{Notify, Semaphore};

use crate::{
    AttachRequest, Attachment, Owner, Subnet,
    book::{Book, Grant, Refusal, Ticket, some_address},
    error::{AttachError, DetachError, NetworkError},
    firewall::{Backend, Destination, Firewall, FirewallError, FirewallState, Forwarding},
    namespace, netlink,
    node::{self, Mended},
    ports,
    wiring::{self, WiringError, WiringSpec},
};

/// How many pods are wired at the same time. The kernel changes links one at a time, so that more gain nothing;
/// making the namespaces overlaps.
const WIRED_AT_ONCE: usize = 4;

/// How many pods are disconnected at the same time. Each waits in the kernel for some 30 ms at almost no cost.
const UNWIRED_AT_ONCE: usize = 16;

/// How a node's network should be.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the bridge: at most 15 bytes.
    pub bridge: String,
    /// Addresses of the node's pods.
    pub subnet: Subnet,
    /// The interface that pods' own traffic leaves by; without it, whichever the routes say.
    pub uplink: Option<String>,
    /// The riklet's state directory. The files that hold namespaces are below it.
    pub state_dir: PathBuf,
    /// Largest packet; without it, that of the uplink or of the default route.
    pub mtu: Option<u32>,
    /// Which iptables.
    pub backend: Backend,
    /// Where pods may not go, such as the control plane. The node itself and the clouds' metadata service are always
    /// closed to them.
    pub forbidden: BTreeSet<Destination>,
}

/// What [`Network::reconcile`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Pods that go on as before.
    pub adopted: Vec<Owner>,
    /// Pods whose network is gone, and why. Nothing of it is left; attach them anew.
    pub lost: Vec<(Owner, String)>,
    /// What was removed because nobody has it.
    pub removed: Vec<String>,
}

/// The network of one node's pods. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: NetworkConfig,
    mtu: u32,
    firewall: Firewall,
    bridge: AtomicU32,
    book: Mutex<Book>,
    /// Told whenever somebody leaves a line.
    moved_on: Notify,
    wiring: Semaphore,
    unwiring: Semaphore,
}

impl Network {
    /// Checks the configuration against the host, and makes or takes over the bridge. Rules stay as they are until
    /// [`Self::reconcile`].
    ///
    /// # Errors
    /// [`NetworkError`]; when the configuration does not fit the host, nothing was changed.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let book = Mutex::new(Book::new(config.subnet)?);
        let of_thread = config.clone();
        let prepared = netlink::elsewhere(move || node::prepare(&of_thread)).await?;
        let firewall = Firewall::new(config.backend, firewall_state(&config, prepared.forwarding));
        let shared = Shared {
            config,
            mtu: prepared.mtu,
            firewall,
            bridge: AtomicU32::new(prepared.bridge.index),
            book,
            moved_on: Notify::new(),
            wiring: Semaphore::new(WIRED_AT_ONCE),
            unwiring: Semaphore::new(UNWIRED_AT_ONCE),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes over the pods of an earlier run and removes what no known pod has. Must come before the first attach.
    ///
    /// # Errors
    /// [`NetworkError`]; may be repeated.
    pub async fn reconcile(&self, known: &[Attachment]) -> Result<Reconciled, NetworkError> {
        let mut found = Reconciled::default();
        for attachment in known {
            match self.adopt(attachment).await? {
                None => found.adopted.push(attachment.owner.clone()),
                Some(reason) => found.lost.push((attachment.owner.clone(), reason)),
            }
        }
        let keep: BTreeSet<Owner> = self.shared.book().attachments().map(|kept| kept.owner.clone()).collect();
        let config = self.shared.config.clone();
        found.removed = netlink::elsewhere(move || node::remove_strays(&config, &keep)).await?;
        self.shared.firewall.change(|state| state.published = self.shared.book().published());
        self.ensure().await?;
        self.shared.book().open();
        Ok(found)
    }

    /// Gives a pod its namespaces, its address and its ports. When this returns, the pod can be reached.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left of the attempt then.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, AttachError> {
        let owner = request.owner.clone();
        let turn = self.shared.line_up(&owner);
        let ended = tokio::spawn(async move { turn.come().await.attach(request).await }).await;
        ended.unwrap_or_else(|ended| Err(AttachError::Ended { owner, source: io::Error::other(ended) }))
    }

    /// Takes everything from a pod, whatever of it is there. A pod that has nothing is no error.
    ///
    /// # Errors
    /// [`DetachError`] when something could not be removed; may be repeated.
    pub async fn detach(&self, owner: &Owner, ns_dir: &Path) -> Result<(), DetachError> {
        let turn = self.shared.line_up(owner);
        let (of_task, ns_dir) = (owner.clone(), ns_dir.to_owned());
        let ended = tokio::spawn(async move { turn.come().await.withdraw(&of_task, ns_dir).await }).await;
        ended.unwrap_or_else(|ended| {
            Err(DetachError::Ended { owner: owner.clone(), source: io::Error::other(ended) })
        })
    }

    /// Looks whether rules, bridge and settings are as they should be, and puts back what is not. To be called every
    /// few seconds: it costs a short conversation with the kernel when all is well, and where it does not number the states
    /// of its rules one `iptables-save`.
    ///
    /// # Errors
    /// [`NetworkError`] when something is not, and could not be made, as it should be.
    pub async fn ensure(&self) -> Result<Mended, NetworkError> {
        let shared = &self.shared;
        // The rules that guard the node before the settings that open it.
        let firewall = shared.firewall.ensure().await?;
        let links: Vec<String> = shared.book().attachments().map(|kept| kept.link.clone()).collect();
        let (config, mtu) = (shared.config.clone(), shared.mtu);
        let (bridge, mended) = netlink::elsewhere(move || node::mend(&config, mtu, &links)).await?;
        shared.bridge.store(bridge.index, Ordering::Relaxed);
        Ok(Mended { firewall, ..mended })
    }

    /// Who has a port of the node: a pod, or a program that listens on it.
    ///
    /// # Errors
    /// [`AttachError::Listeners`] when the kernel's tables cannot be read.
    pub fn port_in_use(&self, spec: &model::PortSpec) -> Result<Option<String>, AttachError> {
        if let Some(owner) = self.shared.book().publisher(spec) {
            return Ok(Some(format!("pod {owner}")));
        }
        listener_on(spec)
    }

    /// The attachments of all pods.
    #[must_use]
    pub fn attachments(&self) -> Vec<Attachment> {
        self.shared.book().attachments().cloned().collect()
    }

    /// The largest packet that pods may send.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.shared.mtu
    }

    /// What every pod of the node shares: the gateway, the length of the subnet's prefix, the largest packet.
    #[must_use]
    pub fn surroundings(&self) -> (Ipv4Addr, u8, u32) {
        let subnet = self.shared.config.subnet;
        (subnet.gateway(), subnet.prefix(), self.shared.mtu)
    }

    /// How often the rules were applied or looked at: what benchmarks and tests count.
    pub async fn firewall_runs(&self) -> u64 {
        self.shared.firewall.runs().await
    }

    /// Detaches every pod. The node stays ready for others.
    ///
    /// # Errors
    /// The first [`NetworkError::Detach`]; the others were detached all the same.
    pub async fn close_all(&self) -> Result<(), NetworkError> {
        let detach = self.attachments().into_iter().map(|kept| async move {
            let outcome = self.detach(&kept.owner, &kept.ns_dir).await;
            outcome.map_err(|source| NetworkError::Detach { owner: kept.owner, source })
        });
        future::join_all(detach).await.into_iter().collect()
    }

    /// Leaves the host as it was before: no pod, no rule, no bridge, settings as they were.
    ///
    /// # Errors
    /// [`NetworkError`]; may be repeated.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        self.close_all().await?;
        Self::erase(self.shared.config.clone()).await
    }

    /// As [`Self::teardown`], for a network that nobody has open: removes what an earlier run left.
    ///
    /// # Errors
    /// [`NetworkError`]; may be repeated.
    pub async fn erase(config: NetworkConfig) -> Result<(), NetworkError> {
        let of_thread = config.clone();
        netlink::elsewhere(move || {
            node::remove_strays(&of_thread, &BTreeSet::new())?;
            node::close(&of_thread)
        })
        .await?;
        // The rules that guard the node after the settings that opened it.
        Firewall::new(config.backend, firewall_state(&config, Forwarding::BeforeUs)).clear().await?;
        netlink::elsewhere(move || node::forget(&config)).await
    }

    /// Takes over one pod, or says why it cannot be.
    async fn adopt(&self, attachment: &Attachment) -> Result<Option<String>, NetworkError> {
        if self.shared.book().attachment(&attachment.owner).is_some() {
            return Ok(None);
        }
        let (kept, bridge) = (attachment.clone(), self.shared.bridge());
        let is_there = netlink::elsewhere(move || -> Result<bool, NetworkError> {
            let links =
                netlink::converse(async |handle| crate::link::of_owner(&handle, &kept.owner, bridge).await)?;
            Ok(namespace::are_held(&kept.ns_dir) && links.iter().any(|link| link.name == kept.link))
        });
        if !is_there.await? {
            return Ok(Some("its link or namespaces are gone".to_owned()));
        }
        Ok(self.shared.book().adopt(attachment).err().map(|error| error.to_string()))
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bridge(&self) -> Option<u32> {
        Some(self.bridge.load(Ordering::Relaxed))
    }

    /// Lines up for an owner. The place is taken at once, before anything is awaited.
    fn line_up(self: &Arc<Self>, owner: &Owner) -> Turn {
        let ticket = self.book().line_up(owner);
        Turn { shared: Arc::clone(self), owner: owner.clone(), ticket }
    }

    async fn attach(&self, request: AttachRequest) -> Result<Attachment, AttachError> {
        let owner = request.owner.clone();
        if let Some(attached) = self.book().attachment(&owner) {
            return match attached.answers(&request) {
                true => Ok(attached.clone()),
                false => Err(AttachError::AlreadyAttached { owner }),
            };
        }
        let grant = self.grant(&request)?;
        let publish = async {
            match grant.published.is_empty() {
                true => Ok(()),
                false => self.publish().await,
            }
        };
        let outcome = match tokio::join!(self.wire(&request, &grant), publish) {
            (Ok(link), Ok(())) => Ok(link),
            (Err(source), _) => Err(AttachError::Wiring { owner: owner.clone(), source }),
            (_, Err(source)) => Err(AttachError::Firewall { owner: owner.clone(), source }),
        };
        match outcome {
            Ok(link) => {
                let AttachRequest { owner, hostname, ns_dir, .. } = request;
                let Grant { address: ip, published } = grant;
                let attachment = Attachment { owner, ip, hostname, ns_dir, link, published };
                self.book().confirm(attachment.clone());
                Ok(attachment)
            }
            Err(error) => {
                if let Err(error) = self.withdraw(&owner, request.ns_dir).await {
                    tracing::warn!(%owner, %error, "a failed attach left something behind");
                }
                Err(error)
            }
        }
    }

    fn grant(&self, request: &AttachRequest) -> Result<Grant, AttachError> {
        let owner = &request.owner;
        for spec in &request.publish {
            if spec.port == 0 || spec.target() == 0 {
                return Err(AttachError::PortZero { owner: owner.clone() });
            }
            if let Some(by) = listener_on(spec)? {
                return Err(AttachError::PortInUse { protocol: spec.protocol, port: spec.port, by });
            }
        }
        let mut book = self.book();
        if !book.is_open() {
            return Err(AttachError::NotReconciled { owner: owner.clone() });
        }
        book.grant(request).map_err(|refusal| match refusal {
            Refusal::Address(source) => AttachError::Address { owner: owner.clone(), source },
            Refusal::Port { protocol, port, by } => AttachError::PortInUse { protocol, port, by },
        })
    }

    async fn wire(&self, request: &AttachRequest, grant: &Grant) -> Result<String, WiringError> {
        let _permit = self.wiring.acquire().await;
        let spec = WiringSpec {
            owner: request.owner.clone(),
            hostname: request.hostname.clone(),
            ns_dir: request.ns_dir.clone(),
            has_namespaces: request.has_namespaces,
            tap: request.tap,
            bridge: self.bridge.load(Ordering::Relaxed),
            address: grant.address,
            prefix: self.config.subnet.prefix(),
            gateway: self.config.subnet.gateway(),
            mtu: self.mtu,
        };
        wiring::wire(spec).await
    }

    /// Brings the rules in line with the book.
    async fn publish(&self) -> Result<(), FirewallError> {
        self.firewall.update(|state| state.published = self.book().published()).await
    }

    /// Takes everything from an owner whose turn the caller has. The address is free only when all is gone.
    async fn withdraw(&self, owner: &Owner, ns_dir: PathBuf) -> Result<(), DetachError> {
        let was_published = self.book().unpublish(owner);
        let unpublish = async {
            match was_published {
                true => self.publish().await,
                false => Ok(()),
            }
        };
        let unwire = async {
            let _permit = self.unwiring.acquire().await;
            wiring::unwire(owner.clone(), ns_dir, self.bridge()).await
        };
        let (unpublished, unwired) = tokio::join!(unpublish, unwire);
        unwired.map_err(|source| DetachError::Wiring { owner: owner.clone(), source })?;
        unpublished.map_err(|source| DetachError::Firewall { owner: owner.clone(), source })?;
        self.book().forget(owner);
        Ok(())
    }
}

/// A place in the line of those who want to attach or detach one owner; left when dropped.
struct Turn {
    shared: Arc<Shared>,
    owner: Owner,
    ticket: Ticket,
}

impl Turn {
    /// Waits until nobody is before it.
    async fn come(&self) -> &Shared {
        loop {
            let mut moved_on = std::pin::pin!(self.shared.moved_on.notified());
            moved_on.as_mut().enable();
            if self.shared.book().is_first(&self.owner, self.ticket) {
                return &self.shared;
            }
            moved_on.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.book().leave(&self.owner, self.ticket);
        self.shared.moved_on.notify_waiters();
    }
}

fn listener_on(spec: &model::PortSpec) -> Result<Option<String>, AttachError> {
    ports::listener_on(spec.protocol, spec.port, some_address(spec.host_address))
        .map_err(|source| AttachError::Listeners { protocol: spec.protocol, port: spec.port, source })
}

fn firewall_state(config: &NetworkConfig, forwarding: Forwarding) -> FirewallState {
    FirewallState {
        bridge: config.bridge.clone(),
        subnet: config.subnet,
        uplink: config.uplink.clone(),
        forwarding,
        forbidden: config.forbidden.clone(),
        published: BTreeSet::new(),
    }
}
