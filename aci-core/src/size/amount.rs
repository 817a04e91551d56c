//! Exact amounts: CPU in hundredths of a core, memory in tenths of a GB, GPUs by count and kind.
//!
//! Documents carry floating-point numbers. ACI counts CPU in steps of 0.01 core and memory in
//! steps of 0.1 GB (the connector between Kubernetes and ACI states both), so integers hold every
//! size exactly and sums never drift.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

use crate::model::{GpuResource, GpuSku};

/// Bytes of one GB.
///
/// ACI's reference says "GB" and no more. Here it is 2³⁰ bytes, as in the kernel's and in container
/// engines' own notation, so a container never gets less than it asked for in either reading.
pub const BYTES_PER_GB: u64 = 1 << 30;

/// The largest amount that is accepted, in steps; far above every machine, and small enough that
/// no sum over a group overflows.
const MAX_STEPS: u32 = 10_000_000;

/// How far a number may lie from a step and still mean it: `0.1 + 0.2` means 0.3.
const SLACK: f64 = 1e-6;

/// CPU in hundredths of a core.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Cpu(u32);

/// Memory in tenths of a GB ([`BYTES_PER_GB`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Memory(u32);

/// Why a number of a document is no amount.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a number, or infinite.
    #[error("it is not a finite number")]
    NotFinite,
    /// Zero or less.
    #[error("it must be greater than zero")]
    NotPositive,
    /// Greater than zero and smaller than one step.
    #[error("it is smaller than one step ({0})")]
    BelowStep(&'static str),
    /// Beyond every machine.
    #[error("it is too large")]
    TooLarge,
}

/// A number read as an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded<T> {
    /// The amount; a number between two steps counts as the lower one.
    pub amount: T,
    /// Whether the number was a whole number of steps.
    pub exact: bool,
}

fn steps(value: f64, per_unit: f64, step: &'static str) -> Result<Rounded<u32>, AmountError> {
    if !value.is_finite() {
        return Err(AmountError::NotFinite);
    }
    if value <= 0.0 {
        return Err(AmountError::NotPositive);
    }
    let scaled = value * per_unit;
    if scaled > f64::from(MAX_STEPS) {
        return Err(AmountError::TooLarge);
    }
    let near = scaled.round();
    let exact = (scaled - near).abs() <= SLACK;
    let floor = if exact { near } else { scaled.floor() };
    // In range: 0 <= floor <= MAX_STEPS was checked above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let amount = floor as u32;
    if amount == 0 {
        return Err(AmountError::BelowStep(step));
    }
    Ok(Rounded { amount, exact })
}

impl Cpu {
    /// No CPU.
    pub const ZERO: Self = Self(0);

    /// From hundredths of a core.
    #[must_use]
    pub const fn from_hundredths(hundredths: u32) -> Self {
        Self(hundredths)
    }

    /// From whole cores; saturates.
    #[must_use]
    pub const fn from_whole_cores(cores: u32) -> Self {
        Self(cores.saturating_mul(100))
    }

    /// Reads a document's number of cores; a number between two hundredths counts as the lower.
    ///
    /// # Errors
    /// If the number is not finite, not positive, below 0.01 or absurdly large.
    pub fn from_cores(cores: f64) -> Result<Rounded<Self>, AmountError> {
        let read = steps(cores, 100.0, "0.01 of a core")?;
        Ok(Rounded {
            amount: Self(read.amount),
            exact: read.exact,
        })
    }

    /// Hundredths of a core.
    #[must_use]
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// Cores, for a document.
    #[must_use]
    pub fn cores(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whole cores that can hold it, rounded up.
    #[must_use]
    pub const fn cores_rounded_up(self) -> u32 {
        self.0.div_ceil(100)
    }
}

impl Memory {
    /// No memory.
    pub const ZERO: Self = Self(0);

    /// From tenths of a GB.
    #[must_use]
    pub const fn from_tenths(tenths: u32) -> Self {
        Self(tenths)
    }

    /// From whole GB; saturates.
    #[must_use]
    pub const fn from_whole_gb(gb: u32) -> Self {
        Self(gb.saturating_mul(10))
    }

    /// The whole tenths of a GB that fit into `bytes`; saturates.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        let tenths = u128::from(bytes) * 10 / u128::from(BYTES_PER_GB);
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    /// Reads a document's number of GB; a number between two tenths counts as the lower.
    ///
    /// # Errors
    /// If the number is not finite, not positive, below 0.1 or absurdly large.
    pub fn from_gb(gb: f64) -> Result<Rounded<Self>, AmountError> {
        let read = steps(gb, 10.0, "0.1 GB")?;
        Ok(Rounded {
            amount: Self(read.amount),
            exact: read.exact,
        })
    }

    /// Tenths of a GB.
    #[must_use]
    pub const fn tenths(self) -> u32 {
        self.0
    }

    /// GB, for a document.
    #[must_use]
    pub fn gb(self) -> f64 {
        f64::from(self.0) / 10.0
    }

    /// Bytes, rounded down.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * BYTES_PER_GB / 10
    }

    /// MiB, rounded up.
    #[must_use]
    pub const fn mib_rounded_up(self) -> u64 {
        (self.0 as u64 * 1024).div_ceil(10)
    }
}

macro_rules! amount {
    ($name:ident, $per_unit:literal) => {
        impl Add for $name {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
                amounts.fold(Self::ZERO, Add::add)
            }
        }

        impl $name {
            /// The difference, not below zero.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        /// In whole units with as many decimals as needed: `1.5`, `4`, `0.25`.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", f64::from(self.0) / $per_unit)
            }
        }
    };
}

amount!(Cpu, 100.0);
amount!(Memory, 10.0);

/// GPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// How many; at least one.
    pub count: u32,
    /// Which kind.
    pub sku: GpuSku,
}

impl From<&GpuResource> for Gpus {
    fn from(gpu: &GpuResource) -> Self {
        Self {
            count: gpu.count,
            sku: gpu.sku.clone(),
        }
    }
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.sku)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_documents_are_read_exactly() {
        for (cores, hundredths) in [
            (1.0, 100),
            (0.01, 1),
            (0.29, 29),
            (0.1 + 0.2, 30),
            (31.0, 3100),
        ] {
            let read = Cpu::from_cores(cores).unwrap();
            assert_eq!((read.amount.hundredths(), read.exact), (hundredths, true));
        }
        for (gb, tenths) in [(1.5, 15), (0.1, 1), (0.7, 7), (240.0, 2400)] {
            let read = Memory::from_gb(gb).unwrap();
            assert_eq!((read.amount.tenths(), read.exact), (tenths, true));
        }
    }

    #[test]
    fn a_number_between_two_steps_counts_as_the_lower_one() {
        let read = Memory::from_gb(0.25).unwrap();
        assert_eq!((read.amount.tenths(), read.exact), (2, false));
        let read = Cpu::from_cores(0.999).unwrap();
        assert_eq!((read.amount.hundredths(), read.exact), (99, false));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for (cores, error) in [
            (f64::NAN, AmountError::NotFinite),
            (f64::INFINITY, AmountError::NotFinite),
            (0.0, AmountError::NotPositive),
            (-1.0, AmountError::NotPositive),
            (0.004, AmountError::BelowStep("0.01 of a core")),
            (1e300, AmountError::TooLarge),
        ] {
            assert_eq!(Cpu::from_cores(cores), Err(error));
        }
        assert_eq!(Memory::from_gb(0.05), Err(AmountError::BelowStep("0.1 GB")));
    }

    #[test]
    fn a_gb_is_two_to_the_thirty_bytes() {
        assert_eq!(Memory::from_tenths(15).bytes(), 1_610_612_736);
        assert_eq!(Memory::from_tenths(1).bytes(), 107_374_182);
        assert_eq!(Memory::from_tenths(1).mib_rounded_up(), 103);
        assert_eq!(Memory::from_bytes(1_610_612_736), Memory::from_tenths(15));
        assert_eq!(Memory::from_tenths(15).to_string(), "1.5");
        assert_eq!(Cpu::from_hundredths(25).to_string(), "0.25");
        assert_eq!(Cpu::from_whole_cores(4).to_string(), "4");
    }

    proptest! {
        #[test]
        fn writing_and_reading_is_the_identity(n in 1u32..=MAX_STEPS) {
            let cpu = Cpu::from_hundredths(n);
            prop_assert_eq!(Cpu::from_cores(cpu.cores()), Ok(Rounded { amount: cpu, exact: true }));
            let memory = Memory::from_tenths(n);
            prop_assert_eq!(Memory::from_gb(memory.gb()), Ok(Rounded { amount: memory, exact: true }));
            prop_assert!(Memory::from_bytes(memory.bytes()).tenths() <= n);
        }

        #[test]
        fn reading_never_rounds_up_and_never_panics(x in proptest::num::f64::ANY) {
            if let Ok(read) = Cpu::from_cores(x) {
                prop_assert!(read.amount.cores() <= x + SLACK);
            }
            if let Ok(read) = Memory::from_gb(x) {
                prop_assert!(read.amount.gb() <= x + SLACK);
            }
        }
    }
}
