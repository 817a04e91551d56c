//! The front's settings.

use std::time::Duration;

use aci_core::document::MAX_BYTES;
use aci_core::id::GroupRef;

/// Settings of the front.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArmOptions {
    /// The tenant, a GUID. Default: the nil GUID.
    pub tenant_id: String,
    /// The subscriptions that exist: ids, GUIDs as a rule, and names for people. Default: the nil
    /// GUID, which is also that of groups that were made without a subscription. Empty: every id is
    /// a subscription.
    pub subscriptions: Vec<(String, String)>,
    /// Where clients reach this server, such as `https://aci.example.org:8443`. Default: as each
    /// request's `Host` says it.
    pub base_url: Option<String>,
    /// Where clients get tokens. Default: this server.
    pub login_endpoint: Option<String>,
    /// The cloud's name in `/metadata/endpoints`. Default: `Local`.
    pub cloud_name: String,
    /// Whether a resource group that does not exist is made by the first resource that is put into
    /// it. Default: yes. ARM refuses with `ResourceGroupNotFound`.
    pub implicit_resource_groups: bool,
    /// Largest body of a request, in bytes. Default: 4 MiB, ARM's and the document reader's.
    pub max_body: usize,
    /// How long the body of a request may take to arrive. Default: 30 s.
    pub body_timeout: Duration,
    /// Resources in one page of a list. Default: 1,000.
    pub page: usize,
    /// What clients are told to wait between polls of an operation, in seconds. Default: 1.
    pub retry_after: u64,
    /// How long a deletion is waited for before `202` is answered and the client polls. Default: 20 s.
    pub delete_patience: Duration,
    /// Requests that one subscription may make.
    pub rates: Rates,
    /// How often running groups are measured for their metrics. Default: 15 s. `None`: never.
    pub measure_every: Option<Duration>,
}

impl Default for ArmOptions {
    fn default() -> Self {
        Self {
            tenant_id: GroupRef::DEFAULT_SUBSCRIPTION.to_owned(),
            subscriptions: vec![(
                GroupRef::DEFAULT_SUBSCRIPTION.to_owned(),
                "local".to_owned(),
            )],
            base_url: None,
            login_endpoint: None,
            cloud_name: "Local".to_owned(),
            implicit_resource_groups: true,
            max_body: MAX_BYTES,
            body_timeout: Duration::from_secs(30),
            page: 1_000,
            retry_after: 1,
            delete_patience: Duration::from_secs(20),
            rates: Rates::default(),
            measure_every: Some(Duration::from_secs(15)),
        }
    }
}

/// How often one subscription may ask. Beyond it the answer is 429 with `Retry-After`; what is left
/// is told in `x-ms-ratelimit-remaining-subscription-...` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// GET and HEAD in an hour.
    pub reads: u32,
    /// All others in an hour.
    pub writes: u32,
    /// Creations and deletions of container groups in 5 minutes.
    pub groups_5m: u32,
    /// Creations and deletions of container groups in an hour.
    pub groups_1h: u32,
}

impl Rates {
    /// Azure's: 12,000 reads and 1,200 writes an hour; 100 creations and deletions of container
    /// groups in 5 minutes and 300 an hour.
    pub const AZURE: Self = Self {
        reads: 12_000,
        writes: 1_200,
        groups_5m: 100,
        groups_1h: 300,
    };
}

impl Default for Rates {
    /// A thousand times Azure's, which are made for many tenants and not for one machine.
    fn default() -> Self {
        let Self {
            reads,
            writes,
            groups_5m,
            groups_1h,
        } = Self::AZURE;
        Self {
            reads: reads * 1_000,
            writes: writes * 1_000,
            groups_5m: groups_5m * 1_000,
            groups_1h: groups_1h * 1_000,
        }
    }
}
