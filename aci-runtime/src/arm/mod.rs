//! The management interface of Azure Container Instances as Azure Resource Manager (ARM) shows it:
//! unmodified Azure clients drive an [`Engine`] through it.
//!
//! [`ArmApi`] gives an [`axum::Router`] to mount in a service of the embedder's, with the
//! embedder's [`Authorizer`]; without one everything that needs a token is refused.
//!
//! ```
//! use aci_runtime::Engine;
//! use aci_runtime::arm::{ArmApi, ArmOptions, danger};
//! # use aci_core::fake::{FakeHost, TokioClock};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let host = FakeHost::new(std::sync::Arc::new(TokioClock::new()));
//! # let engine = Engine::builder().isolation(host.isolation.clone()).images(host.images.clone())
//! #     .network(host.network.clone()).store(host.store.clone()).build().await?;
//! let api = ArmApi::builder(engine)
//!     .store(host.store.clone())                // where the front's own state is journaled
//!     .authorizer(danger::Everybody)            // for tests only
//!     .options(ArmOptions::default())
//!     .build()
//!     .await?;
//! let router: axum::Router = api.router();
//! # let _ = router;
//! # Ok(()) }
//! ```
//!
//! # One table
//!
//! Every operation is a [`Route`] of one table, [`ArmApi::routes`]: dispatch, authorisation and the
//! tests that try every route without a token read the same. Paths are matched without regard to
//! case, and double slashes count as one, as ARM has it.
//!
//! # Exec and attach
//!
//! `POST .../exec` answers an address and a password, good for one WebSocket within two minutes. The
//! password is the first frame, as the Azure CLI sends it, or the header `Authorization`; `attach`
//! takes the header only. Then frames of a client, text or binary, are input; binary frames of the
//! server are what the terminal shows. When the process ends, the server closes with code 1000.
//!
//! Two things are told beyond that, which older clients do not see. The reason of the closing frame
//! is `{"exitCode":0}`, with `"signal":"SIGKILL"` after a signal. And a client that offers the
//! subprotocol `exec.v1.container-groups` sends input in binary frames only; its text frames (after
//! the password) are `{"resize":{"rows":50,"cols":132}}`, `{"signal":"SIGINT"}` or `{"eof":true}`,
//! and the exit comes as a text frame, too. Unknown messages are left out.
//!
//! # Metrics
//!
//! Running groups are measured every [`ArmOptions::measure_every`] and kept by the minute for 12
//! hours and by the hour for 30 days, in memory. They are answered under
//! `.../providers/Microsoft.Insights/metrics` as Azure Monitor does, and at `/metrics` for Prometheus
//! (with a token that may read).
//!
//! # Operations
//!
//! | what | answer |
//! |---|---|
//! | create, change | 201 or 200 with the group, `Azure-AsyncOperation`, `Location`, `Retry-After` |
//! | start; restart | 202; 204; with `Location` |
//! | stop | 204 when it is stopped |
//! | delete | 200 with the group as it was; 202 with `Location` where that takes longer than [`ArmOptions::delete_patience`]; 204 if there is none |
//! | deploy a template | 201 or 200, `Azure-AsyncOperation` |
//! | delete a resource group | 202 with `Location`, which answers 200 at the end |
//!
//! Every api-version of Azure Container Instances from 2018-04-01 on is taken, and answers have its
//! properties only. Lists come in pages (`nextLink`) and show no instance views. `ETag` changes with
//! every change through the front; `If-Match` and `If-None-Match` are judged by it. A request is
//! answered after it is journaled; a client that saw no answer asks again, and the same request
//! gives the same.
//!
//! Templates may have container groups and their profiles, virtual networks with subnets, network
//! profiles, storage accounts with shares, user-assigned identities and nested deployments; anything
//! else is refused before something is made. Links to templates are not followed.
//!
//! # Where it differs from Azure
//!
//! - A resource group is made by the first resource that is put into it, unless
//!   [`ArmOptions::implicit_resource_groups`] says otherwise.
//! - There is one location; every name of one is taken and answered as that of the machine.
//! - Virtual networks are made if the host implements [`NetworkAdmin`], and are
//!   kept and answered only where it does not. Storage accounts and identities have no effect by
//!   themselves. `listKeys` answers keys that no storage service knows.
//! - A group from a profile may set environment variables besides config maps. Its profile's
//!   `shutdownGracePeriod` is the time between the stop signal and the kill, and `timeToLive` after
//!   it has succeeded or failed it is deleted.
//! - A PATCH of a profile changes its tags.
//! - `$filter` knows the type of a resource only.
//! - nGroups, sandbox groups and standby pools are not there.
//!
//! # What is kept
//!
//! Container groups are the engine's. Resource groups, profiles, deployments and asynchronous
//! operations are journaled in a [`ResourceStore`] before they
//! are answered.

// Handlers have one form, whether they wait for something or not.
#![allow(clippy::unused_async)]

pub mod access;
mod auth;
mod call;
mod deployment;
mod dispatch;
mod error;
mod exec;
mod groups;
mod monitor;
pub mod network;
mod operation;
mod options;
mod page;
mod power;
mod profile;
mod provider;
mod rate;
mod records;
mod reply;
mod resources;
mod route;
mod scope;
mod sessions;
mod shape;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aci_core::contract::ResourceStore;
use aci_core::error::{Error, ErrorKind, Result};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Engine;
use crate::identity::IdentityProvider;
use crate::turns::{Turn, Turns};

pub use auth::{Access, Authorizer, Closed, Need, Principal, danger};
pub use call::Connection;
pub(crate) use call::query;
pub use error::{ArmError, ArmResult};
pub use options::{ArmOptions, Rates};
pub use route::{Route, Versions};

use monitor::Monitor;
use network::NetworkAdmin;
use records::Records;
use sessions::Sessions;

/// What all handlers share.
pub(crate) struct Front {
    pub(crate) engine: Engine,
    pub(crate) options: ArmOptions,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) records: Records,
    pub(crate) routes: Vec<Route>,
    pub(crate) sessions: Sessions,
    pub(crate) monitor: Arc<Monitor>,
    /// Metrics of the embedder's, to stand beside the groups' at `/metrics`.
    pub(crate) exposition: Option<Exposition>,
    /// The WebSockets that are open.
    pub(crate) streams: TaskTracker,
    /// Ends them.
    pub(crate) closing: CancellationToken,
    pub(crate) meter: rate::Meter,
    /// Who makes virtual networks, if somebody does.
    pub(crate) networks: Option<Arc<dyn NetworkAdmin>>,
    /// Who names managed identities, if somebody does.
    pub(crate) identities: Option<Arc<dyn IdentityProvider>>,
    /// Written while virtual networks change, read while a group is put into one.
    pub(crate) networking: Arc<tokio::sync::RwLock<()>>,
    /// Operations that were begun.
    pub(crate) begun: AtomicU64,
    /// Changes of one resource happen one after the other.
    turns: Turns,
}

impl Front {
    /// Waits until nobody else changes the resource of this key.
    pub(crate) async fn turn(&self, key: &str) -> Turn {
        self.turns.take(key.to_lowercase()).await
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("options", &self.options)
            .field("authorizer", &self.authorizer)
            .finish_non_exhaustive()
    }
}

/// The front of an engine. A clone is a second handle of the same front.
#[derive(Clone, Debug)]
pub struct ArmApi {
    front: Arc<Front>,
}

/// More metrics in the text form of Prometheus.
type Exposition = Arc<dyn Fn() -> String + Send + Sync>;

/// Puts a front together.
#[must_use]
pub struct ArmApiBuilder {
    engine: Engine,
    options: ArmOptions,
    authorizer: Arc<dyn Authorizer>,
    store: Option<Arc<dyn ResourceStore>>,
    exposition: Option<Exposition>,
    networks: Option<Arc<dyn NetworkAdmin>>,
    identities: Option<Arc<dyn IdentityProvider>>,
}

impl fmt::Debug for ArmApiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmApiBuilder")
            .field("options", &self.options)
            .field("authorizer", &self.authorizer)
            .finish_non_exhaustive()
    }
}

impl ArmApiBuilder {
    /// Where the front's own state is journaled, such as the engine's
    /// [`RedbStore`](crate::RedbStore). Required.
    pub fn store(mut self, store: impl ResourceStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Who may do what. Default: [`Closed`], so nobody.
    pub fn authorizer(mut self, authorizer: impl Authorizer + 'static) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// Metrics of the embedder's own in the text form of Prometheus, such as what its recorder of
    /// the `metrics` facade renders; they stand beside the groups' at `/metrics`.
    pub fn exposition(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.exposition = Some(Arc::new(render));
        self
    }

    /// Who makes the virtual networks that clients describe. Without one they are kept and answered,
    /// and have no effect.
    pub fn networks(mut self, networks: impl NetworkAdmin + 'static) -> Self {
        self.networks = Some(Arc::new(networks));
        self
    }

    /// Who names managed identities: answers show `principalId` and `clientId`, and a group with an
    /// identity that is not known is refused. Give the same to [`identity::router`](crate::identity::router).
    pub fn identities(mut self, identities: Arc<dyn IdentityProvider>) -> Self {
        self.identities = Some(identities);
        self
    }

    /// The settings.
    pub fn options(mut self, options: ArmOptions) -> Self {
        self.options = options;
        self
    }

    /// The front. It reads what is journaled and goes on with the operations that were under way.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) without a store; the store's.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn build(self) -> Result<ArmApi> {
        let store = self.store.ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "arm.build",
                "the builder was given no store",
            )
            .hint("call .store(..)")
        })?;
        let front = Arc::new(Front {
            engine: self.engine,
            options: self.options,
            authorizer: self.authorizer,
            records: Records::load(store).await?,
            routes: routes(),
            sessions: Sessions::default(),
            monitor: Arc::default(),
            exposition: self.exposition,
            streams: TaskTracker::new(),
            closing: CancellationToken::new(),
            meter: rate::Meter::default(),
            networks: self.networks,
            identities: self.identities,
            networking: Arc::default(),
            begun: AtomicU64::new(0),
            turns: Turns::default(),
        });
        if let Some(every) = front.options.measure_every {
            front.monitor.start(&front.engine, every);
        }
        front.network().await;
        front.resume().await?;
        Ok(ArmApi { front })
    }
}

/// All routes. A path that is like several patterns goes to the one with fewer names.
fn routes() -> Vec<Route> {
    [
        provider::routes(),
        scope::routes(),
        groups::routes(),
        exec::routes(),
        monitor::routes(),
        power::routes(),
        profile::routes(),
        operation::routes(),
        resources::routes(),
        deployment::routes(),
    ]
    .concat()
}

impl ArmApi {
    /// Begins to put a front together.
    pub fn builder(engine: Engine) -> ArmApiBuilder {
        ArmApiBuilder {
            engine,
            options: ArmOptions::default(),
            authorizer: Arc::new(Closed),
            store: None,
            exposition: None,
            networks: None,
            identities: None,
        }
    }

    /// All operations, for whoever wants to try each.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.front.routes
    }

    /// Ends what outlives requests: the WebSockets of exec and attach. Their processes see a hang-up;
    /// groups are not touched. Call it beside stopping the listener.
    ///
    /// # Cancel safety
    /// They end without the caller, too.
    pub async fn close(&self) {
        self.front.closing.cancel();
        self.front.streams.close();
        self.front.streams.wait().await;
    }

    /// The router: one service for all paths. Mount it at the root of a host, because clients know
    /// only a host.
    pub fn router(&self) -> axum::Router {
        let front = Arc::clone(&self.front);
        axum::Router::new().fallback(move |request: axum::extract::Request| {
            let front = Arc::clone(&front);
            async move { dispatch::dispatch(front, request).await }
        })
    }
}
