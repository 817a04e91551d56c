//! Which of the host's user ids the user namespace of each sandbox gets: a range of its own.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aci_core::id::SandboxId;

/// As many ids as images use by themselves: 0 to 65535.
pub(crate) const COUNT: u32 = 65_536;

/// The file of a sandbox's directory that names its first id and how many they are.
const FILE: &str = "users";

/// The ranges that this program's sandboxes have.
#[derive(Debug)]
pub(crate) struct Ranges {
    first: u32,
    slots: u32,
    /// How many ids a sandbox gets.
    count: u32,
    /// By their first id; sandboxes that another program made may have more or fewer.
    taken: Mutex<BTreeMap<u32, (u32, SandboxId)>>,
}

impl Ranges {
    /// Divides `ids` and sees what the sandboxes of a state directory have of it.
    pub(crate) fn new(ids: &Range<u32>, count: u32, state: &Path) -> Self {
        let mut taken = BTreeMap::new();
        for entry in fs::read_dir(state).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path().join(FILE)).unwrap_or_default();
            let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
            let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
            if let (Some(first), Some(id)) = (numbers.next(), id) {
                taken.insert(first, (numbers.next().unwrap_or(COUNT), id));
            }
        }
        Self {
            first: ids.start,
            slots: ids.end.saturating_sub(ids.start) / count.max(1),
            count,
            taken: Mutex::new(taken),
        }
    }

    /// How many ids a sandbox gets.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The first id of a range for a sandbox: decided by its id, so that several programs hardly
    /// ever choose the same, and by what is taken. `None` if all are.
    pub(crate) fn take(&self, id: &SandboxId) -> Option<u32> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let start = u32::try_from(hasher.finish() % u64::from(self.slots.max(1))).unwrap_or(0);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |first: &u32| {
            let before = taken.range(..first.saturating_add(self.count)).next_back();
            before.is_none_or(|(theirs, (count, _))| theirs.saturating_add(*count) <= *first)
        };
        let first = (0..self.slots)
            .map(|step| (start + step) % self.slots)
            .map(|slot| self.first + slot * self.count)
            .find(free)?;
        taken.insert(first, (self.count, id.clone()));
        Some(first)
    }

    /// Records the choice beside the sandbox.
    pub(crate) fn record(directory: &Path, first: u32, count: u32) -> std::io::Result<()> {
        fs::write(directory.join(FILE), format!("{first} {count}\n"))
    }

    /// The first id of the sandbox of a directory; `None` if it has no range.
    #[cfg(feature = "microvm")]
    pub(crate) fn recorded(directory: &Path) -> Option<u32> {
        let text = fs::read_to_string(directory.join(FILE)).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// Makes one sandbox's range another's.
    pub(crate) fn hand_over(&self, from: &SandboxId, to: &SandboxId) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, owner) in taken.values_mut().filter(|(_, owner)| owner == from) {
            *owner = to.clone();
        }
    }

    /// Gives a sandbox's range back.
    pub(crate) fn release(&self, id: &SandboxId) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, (_, owner)| owner != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_are_known_again() {
        let state = tempfile::tempdir().unwrap();
        let ids = 600_000..600_000 + 3 * COUNT;
        let ranges = Ranges::new(&ids, COUNT, state.path());
        let sandboxes: Vec<_> = (0..4).map(|_| SandboxId::generate("web")).collect();
        let mut firsts = Vec::new();
        for id in &sandboxes[..3] {
            let first = ranges.take(id).unwrap();
            assert!(ids.contains(&first) && ids.contains(&(first + COUNT - 1)));
            fs::create_dir(state.path().join(id.as_str())).unwrap();
            Ranges::record(&state.path().join(id.as_str()), first, COUNT).unwrap();
            firsts.push(first);
        }
        firsts.sort_unstable();
        assert!(firsts.windows(2).all(|two| two[1] - two[0] >= COUNT));
        assert_eq!(ranges.take(&sandboxes[3]), None);
        ranges.release(&sandboxes[0]);
        assert!(ranges.take(&sandboxes[3]).is_some());
        assert_eq!(
            Ranges::new(&ids, COUNT, state.path()).take(&sandboxes[3]),
            None
        );
    }

    /// A program that gives more ids than the one before it must not run into that one's sandboxes,
    /// of which an older version recorded the first id only.
    #[test]
    fn ranges_of_another_size_are_not_run_into() {
        let state = tempfile::tempdir().unwrap();
        let ids = 600_000..600_000 + 4 * COUNT;
        let older = SandboxId::generate("older");
        fs::create_dir(state.path().join(older.as_str())).unwrap();
        fs::write(
            state.path().join(older.as_str()).join(FILE),
            format!("{}\n", 600_000 + COUNT),
        )
        .unwrap();
        let wide = Ranges::new(&ids, 2 * COUNT, state.path());
        let id = SandboxId::generate("wide");
        assert_eq!(wide.take(&id), Some(600_000 + 2 * COUNT));
        assert_eq!(wide.take(&SandboxId::generate("none")), None);
        wide.release(&older);
        assert_eq!(wide.take(&SandboxId::generate("more")), Some(600_000));
    }
}
