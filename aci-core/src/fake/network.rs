//! A simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};

use super::{Faults, lock};
use crate::contract::{
    AttachRequest, Attachment, Clock, DnsSettings, NetworkCapability, NetworkDriver,
};
use crate::dns_label::{self, DEFAULT_TENANT, Owner};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;

#[derive(Debug, Default)]
struct Inner {
    attached: BTreeMap<SandboxId, Attached>,
    subnets: BTreeSet<String>,
}

#[derive(Debug)]
struct Attached {
    attachment: Attachment,
    address: Ipv4Addr,
    label: Option<String>,
    ready: bool,
}

/// Addresses from a pool, in memory; no packet flows. Clones share everything.
///
/// Every group gets the lowest free address of the pool's network, without its first (the
/// gateway's), the network's and the broadcast address. A name label is unique; its full name is
/// `<label>.<region>.fake.invalid`. Any subnet is accepted unless some were declared.
#[derive(Clone, Debug)]
pub struct FakeNetwork {
    inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    pool: Ipv4Net,
    limit: usize,
}

impl FakeNetwork {
    /// A network with the addresses of `10.0.0.0/16`, without faults.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_faults(clock, Faults::none())
    }

    /// A network with the addresses of `10.0.0.0/16` under a plan of faults.
    #[must_use]
    pub fn with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self {
            inner: Arc::default(),
            clock,
            faults,
            pool: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 16),
            limit: usize::MAX,
        }
    }

    /// Takes the addresses from another network.
    #[must_use]
    pub fn with_pool(mut self, pool: Ipv4Net) -> Self {
        self.pool = pool;
        self
    }

    /// Attaches at most so many groups at a time.
    #[must_use]
    pub fn with_limit(mut self, groups: usize) -> Self {
        self.limit = groups;
        self
    }

    /// Declares a subnet by its ARM id; from then on undeclared ones are refused.
    #[must_use]
    pub fn with_subnet(self, id: &str) -> Self {
        lock(&self.inner).subnets.insert(id.to_lowercase());
        self
    }

    /// Whether a group is open to traffic; `None` if it is not attached. A new one is closed.
    #[must_use]
    pub fn is_ready(&self, sandbox: &SandboxId) -> Option<bool> {
        lock(&self.inner).attached.get(sandbox).map(|a| a.ready)
    }

    /// Whether nothing is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).attached.is_empty()
    }

    /// The attached sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        lock(&self.inner).attached.keys().cloned().collect()
    }

    fn attach_now(&self, request: &AttachRequest) -> Result<Attachment> {
        let error = |kind, message: String| {
            Error::new(kind, "network.attach", message).on(&request.sandbox)
        };
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.attached.get(&request.sandbox) {
            return Ok(known.attachment.clone());
        }
        for subnet in &request.subnets {
            if !inner.subnets.is_empty() && !inner.subnets.contains(&subnet.to_lowercase()) {
                let message = format!("the subnet '{subnet}' is not known");
                return Err(error(ErrorKind::Invalid, message));
            }
        }
        let label = request.ip_address.as_ref().and_then(|address| {
            let owner = Owner {
                tenant: DEFAULT_TENANT,
                group: &request.group,
                sandbox: &request.sandbox,
            };
            dns_label::name(address, &request.location, &owner)
        });
        if label.is_some() && inner.attached.values().any(|a| a.label == label) {
            let message = "the DNS name label is taken by another group".to_owned();
            return Err(error(ErrorKind::AlreadyExists, message).code("DnsNameLabelNotAvailable"));
        }
        let mut dns = DnsSettings::default();
        if let Some(wish) = &request.dns {
            for server in &wish.name_servers {
                let server = server.parse().map_err(|_| {
                    let message = format!("the name server '{server}' is not an IP address");
                    error(ErrorKind::Invalid, message)
                })?;
                dns.name_servers.push(server);
            }
            let list = |text: &Option<String>| -> Vec<String> {
                let text = text.as_deref().unwrap_or_default();
                text.split_whitespace().map(str::to_owned).collect()
            };
            dns.search = list(&wish.search_domains);
            dns.options = list(&wish.options);
        }
        let taken: BTreeSet<_> = inner.attached.values().map(|a| a.address).collect();
        // The first host is the gateway.
        let free = self.pool.hosts().skip(1).find(|host| !taken.contains(host));
        let address = match free {
            Some(address) if inner.attached.len() < self.limit => address,
            _ => {
                let message = format!("no address is left in {}", self.pool);
                return Err(error(ErrorKind::Exhausted, message));
            }
        };
        let net = Ipv4Net::new(address, self.pool.prefix_len()).map_err(|e| {
            error(ErrorKind::Internal, "the pool's prefix is wrong".to_owned()).because(e)
        })?;
        let attachment = Attachment {
            sandbox: request.sandbox.clone(),
            addresses: vec![IpNet::V4(net)],
            ip: request.ip_address.as_ref().map(|_| IpAddr::V4(address)),
            fqdn: label.as_ref().map(|label| format!("{label}.fake.invalid")),
            published: Vec::new(),
            dns,
        };
        inner.attached.insert(
            request.sandbox.clone(),
            Attached {
                attachment: attachment.clone(),
                address,
                label,
                ready: false,
            },
        );
        Ok(attachment)
    }
}

#[async_trait]
impl NetworkDriver for FakeNetwork {
    fn capability(&self) -> NetworkCapability {
        NetworkCapability {
            name: "fake".to_owned(),
            addresses: true,
            publish: false,
            outbound: false,
            names: true,
            missing: vec!["This is a simulation: no packet flows.".to_owned()],
        }
    }

    async fn attach(&self, request: AttachRequest) -> Result<Attachment> {
        let body = async { self.attach_now(&request) };
        self.faults
            .run(&*self.clock, "network.attach", &request.sandbox, body)
            .await
    }

    async fn set_ready(&self, sandbox: &SandboxId, ready: bool) -> Result<()> {
        let body = async {
            if let Some(known) = lock(&self.inner).attached.get_mut(sandbox) {
                known.ready = ready;
            }
            Ok(())
        };
        self.faults
            .run(&*self.clock, "network.set_ready", sandbox, body)
            .await
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<()> {
        let body = async {
            lock(&self.inner).attached.remove(sandbox);
            Ok(())
        };
        self.faults
            .run(&*self.clock, "network.detach", sandbox, body)
            .await
    }

    async fn list(&self) -> Result<Vec<Attachment>> {
        let body = async {
            let inner = lock(&self.inner);
            Ok(inner
                .attached
                .values()
                .map(|a| a.attachment.clone())
                .collect())
        };
        self.faults
            .run(&*self.clock, "network.list", "all", body)
            .await
    }
}
