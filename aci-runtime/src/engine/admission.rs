//! Who has a place on the host, and who waits for one.

use std::collections::{BTreeMap, VecDeque};

use aci_core::error::Result;
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, OsType};
use aci_core::size::{Admission, Capacity, GroupSize, InUse, Request, Total, admit};

use super::{EngineOptions, Usage};

/// The places. All decisions are [`admit`]'s.
#[derive(Debug)]
pub(crate) struct Seats {
    capacity: Capacity,
    options: EngineOptions,
    seated: BTreeMap<GroupRef, Total>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    group: GroupRef,
    total: Total,
    os_type: OsType,
    in_virtual_network: bool,
}

impl Seats {
    pub(crate) fn new(capacity: Capacity, options: EngineOptions) -> Self {
        Self {
            capacity,
            options,
            seated: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a place: `true` if the group has it, `false` if it waits.
    ///
    /// # Errors
    /// The refusal, in ACI's words.
    pub(crate) fn enter(
        &mut self,
        group: &GroupRef,
        document: &ContainerGroup,
        options: &EngineOptions,
    ) -> Result<bool> {
        let wish = wish(group, document);
        // Its own old place is not in its way.
        let old = self.seated.remove(group);
        let ahead = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        match self.decide(&wish, ahead, options) {
            Admission::Admit => {
                self.seated.insert(wish.group, wish.total);
                Ok(true)
            }
            Admission::Queue => {
                self.waiting.push_back(wish);
                Ok(false)
            }
            Admission::Refuse(error) => {
                if let Some(old) = old {
                    self.seated.insert(group.clone(), old);
                }
                Err(error.on(group))
            }
        }
    }

    /// Seats a group that runs already.
    pub(crate) fn seat(&mut self, group: &GroupRef, document: &ContainerGroup) {
        let wish = wish(group, document);
        self.seated.insert(wish.group, wish.total);
    }

    /// Gives a place up; answers who has one now that waited before.
    pub(crate) fn leave(&mut self, group: &GroupRef) -> Vec<GroupRef> {
        self.seated.remove(group);
        self.waiting.retain(|w| w.group != *group);
        let mut admitted = Vec::new();
        // Nobody overtakes: the first that does not fit keeps the others waiting.
        while let Some(first) = self.waiting.front() {
            if !matches!(self.decide(first, 0, &self.options), Admission::Admit) {
                break;
            }
            if let Some(first) = self.waiting.pop_front() {
                admitted.push(first.group.clone());
                self.seated.insert(first.group, first.total);
            }
        }
        admitted
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            capacity: self.capacity.clone(),
            quota: self.options.quota,
            in_use: self.in_use(),
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
        }
    }

    fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for total in self.seated.values() {
            in_use.add(total);
        }
        in_use
    }

    fn decide(&self, wish: &Waiting, ahead: u32, options: &EngineOptions) -> Admission {
        admit(
            &self.capacity,
            options.quota,
            &self.in_use(),
            &Request {
                wanted: &wish.total,
                ahead,
                location: &options.location,
                os_type: &wish.os_type,
                in_virtual_network: wish.in_virtual_network,
            },
            options.when_full,
        )
    }
}

fn wish(group: &GroupRef, document: &ContainerGroup) -> Waiting {
    let properties = &document.properties;
    Waiting {
        group: group.clone(),
        // A document without a size was refused before.
        total: GroupSize::of(document)
            .map(|size| size.total)
            .unwrap_or_default(),
        os_type: properties.os_type.clone().unwrap_or_default(),
        in_virtual_network: !properties.subnet_ids.is_empty()
            || properties.network_profile.is_some(),
    }
}
