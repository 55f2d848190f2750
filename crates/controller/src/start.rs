//! Starting the controller: everything is checked before a port is bound or a directory made.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use daemon::chain;
use jiff::Timestamp;
use model::Clock;
use store::SqliteStore;
use tokio::{net::TcpListener, task::JoinError};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::Endpoint;

use crate::{
    cluster::{Cluster, ClusterError, Ids, OpenError, Parts, SubnetPlan},
    http, import, link,
    mirror::MirrorError,
    sealing::{self, Sealer},
};

/// How often old answers are looked for. They are kept for a day, so an hour more or less does not matter.
const HOUSEKEEPING: Duration = Duration::from_secs(60 * 60);

/// What a controller needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the database.
    pub database: PathBuf,
    /// The scheduler.
    pub scheduler: Endpoint,
    /// Address and port of the API.
    pub listen: SocketAddr,
    /// Addresses of the nodes' instances.
    pub subnets: SubnetPlan,
    /// Names that clients may call this controller by, beside `localhost` and addresses.
    pub names: Vec<String>,
}

/// A controller could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database could not be opened.
    #[error("could not open the database")]
    Store(#[source] store::OpenError),
    /// The rows of an old database could not be taken over.
    #[error("could not take over the old database")]
    Import(#[source] ClusterError),
    /// The same.
    #[error("could not put the old database aside")]
    FinishImport(#[source] store::StoreError),
    /// The cluster could not be opened.
    #[error("could not open the cluster")]
    Open(#[source] OpenError),
    /// The port could not be bound.
    #[error("could not listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store could not be followed.
    #[error("could not follow the store")]
    Mirror(#[source] MirrorError),
}

/// The clock of this machine.
#[must_use]
pub fn system_clock() -> Clock {
    Clock::new(Timestamp::now)
}

/// Runs a controller until `shutdown`.
///
/// # Errors
/// It could not start, or its store has failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    // Opening checks the file's integrity, which takes its time and may block.
    let directory = config.database.clone();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&directory)).await;
    let opened = whole(opened).map_err(StartError::Store)?;
    let clock = system_clock();
    if !opened.legacy.is_empty() {
        let imported =
            import::import(&opened.store, &opened.legacy, clock.now()).await.map_err(StartError::Import)?;
        opened.store.finish_legacy_import().await.map_err(StartError::FinishImport)?;
        tracing::info!(
            imported.workloads,
            imported.tenants,
            imported.left,
            "took over the store of an old RIK"
        );
    }
    let sealer = Sealer::in_file(config.database.join(sealing::KEY_FILE));
    let (store, ids, subnets) = (Arc::new(opened.store), Ids::random(), config.subnets);
    let parts = Parts { store, clock, ids, subnets, sealer };
    let cluster = Cluster::open(parts).await.map_err(StartError::Open)?;
    let bind = |source| StartError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    warn_if_open(address);
    tracing::info!(
        %address,
        cluster.id = cluster.identity().cluster,
        database = %config.database.display(),
        "the controller serves its API"
    );
    // Tasks of their own: whoever waits for the mirror must not wait for the link, which works on as much.
    let followed = cluster.clone();
    let mut mirror = AbortOnDropHandle::new(tokio::spawn(async move { followed.follow().await }));
    let dialling = link::dial::run(cluster.clone(), config.scheduler, shutdown.clone());
    let link = AbortOnDropHandle::new(tokio::spawn(dialling));
    let work = async {
        let (linked, (), ()) = tokio::join!(
            link,
            http::Server::new(cluster.clone()).names(config.names).serve(listener, shutdown.clone()),
            keep_house(&cluster, shutdown.clone()),
        );
        linked
    };
    tokio::select! {
        failed = &mut mirror => whole(failed).map(|never| match never {}).map_err(StartError::Mirror),
        linked = work => {
            whole(linked);
            Ok(())
        }
    }
}

/// What a task came to; if it panicked, so does whoever waits for it.
fn whole<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Until there is authentication, whoever reaches the port owns the cluster; that must be said.
fn warn_if_open(address: SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "the API has no authentication yet: everybody who reaches this address controls the cluster and, with it, its nodes"
        );
    }
}

async fn keep_house(cluster: &Cluster, shutdown: CancellationToken) {
    loop {
        if let Err(error) = cluster.forget_old_answers().await {
            tracing::warn!(error = chain(&error), "could not forget old answers");
        }
        tokio::select! {
            () = tokio::time::sleep(HOUSEKEEPING) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
