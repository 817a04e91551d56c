//! A network for programs without any rights: groups have their loopback only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aci_core::contract::{AttachRequest, Attachment, NetworkCapability, NetworkDriver};
use aci_core::error::Result;
use aci_core::id::SandboxId;
use async_trait::async_trait;

use crate::resolv;

/// Groups have their loopback and nothing else: containers of a group reach each other on
/// `localhost`, and the host reaches them through
/// [`Sandbox::dial`](aci_core::contract::Sandbox::dial).
///
/// It needs no rights and touches nothing of the host, so it always works. It remembers attachments
/// in memory: there is nothing that could be left behind.
#[derive(Clone, Debug, Default)]
pub struct LoopbackNetwork {
    attachments: Arc<Mutex<BTreeMap<SandboxId, Attachment>>>,
}

impl LoopbackNetwork {
    /// A network without attachments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<SandboxId, Attachment>) -> T) -> T {
        change(
            &mut self
                .attachments
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

#[async_trait]
impl NetworkDriver for LoopbackNetwork {
    fn capability(&self) -> NetworkCapability {
        NetworkCapability {
            name: "loopback".to_owned(),
            addresses: false,
            publish: false,
            outbound: false,
            names: false,
            missing: vec![
                "groups have no address: only loopback is up in them; run as root with `BridgeNetwork` to give them one".to_owned(),
                "ports are not published and the internet is not reached: both need an address".to_owned(),
                "dnsNameLabel gets no name: ipAddress.fqdn stays empty".to_owned(),
            ],
        }
    }

    #[tracing::instrument(name = "network.attach", skip_all, fields(sandbox = %request.sandbox))]
    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        let dns = match &request.dns {
            Some(dns) => resolv::from_document(dns)?,
            None => aci_core::contract::DnsSettings::default(),
        };
        let attachment = Attachment {
            sandbox: request.sandbox.clone(),
            addresses: Vec::new(),
            ip: None,
            fqdn: None,
            published: Vec::new(),
            dns,
        };
        Ok(self.with(|all| all.entry(request.sandbox).or_insert(attachment).clone()))
    }

    /// Does nothing: no traffic comes in from outside in any case.
    async fn set_ready(&self, _sandbox: &SandboxId, _ready: bool) -> Result<()> {
        Ok(())
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        self.with(|all| all.remove(sandbox));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Attachment>> {
        Ok(self.with(|all| all.values().cloned().collect()))
    }
}
