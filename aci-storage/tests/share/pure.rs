//! The share server's decisions: nodes and locks, against simple models of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::fs::belief::{Absent, Advice};
use crate::fs::locks::{Locks, Range};
use crate::fs::nodes::{Nodes, ROOT};
use crate::fs::{locks, names};
use crate::smb::ops::Locking;

/// A byte and who holds it how, for each of a small file.
type Model = BTreeMap<(u64, u64), bool>;

#[derive(Clone, Debug)]
struct Step {
    owner: u64,
    handle: u64,
    range: Range,
    locking: Locking,
}

fn step() -> impl Strategy<Value = Step> {
    let locking = prop_oneof![
        Just(Locking::Shared),
        Just(Locking::Exclusive),
        Just(Locking::Unlock)
    ];
    (0..3_u64, 0..3_u64, 0..20_u64, 0..8_u64, locking).prop_map(
        |(owner, handle, start, more, locking)| Step {
            owner,
            handle,
            range: Range {
                start,
                end: start + more,
            },
            locking,
        },
    )
}

proptest! {
    /// Byte by byte, an owner holds what POSIX says, and what the server is asked for is the
    /// difference.
    #[test]
    fn locks_merge_and_split_as_posix_has_it(steps in prop::collection::vec(step(), 1..60)) {
        let mut all = Locks::default();
        let mut model = Model::new();
        let mut server: Vec<locks::Held> = Vec::new();
        for Step { owner, handle, range, locking } in steps {
            let bytes = range.start..=range.end;
            let exclusive = locking == Locking::Exclusive;
            let taken = model.iter().any(|(&(who, byte), &hard)| {
                who != owner && bytes.contains(&byte) && (hard || exclusive)
            });
            let conflict = all.conflict(owner, range, exclusive).is_some();
            prop_assert_eq!(conflict, taken);
            if taken && locking != Locking::Unlock {
                continue;
            }
            let after = all.after(owner, range, locking, handle);
            let change = all.change(owner, &after);
            for held in &change.unlock {
                let at = server.iter().position(|h| h == held);
                prop_assert!(at.is_some(), "unlocked what was not held: {:?}", held);
                server.remove(at.unwrap());
            }
            server.extend(&change.lock);
            all.set(owner, after);
            for byte in bytes {
                model.remove(&(owner, byte));
                if locking != Locking::Unlock {
                    model.insert((owner, byte), exclusive);
                }
            }
            let mut held = Model::new();
            for owner in 0..3 {
                for byte in 0..30 {
                    let one = Range { start: byte, end: byte };
                    // Nobody else is asked about: what stands against a stranger is held.
                    if let Some(lock) = all.after(owner, Range { start: 100, end: 100 }, Locking::Unlock, 0)
                        .iter().find(|h| h.range.start <= one.start && one.end <= h.range.end)
                    {
                        held.insert((owner, byte), lock.exclusive);
                    }
                }
            }
            prop_assert_eq!(&held, &model);
            let through: usize = (0..3).map(|h| all.through(h).len()).sum();
            prop_assert_eq!(through, server.len());
        }
    }

    /// Names that Linux allows come back as they went out, and what goes out is allowed by SMB.
    #[test]
    fn names_come_back(name in "[^/\0\u{F001}-\u{F029}]{1,60}") {
        prop_assume!(name != "." && name != "..");
        let out = names::to_server(name.as_ref()).unwrap();
        prop_assert!(!out.contains(['"', '*', ':', '<', '>', '?', '\\', '|', '/']), "{:?}", out);
        prop_assert!(!out.ends_with([' ', '.']), "{:?}", out);
        let back = names::from_server(&out);
        prop_assert_eq!(back.as_deref(), Some(name.as_str()));
    }
}

#[test]
fn a_lock_to_the_end_of_the_file_has_a_length_that_fits() {
    let all = Range {
        start: 0,
        end: u64::MAX,
    };
    assert_eq!(all.extent(), (0, u64::MAX));
    assert_eq!(Range { start: 3, end: 3 }.extent(), (3, 1));
}

#[test]
fn paths_follow_renames_of_what_is_above_and_forgotten_nodes_go() {
    let mut nodes = Nodes::new();
    let a = nodes.find(ROOT, "a");
    let b = nodes.find(a, "b");
    let c = nodes.find(b, "c");
    assert_eq!(nodes.path(c).as_deref(), Some(r"a\b\c"));
    nodes.moved((ROOT, "a"), (ROOT, "z"));
    assert_eq!(nodes.path(c).as_deref(), Some(r"z\b\c"));
    assert_eq!(nodes.below(ROOT, "x").as_deref(), Some("x"));
    // Replaced by another file: the old node's name stands for the new one.
    let d = nodes.find(b, "d");
    nodes.moved((b, "d"), (b, "c"));
    assert_eq!(nodes.known(b, "c"), Some(d));
    nodes.forget(d, 1);
    assert_eq!(nodes.known(b, "c"), None);
    // Deleted while open: hidden until the last descriptor is closed.
    let e = nodes.find(ROOT, "e");
    nodes.opened(e);
    nodes.opened(e);
    nodes.hide(ROOT, "e", "hidden");
    assert_eq!(nodes.known(ROOT, "e"), None);
    nodes.forget(e, 1);
    assert_eq!(nodes.closed(e), None);
    assert!(nodes.has_hidden(ROOT));
    assert_eq!(nodes.closed(e).as_deref(), Some("hidden"));
    nodes.unhide(e);
    assert!(!nodes.has_hidden(ROOT));
    assert_eq!(nodes.path(e), None);
}

#[test]
fn a_name_is_known_not_to_be_there_only_after_a_listing_and_only_for_a_while() {
    let (begin, belief) = (Instant::now(), Duration::from_secs(1));
    let mut absent = Absent::default();
    for _ in 0..3 {
        assert_eq!(absent.missed(7, begin, belief), Advice::Nothing);
        assert!(!absent.knows(7, "x", begin, belief));
    }
    assert_eq!(absent.missed(7, begin, belief), Advice::List);
    // One listing at a time; what is made meanwhile may not be in it.
    assert_eq!(absent.missed(7, begin, belief), Advice::Nothing);
    absent.made(7, "Made");
    absent.listed(7, Some(["There", "also"].into_iter()));
    let soon = begin + Duration::from_millis(900);
    assert!(absent.knows(7, "x", soon, belief));
    for there in ["there", "ALSO", "made", "LONGNA~1"] {
        assert!(!absent.knows(7, there, soon, belief), "{there}");
    }
    assert!(!absent.knows(8, "x", soon, belief), "another directory");
    let late = begin + belief;
    assert!(!absent.knows(7, "x", late, belief));
    // It was worth it: listed again at the first miss.
    assert_eq!(absent.missed(7, late, belief), Advice::List);
    absent.listed(7, None::<std::iter::Empty<&str>>);
    assert!(!absent.knows(7, "x", late, belief));
    // Nothing is believed, or the directory is too large.
    assert_eq!(absent.missed(9, late, Duration::ZERO), Advice::Nothing);
    for _ in 0..3 {
        let _ = absent.missed(9, late, belief);
    }
    assert_eq!(absent.missed(9, late, belief), Advice::List);
    let many: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
    absent.listed(9, Some(many.iter().map(String::as_str)));
    assert!(!absent.knows(9, "x", late, belief));
}
