//! Whether a document is valid: every problem at once, with ACI's codes and wording.
//!
//! [`validate`] judges a [`ContainerGroup`] by [`Rules`] and returns a [`Report`]: problems, for
//! which ACI (or any engine) refuses the document, and warnings, for what has no effect or will
//! probably fail later. Every problem has a JSON path; a document's
//! [`SourceMap`](crate::document::SourceMap) turns paths into lines and columns, which
//! [`validate_document`] does for everything that was read from a text.
//!
//! [`CODES`] lists every code: those of the service, those that follow its pattern where ACI has the
//! rule and its code is not known, and a few of our own. Values stand in messages, secrets never do.
//!
//! ```
//! use aci_core::model::ContainerGroup;
//! use aci_core::validate::{Rules, validate};
//!
//! let report = validate(&ContainerGroup::default(), &Rules::default());
//! let codes: Vec<&str> = report.problems.iter().map(|p| p.code.as_str()).collect();
//! assert_eq!(codes, ["InvalidOsType", "MissingContainers"]);
//! ```
//!
//! Some rules are softer here than in ACI's documents, because the service itself is, or because
//! one's own machine can do better; each is a warning by default:
//! - a group below 1 core or 1 GB, and ports that ACI documents as reserved ([`Rules`] can refuse both);
//! - capital letters in the group's name; a registry's port; GPUs, which ACI has retired.

mod check;
mod codes;
mod containers;
mod document;
mod environment;
mod image;
mod mounts;
mod network;
mod platform;
mod ports;
mod probes;
mod profile;
mod references;
mod registry;
mod resource;
mod resources;
mod rules;
mod security;
#[cfg(test)]
mod tests;
mod version;
mod volumes;

pub use codes::{CODES, Code, Origin};
pub use document::validate_document;
pub use profile::validate_profile;
pub use rules::{DocumentKind, MaxSize, Rules, Severity};

use crate::error::{Error, Problem, Result};
use crate::model::ContainerGroup;

use check::Check;

/// What is wrong with a document, and what is odd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Reasons to refuse it.
    pub problems: Vec<Problem>,
    /// What has no effect, or is accepted and will probably fail later.
    pub warnings: Vec<Problem>,
}

impl Report {
    /// Whether the document can be run.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// The warnings, if there is no problem.
    ///
    /// # Errors
    /// Kind [`Invalid`](crate::error::ErrorKind::Invalid) with all problems; the code is the first
    /// problem's.
    pub fn into_result(self) -> Result<Vec<Problem>> {
        if self.problems.is_empty() {
            Ok(self.warnings)
        } else {
            Err(Error::from_problems("group.validate", self.problems))
        }
    }
}

/// Judges a container group by the rules; every problem is reported.
///
/// It never panics, whatever the group holds, and takes time in proportion to the group's size.
#[must_use]
pub fn validate(group: &ContainerGroup, rules: &Rules) -> Report {
    let mut check = Check::new(group, rules);
    resource::check(&mut check);
    platform::check(&mut check);
    containers::check(&mut check);
    environment::check(&mut check);
    resources::check(&mut check);
    ports::check(&mut check);
    network::check(&mut check);
    probes::check(&mut check);
    volumes::check(&mut check);
    mounts::check(&mut check);
    registry::check(&mut check);
    references::check(&mut check);
    security::check(&mut check);
    version::check(&mut check);
    Report {
        problems: check.problems,
        warnings: check.warnings,
    }
}
