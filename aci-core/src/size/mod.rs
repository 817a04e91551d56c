//! How big: exact sizes of containers and groups, whether they fit, and what they mean to a kernel
//! or a virtual machine.
//!
//! - [`Cpu`], [`Memory`] and [`Gpus`] are exact amounts.
//! - [`GroupSize`] is what a document asks for: a size a container, with limits defaulted as ACI
//!   does, and the total that the group gets and is billed for.
//! - [`admit`] decides whether a group may run now, against [`Capacity`] and [`Quota`].
//! - [`Limits`] is the same as bounds of one container or sandbox; [`cgroup_v1`], [`cgroup_v2`] and
//!   [`machine_size`] translate it.
//!
//! Everything here is a pure function.

mod admission;
mod amount;
mod cgroup;
mod group;
mod limits;
mod machine;

pub(crate) use admission::unavailable_message;
pub use admission::{Admission, Capacity, InUse, Quota, Request, WhenFull, admit};
pub use amount::{AmountError, BYTES_PER_GB, Cpu, Gpus, Memory, Rounded};
pub use cgroup::{CPU_PERIOD_US, CgroupV1Value, CgroupV2Value, cgroup_v1, cgroup_v2};
pub use group::{ContainerSize, GroupSize, SizeError, Total};
pub use limits::Limits;
pub use machine::{MachineSize, machine_size};
