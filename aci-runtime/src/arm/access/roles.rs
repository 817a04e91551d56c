//! What somebody may do: read or write, in a subscription or a resource group.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::super::auth::{Access, Need, Principal};

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// To see: groups, logs, metrics, usages. Secrets are in no answer.
    Reader,
    /// To see, change and act: create, delete, stop, exec, attach.
    Contributor,
}

/// One principal's role in a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The principal's id.
    pub principal: String,
    /// What it may do.
    pub role: Role,
    /// In this subscription; `None`: in all.
    pub subscription: Option<String>,
    /// In this resource group; `None`: in all of the subscription.
    pub resource_group: Option<String>,
}

impl Grant {
    /// A role in all subscriptions.
    pub fn everywhere(principal: impl Into<String>, role: Role) -> Self {
        Self {
            principal: principal.into(),
            role,
            subscription: None,
            resource_group: None,
        }
    }

    /// A role in one subscription.
    pub fn in_subscription(
        principal: impl Into<String>,
        role: Role,
        subscription: impl Into<String>,
    ) -> Self {
        Self {
            subscription: Some(subscription.into()),
            ..Self::everywhere(principal, role)
        }
    }

    /// A role in one resource group.
    pub fn in_resource_group(
        principal: impl Into<String>,
        role: Role,
        subscription: impl Into<String>,
        resource_group: impl Into<String>,
    ) -> Self {
        Self {
            resource_group: Some(resource_group.into()),
            ..Self::in_subscription(principal, role, subscription)
        }
    }

    fn covers(&self, access: &Access<'_>) -> bool {
        match (&self.subscription, access.subscription) {
            (None, _) => true,
            // What belongs to no subscription (the list of operations, of subscriptions) is seen by
            // everybody who may see anything.
            (Some(_), None) => access.need != Need::Write,
            (Some(own), Some(asked)) if own.eq_ignore_ascii_case(asked) => {
                match (&self.resource_group, access.resource_group) {
                    (None, _) => true,
                    (Some(own), Some(asked)) => own.eq_ignore_ascii_case(asked),
                    (Some(_), None) => false,
                }
            }
            (Some(_), Some(_)) => false,
        }
    }
}

/// Decides what a known principal may do.
pub trait Roles: Send + Sync + fmt::Debug {
    /// Whether it may.
    fn allows(&self, principal: &Principal, access: &Access<'_>) -> bool;
}

/// Grants in memory, which can be replaced while they are used.
#[derive(Debug, Default)]
pub struct RoleTable(RwLock<Vec<Grant>>);

impl RoleTable {
    /// A table of grants.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        Self(RwLock::new(grants.into_iter().collect()))
    }

    /// Puts other grants in the place of all.
    pub fn replace(&self, grants: impl IntoIterator<Item = Grant>) {
        let grants = grants.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = grants;
    }
}

impl Roles for RoleTable {
    fn allows(&self, principal: &Principal, access: &Access<'_>) -> bool {
        let needed = match access.need {
            Need::Open => return true,
            Need::Read => Role::Reader,
            Need::Write => Role::Contributor,
        };
        let grants = self.0.read().unwrap_or_else(PoisonError::into_inner);
        grants.iter().any(|grant| {
            grant.principal == principal.id && grant.role >= needed && grant.covers(access)
        })
    }
}

impl<T: Roles + ?Sized> Roles for std::sync::Arc<T> {
    fn allows(&self, principal: &Principal, access: &Access<'_>) -> bool {
        (**self).allows(principal, access)
    }
}
