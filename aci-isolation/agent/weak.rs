//! Whether this agent has a deliberate hole: only in agents that were built for tests, see
//! `holes`.

#[cfg(feature = "weaken")]
static HOLES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// What the host asks for.
#[cfg(feature = "weaken")]
pub(crate) fn set(holes: u32) {
    HOLES.store(holes, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(not(feature = "weaken"))]
pub(crate) const fn set(_: u32) {}

/// Whether the hole is there.
#[cfg(feature = "weaken")]
pub(crate) fn is(hole: u32) -> bool {
    HOLES.load(std::sync::atomic::Ordering::Relaxed) & hole != 0
}

#[cfg(not(feature = "weaken"))]
pub(crate) const fn is(_: u32) -> bool {
    false
}
