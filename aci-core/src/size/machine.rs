//! What [`Limits`] mean to a virtual machine.

use super::Limits;

/// The size of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineSize {
    /// Virtual CPUs; at least one.
    pub vcpus: u32,
    /// Memory in MiB, the guest's own needs included.
    pub memory_mib: u64,
}

const MIB: u64 = 1 << 20;

/// The machine that can hold a group of these limits; `None` where CPU or memory is unbounded,
/// because a machine has a size.
///
/// CPU is rounded up to whole virtual CPUs (the exact bound is set inside by [`cgroup_v2`]), memory
/// up to whole MiB, and `overhead_mib` is added for the guest's kernel and supervisor, so that the
/// containers get all that they asked for.
///
/// [`cgroup_v2`]: super::cgroup_v2
#[must_use]
pub fn machine_size(limits: &Limits, overhead_mib: u64) -> Option<MachineSize> {
    Some(MachineSize {
        vcpus: limits.cpu_max?.div_ceil(100).max(1),
        memory_mib: limits
            .memory_max?
            .div_ceil(MIB)
            .saturating_add(overhead_mib),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_and_memory_are_rounded_up() {
        let limits = Limits {
            cpu_max: Some(101),
            memory_max: Some((1 << 30) + 1),
            ..Limits::default()
        };
        let size = machine_size(&limits, 64).unwrap();
        assert_eq!((size.vcpus, size.memory_mib), (2, 1024 + 1 + 64));
        assert_eq!(machine_size(&Limits::default(), 64), None);
    }

    proptest! {
        #[test]
        fn the_machine_holds_the_limits(cpu in 0u32.., memory in 0u64.., overhead in 0u64..1 << 20) {
            let limits = Limits { cpu_max: Some(cpu), memory_max: Some(memory), ..Limits::default() };
            let size = machine_size(&limits, overhead).unwrap();
            prop_assert!(u64::from(size.vcpus) * 100 >= u64::from(cpu) && size.vcpus >= 1);
            prop_assert!(u128::from(size.memory_mib - overhead) * u128::from(MIB) >= u128::from(memory));
        }
    }
}
