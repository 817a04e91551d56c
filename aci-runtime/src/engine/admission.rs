//! Who has a place on the host, and who waits for one.

use std::collections::{BTreeMap, VecDeque};

use aci_core::error::{Error, ErrorKind, Result};
use aci_core::id::GroupRef;
use aci_core::model::{ContainerGroup, OsType};
use aci_core::size::{Admission, Capacity, GroupSize, InUse, Request, Total, admit};

use super::{EngineOptions, Usage, meter};

/// The places. All decisions are [`admit`]'s.
///
/// Each group has one entry at most: a seat, or a place in the queue.
#[derive(Debug)]
pub(crate) struct Seats {
    capacity: Capacity,
    options: EngineOptions,
    seated: BTreeMap<GroupRef, Total>,
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Debug)]
struct Waiting {
    group: GroupRef,
    total: Total,
    os_type: OsType,
    in_virtual_network: bool,
}

/// What a group had before it asked, to give it back if the wish comes to nothing.
#[derive(Debug)]
pub(crate) struct Before(Place);

#[derive(Debug)]
enum Place {
    None,
    Seat(Total),
    Queue(usize, Waiting),
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

    /// Asks for a place: `true` if the group has it, `false` if it waits. A group that has a place
    /// in the queue already keeps it. When the wish is certain, [`Seats::admit_waiting`] is due: it
    /// may be smaller than the one before.
    ///
    /// # Errors
    /// The refusal, in ACI's words; everything is as before then.
    pub(crate) fn enter(
        &mut self,
        group: &GroupRef,
        document: &ContainerGroup,
    ) -> Result<(bool, Before)> {
        let wish = wish(group, document);
        let queued = self.waiting.iter().position(|w| w.group == *group);
        // Its own old place is not in its way, and who has one needs not stand in line.
        let seat = self.seated.remove(group);
        let ahead = match &seat {
            Some(_) => 0,
            None => queued.unwrap_or(self.waiting.len()),
        };
        let decision = self.decide(&wish, u32::try_from(ahead).unwrap_or(u32::MAX));
        meter::admission(&decision);
        let before = match (queued, &seat) {
            (Some(at), _) => Place::Queue(at, self.waiting[at].clone()),
            (None, Some(total)) => Place::Seat(total.clone()),
            (None, None) => Place::None,
        };
        let admitted = match decision {
            Admission::Admit => {
                self.waiting.retain(|w| w.group != *group);
                self.seated.insert(wish.group, wish.total);
                true
            }
            Admission::Queue if seat.is_some() => {
                if let Some(seat) = seat {
                    self.seated.insert(group.clone(), seat);
                }
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    "group.admit",
                    "the group is still coming down and there is no room for it at another size",
                )
                .on(group)
                .code("ServiceUnavailable")
                .hint("try again when it is stopped; it may wait then"));
            }
            Admission::Queue => {
                match queued {
                    Some(at) => self.waiting[at] = wish,
                    None => self.waiting.push_back(wish),
                }
                false
            }
            Admission::Refuse(error) => {
                if let Some(seat) = seat {
                    self.seated.insert(group.clone(), seat);
                }
                return Err(error.on(group));
            }
        };
        self.meter();
        Ok((admitted, Before(before)))
    }

    /// Gives a group what it had before [`Seats::enter`]; answers who is admitted by that.
    pub(crate) fn put_back(&mut self, group: &GroupRef, before: Before) -> Vec<GroupRef> {
        self.drop_out(group);
        match before.0 {
            Place::None => {}
            Place::Seat(total) => {
                self.seated.insert(group.clone(), total);
            }
            Place::Queue(at, wish) => {
                self.waiting.insert(at.min(self.waiting.len()), wish);
            }
        }
        self.admit_waiting()
    }

    /// Seats a group that runs already.
    pub(crate) fn seat(&mut self, group: &GroupRef, document: &ContainerGroup) {
        let wish = wish(group, document);
        self.seated.insert(wish.group, wish.total);
        self.meter();
    }

    /// Puts a group that was accepted earlier at the end of the queue, whatever its length.
    pub(crate) fn queue(&mut self, group: &GroupRef, document: &ContainerGroup) {
        self.drop_out(group);
        self.waiting.push_back(wish(group, document));
        self.meter();
    }

    pub(crate) fn is_seated(&self, group: &GroupRef) -> bool {
        self.seated.contains_key(group)
    }

    /// Gives a place up; answers who has one now that waited before.
    pub(crate) fn leave(&mut self, group: &GroupRef) -> Vec<GroupRef> {
        self.drop_out(group);
        self.admit_waiting()
    }

    /// Lets in whoever fits now. Nobody overtakes: the first that does not fit keeps the others
    /// waiting.
    pub(crate) fn admit_waiting(&mut self) -> Vec<GroupRef> {
        let mut admitted = Vec::new();
        while let Some(first) = self.waiting.front() {
            if !matches!(self.decide(first, 0), Admission::Admit) {
                break;
            }
            if let Some(first) = self.waiting.pop_front() {
                admitted.push(first.group.clone());
                self.seated.insert(first.group, first.total);
            }
        }
        self.meter();
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

    fn drop_out(&mut self, group: &GroupRef) {
        self.seated.remove(group);
        self.waiting.retain(|w| w.group != *group);
    }

    fn meter(&self) {
        meter::queue(self.waiting.len());
    }

    fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for total in self.seated.values() {
            in_use.add(total);
        }
        in_use
    }

    fn decide(&self, wish: &Waiting, ahead: u32) -> Admission {
        admit(
            &self.capacity,
            self.options.quota,
            &self.in_use(),
            &Request {
                wanted: &wish.total,
                ahead,
                location: &self.options.location,
                os_type: &wish.os_type,
                in_virtual_network: wish.in_virtual_network,
            },
            self.options.when_full,
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

#[cfg(test)]
mod tests {
    use super::*;
    use aci_core::size::{Cpu, Memory, WhenFull};
    use proptest::prelude::*;

    fn document(cpu: u32) -> ContainerGroup {
        let text = format!(
            "name: x\nproperties:\n  osType: Linux\n  containers:\n  - name: a\n    properties: {{image: i, resources: {{requests: {{cpu: {cpu}, memoryInGB: 1}}}}}}\n"
        );
        ContainerGroup::from_yaml(&text).unwrap()
    }

    fn seats(longest: u32) -> Seats {
        let capacity = Capacity {
            cpu: Cpu::from_whole_cores(4),
            memory: Memory::from_whole_gb(64),
            gpus: Vec::new(),
        };
        let options = EngineOptions {
            when_full: WhenFull::Queue { longest },
            ..Default::default()
        };
        Seats::new(capacity, options)
    }

    #[test]
    fn a_group_that_asks_again_keeps_its_place_in_the_queue() {
        let mut seats = seats(2);
        let [a, b, c] = ["a", "b", "c"].map(GroupRef::from);
        assert!(seats.enter(&a, &document(4)).unwrap().0);
        assert!(!seats.enter(&b, &document(2)).unwrap().0);
        assert!(!seats.enter(&c, &document(2)).unwrap().0);
        assert!(!seats.enter(&b, &document(3)).unwrap().0);
        assert_eq!(seats.usage().waiting, 2);
        assert_eq!(seats.leave(&a), std::slice::from_ref(&b));
        assert_eq!(seats.leave(&b), [c]);
    }

    #[test]
    fn a_wish_that_came_to_nothing_is_taken_back() {
        let mut seats = seats(2);
        let [a, b] = ["a", "b"].map(GroupRef::from);
        seats.enter(&a, &document(4)).unwrap();
        let (admitted, before) = seats.enter(&b, &document(1)).unwrap();
        assert!(!admitted);
        seats.put_back(&b, before);
        assert_eq!(seats.usage().waiting, 0);
        // One that shrinks and then does not is as large as before.
        let (_, before) = seats.enter(&a, &document(1)).unwrap();
        seats.put_back(&a, before);
        assert_eq!(seats.usage().in_use.total.cpu, Cpu::from_whole_cores(4));
    }

    proptest! {
        #[test]
        fn nobody_sits_twice_and_the_host_is_never_overfull(
            steps in proptest::collection::vec((0u8..4, 0usize..5, 1u32..6), 0..60)
        ) {
            let mut seats = seats(3);
            let names: Vec<GroupRef> = (0..5).map(|i| GroupRef::from(&format!("g{i}"))).collect();
            for (what, who, cpu) in steps {
                let group = &names[who];
                match what {
                    0 => {
                        let _ = seats.enter(group, &document(cpu));
                        seats.admit_waiting();
                    }
                    1 => {
                        let was = (seats.in_use(), seats.waiting.len());
                        if let Ok((_, before)) = seats.enter(group, &document(cpu)) {
                            seats.put_back(group, before);
                        }
                        prop_assert_eq!(was, (seats.in_use(), seats.waiting.len()));
                    }
                    _ => { seats.leave(group); }
                }
                let usage = seats.usage();
                prop_assert!(usage.in_use.total.cpu <= Cpu::from_whole_cores(4));
                for group in &names {
                    let queued = seats.waiting.iter().filter(|w| w.group == *group).count();
                    prop_assert!(queued + usize::from(seats.is_seated(group)) <= 1);
                }
                if let Some(first) = seats.waiting.front() {
                    prop_assert!(!matches!(seats.decide(first, 0), Admission::Admit), "somebody waits in vain");
                }
            }
        }
    }
}
