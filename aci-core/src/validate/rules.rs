//! By which rules a document is judged.

use crate::model::{ApiVersion, Sku};
use crate::size::{Cpu, Memory};

/// What the document is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DocumentKind {
    /// A request, a file or a template: secrets have to be there.
    #[default]
    Request,
    /// A reply of the service: secrets are left out.
    Reply,
    /// A container group profile: the group made from it adds networks, identities and secret
    /// references. [`validate_profile`](super::validate_profile) sets this.
    Profile,
}

/// How strict a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Breaking it is a problem.
    Refuse,
    /// Breaking it is a warning.
    Warn,
}

/// The largest group of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxSize {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

impl MaxSize {
    const fn new(cores: u32, gb: u32) -> Self {
        Self {
            cpu: Cpu::from_whole_cores(cores),
            memory: Memory::from_whole_gb(gb),
        }
    }
}

/// The rules. The default is ACI's, for the newest api-version.
///
/// Build with `Rules { .., ..Rules::default() }`; later versions add fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The api-version of the request. Properties that it does not know are warnings, and identities
    /// in registry credentials are refused before 2021-07-01.
    pub api_version: ApiVersion,
    /// What the document is.
    pub kind: DocumentKind,
    /// Whether the group's name may be absent because the request's address has it.
    pub name_may_be_absent: bool,
    /// The region's name in messages where the document has none.
    pub location: String,
    /// The largest standard or dedicated group: 31 cores, 240 GB.
    pub max_standard: MaxSize,
    /// The largest confidential group: 31 cores, 180 GB.
    pub max_confidential: MaxSize,
    /// The largest spot group: 4 cores, 16 GB.
    pub max_spot: MaxSize,
    /// What a group below ACI's documented minimum is. The service runs smaller groups too, hence a
    /// warning by default.
    pub below_minimum: Severity,
    /// The documented minimum of a group: 1 core, 1 GB.
    pub minimum: MaxSize,
    /// Ports that ACI documents as reserved, as inclusive ranges.
    pub reserved_ports: Vec<(u16, u16)>,
    /// What using one of them is. ACI's own samples publish port 22, hence a warning by default.
    pub reserved_port_use: Severity,
    /// Whether confidential groups can be had.
    pub confidential: bool,
    /// Whether GPUs can be had. ACI retired them on 2025-07-14; asking for them is a warning.
    pub gpus_retired: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            api_version: ApiVersion::LATEST,
            kind: DocumentKind::Request,
            name_may_be_absent: true,
            location: "local".to_owned(),
            max_standard: MaxSize::new(31, 240),
            max_confidential: MaxSize::new(31, 180),
            max_spot: MaxSize::new(4, 16),
            below_minimum: Severity::Warn,
            minimum: MaxSize::new(1, 1),
            reserved_ports: vec![
                (22, 22),
                (1025, 1027),
                (3389, 3399),
                (9999, 9999),
                (19000, 19000),
                (19080, 19080),
                (19100, 19100),
                (19390, 19390),
                (20000, 30000),
                (49152, 65534),
            ],
            reserved_port_use: Severity::Warn,
            confidential: true,
            gpus_retired: true,
        }
    }
}

impl Rules {
    /// Rules for a reply of the service, where secrets are left out.
    #[must_use]
    pub fn for_reply() -> Self {
        Self {
            kind: DocumentKind::Reply,
            ..Self::default()
        }
    }

    /// The rules for a document of this api-version.
    #[must_use]
    pub fn at(mut self, api_version: ApiVersion) -> Self {
        self.api_version = api_version;
        self
    }

    pub(super) fn max_size(&self, sku: Option<&Sku>, spot: bool) -> MaxSize {
        match sku {
            _ if spot => self.max_spot,
            Some(Sku::Confidential) => self.max_confidential,
            _ => self.max_standard,
        }
    }

    pub(super) fn is_reserved(&self, port: u16) -> bool {
        let mut ranges = self.reserved_ports.iter();
        ranges.any(|(from, to)| (*from..=*to).contains(&port))
    }
}
