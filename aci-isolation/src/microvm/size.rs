//! How large a machine is for a group: pure arithmetic.

use aci_core::size::Limits;

/// What a guest's kernel and agent need besides the containers, in MiB: 64 for kernel, initramfs
/// and agent, and 1 in 64 for the tables of all memory (`struct page`: 64 bytes a page of 4096).
const BASE_MIB: u64 = 64;
/// The memory of a group that asks for none, in MiB.
const DEFAULT_MIB: u64 = 512;
/// More is taken for a mistake, in MiB.
const MAX_MIB: u64 = 4 << 20;

/// Processors and memory of the machine for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
}

/// Whole processors for what may be used at most (fractions are held by the cgroup of the
/// monitor), memory for what may be used at most and the guest's own.
pub(crate) fn of(limits: &Limits, host_cpus: u32) -> Size {
    let hundredths = limits.cpu_max.or(limits.cpu_request).unwrap_or(100);
    let bytes = limits.memory_max.or(limits.memory_request);
    let wanted = bytes.map_or(DEFAULT_MIB, |bytes| bytes.div_ceil(1 << 20));
    let wanted = wanted.clamp(16, MAX_MIB);
    let memory = wanted + wanted.div_ceil(64) + BASE_MIB;
    Size {
        cpus: hundredths.div_ceil(100).clamp(1, host_cpus.max(1)),
        memory_mib: u32::try_from(memory).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(cpu: Option<u32>, memory: Option<u64>) -> (u32, u32) {
        let limits = Limits {
            cpu_max: cpu,
            memory_max: memory,
            ..Limits::default()
        };
        let size = of(&limits, 4);
        (size.cpus, size.memory_mib)
    }

    #[test]
    fn the_guests_own_comes_on_top() {
        assert_eq!(size(None, None), (1, 512 + 8 + 64));
        assert_eq!(size(Some(150), Some(1 << 30)), (2, 1024 + 16 + 64));
        assert_eq!(size(Some(1), Some(1)), (1, 16 + 1 + 64));
        assert_eq!(size(Some(6400), Some(u64::MAX)).0, 4);
    }
}
