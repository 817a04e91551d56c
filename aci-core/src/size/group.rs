//! What a container group asks for.

use crate::bill::Rate;
use crate::model::{Container, ContainerGroup, GpuResource};

use super::{AmountError, Cpu, Gpus, Limits, Memory};

/// The size of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSize {
    /// The container's name.
    pub name: String,
    /// CPU that it asks for.
    pub cpu: Cpu,
    /// Memory that it asks for.
    pub memory: Memory,
    /// GPUs that it asks for.
    pub gpus: Option<Gpus>,
    /// CPU that it may use at most: its own limit, or what it asks for where it has none; never
    /// more than the group has.
    pub cpu_limit: Cpu,
    /// Memory that it may use at most, like `cpu_limit`.
    pub memory_limit: Memory,
}

impl ContainerSize {
    /// The bounds of this container; the number of processes is left unbounded.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            cpu_max: Some(self.cpu_limit.hundredths()),
            cpu_request: Some(self.cpu.hundredths()),
            memory_max: Some(self.memory_limit.bytes()),
            memory_request: Some(self.memory.bytes()),
            pids_max: None,
        }
    }
}

/// What a group gets: the sum of what its containers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// GPUs by kind, in the order in which the containers name them.
    pub gpus: Vec<Gpus>,
}

impl Total {
    /// The number of GPUs of all kinds; saturates.
    #[must_use]
    pub fn gpu_count(&self) -> u32 {
        self.gpus
            .iter()
            .fold(0, |sum, gpus| sum.saturating_add(gpus.count))
    }

    /// Adds GPUs to those of their kind.
    pub fn add_gpus(&mut self, more: &Gpus) {
        match self.gpus.iter_mut().find(|gpus| gpus.sku == more.sku) {
            Some(gpus) => gpus.count = gpus.count.saturating_add(more.count),
            None => self.gpus.push(more.clone()),
        }
    }
}

/// The size of a group and of each of its containers.
///
/// ```
/// use aci_core::model::{Container, ContainerGroup, ResourceRequests, ResourceRequirements};
/// use aci_core::size::GroupSize;
///
/// let mut web = Container { name: "web".into(), ..Default::default() };
/// web.properties.resources = Some(ResourceRequirements {
///     requests: Some(ResourceRequests { cpu: Some(0.5), memory_in_gb: Some(1.5), ..Default::default() }),
///     ..Default::default()
/// });
/// let mut group = ContainerGroup::default();
/// group.properties.containers = vec![web];
///
/// let size = GroupSize::of(&group)?;
/// assert_eq!(size.total.memory.gb(), 1.5);
/// assert_eq!(size.containers[0].limits().cpu_max, Some(50));
/// # Ok::<(), aci_core::size::SizeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSize {
    /// The containers in the order of the document.
    pub containers: Vec<ContainerSize>,
    /// The sum of what they ask for.
    pub total: Total,
}

/// Why a document has no size. Validation reports the same with ACI's
/// codes and all at once.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A container does not say how much CPU and memory it needs.
    #[error("container '{container}' has no request for CPU and memory")]
    NotRequested {
        /// The container.
        container: String,
    },
    /// A number is no amount.
    #[error("container '{container}': {property} is '{value}': {reason}")]
    NoAmount {
        /// The container.
        container: String,
        /// The property below `resources`, such as `requests.cpu`.
        property: &'static str,
        /// The number as it stands.
        value: String,
        /// What is wrong with it.
        reason: AmountError,
    },
}

impl GroupSize {
    /// The size that a document asks for.
    ///
    /// As in ACI, an absent limit is the request, and the group gets the sum of the requests. A
    /// limit above that sum, which ACI refuses, is cut down to it; numbers between two steps count
    /// as the lower step.
    ///
    /// # Errors
    /// If a container has no request or a number is no amount.
    pub fn of(group: &ContainerGroup) -> Result<Self, SizeError> {
        Self::of_containers(&group.properties.containers)
    }

    /// The size of these containers together; see [`of`](Self::of).
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_containers(containers: &[Container]) -> Result<Self, SizeError> {
        let mut size = Self::default();
        for container in containers {
            let container = container_size(container)?;
            size.total.cpu += container.cpu;
            size.total.memory += container.memory;
            if let Some(gpus) = &container.gpus {
                size.total.add_gpus(gpus);
            }
            size.containers.push(container);
        }
        for container in &mut size.containers {
            container.cpu_limit = container.cpu_limit.min(size.total.cpu);
            container.memory_limit = container.memory_limit.min(size.total.memory);
        }
        Ok(size)
    }

    /// The size of the container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerSize> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The bounds of the whole group; the number of processes is left unbounded.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let (cpu, memory) = (self.total.cpu.hundredths(), self.total.memory.bytes());
        Limits {
            cpu_max: Some(cpu),
            cpu_request: Some(cpu),
            memory_max: Some(memory),
            memory_request: Some(memory),
            pids_max: None,
        }
    }

    /// The bounds of every init container: one runs at a time and may use all that the group has.
    #[must_use]
    pub fn init_container_limits(&self) -> Limits {
        self.limits()
    }

    /// What is billed.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate {
            cpu: self.total.cpu.hundredths(),
            memory: self.total.memory.tenths(),
            gpu: self.total.gpu_count(),
        }
    }
}

fn container_size(container: &Container) -> Result<ContainerSize, SizeError> {
    let name = &container.name;
    let not_requested = || SizeError::NotRequested {
        container: name.clone(),
    };
    let no_amount = |property, value: f64| {
        move |reason| SizeError::NoAmount {
            container: name.clone(),
            property,
            value: value.to_string(),
            reason,
        }
    };
    let resources = container.properties.resources.as_ref();
    let requests = resources
        .and_then(|r| r.requests.as_ref())
        .ok_or_else(not_requested)?;
    let (Some(cpu), Some(memory)) = (requests.cpu, requests.memory_in_gb) else {
        return Err(not_requested());
    };
    let cpu = Cpu::from_cores(cpu)
        .map_err(no_amount("requests.cpu", cpu))?
        .amount;
    let memory = Memory::from_gb(memory)
        .map_err(no_amount("requests.memoryInGB", memory))?
        .amount;
    let limits = resources.and_then(|r| r.limits.as_ref());
    let cpu_limit = match limits.and_then(|l| l.cpu) {
        Some(limit) => {
            Cpu::from_cores(limit)
                .map_err(no_amount("limits.cpu", limit))?
                .amount
        }
        None => cpu,
    };
    let memory_limit = match limits.and_then(|l| l.memory_in_gb) {
        Some(limit) => {
            Memory::from_gb(limit)
                .map_err(no_amount("limits.memoryInGB", limit))?
                .amount
        }
        None => memory,
    };
    let asked = |gpu: &GpuResource| (gpu.count > 0).then(|| Gpus::from(gpu));
    Ok(ContainerSize {
        name: name.clone(),
        cpu,
        memory,
        gpus: requests.gpu.as_ref().and_then(asked),
        cpu_limit,
        memory_limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GpuSku, ResourceLimits, ResourceRequests, ResourceRequirements};
    use proptest::prelude::*;

    fn container(name: &str, cpu: f64, memory: f64, limits: Option<(f64, f64)>) -> Container {
        let mut container = Container {
            name: name.to_owned(),
            ..Container::default()
        };
        container.properties.resources = Some(ResourceRequirements {
            requests: Some(ResourceRequests {
                cpu: Some(cpu),
                memory_in_gb: Some(memory),
                ..ResourceRequests::default()
            }),
            limits: limits.map(|(cpu, memory)| ResourceLimits {
                cpu: Some(cpu),
                memory_in_gb: Some(memory),
                ..ResourceLimits::default()
            }),
            ..ResourceRequirements::default()
        });
        container
    }

    #[test]
    fn a_group_gets_the_sum_and_a_limit_defaults_to_the_request() {
        let containers = [
            container("web", 1.0, 1.5, None),
            container("sidecar", 0.25, 0.5, Some((1.0, 1.0))),
        ];
        let size = GroupSize::of_containers(&containers).unwrap();
        assert_eq!(
            (size.total.cpu.hundredths(), size.total.memory.tenths()),
            (125, 20)
        );
        assert_eq!(
            size.rate(),
            Rate {
                cpu: 125,
                memory: 20,
                gpu: 0
            }
        );
        let web = size.container("web").unwrap();
        assert_eq!((web.cpu_limit, web.memory_limit), (web.cpu, web.memory));
        let sidecar = size.container("sidecar").unwrap().limits();
        assert_eq!(
            (sidecar.cpu_max, sidecar.cpu_request),
            (Some(100), Some(25))
        );
        assert_eq!(sidecar.memory_max, Some(1 << 30));
        assert_eq!(size.init_container_limits().cpu_max, Some(125));
    }

    #[test]
    fn a_limit_is_cut_down_to_the_group() {
        let size =
            GroupSize::of_containers(&[container("web", 0.5, 1.0, Some((4.0, 8.0)))]).unwrap();
        assert_eq!(size.containers[0].limits(), size.limits());
    }

    #[test]
    fn gpus_are_summed_by_kind() {
        let mut a = container("a", 1.0, 1.0, None);
        if let Some(requests) = a
            .properties
            .resources
            .as_mut()
            .and_then(|r| r.requests.as_mut())
        {
            requests.gpu = Some(GpuResource {
                count: 2,
                sku: GpuSku::V100,
                ..GpuResource::default()
            });
        }
        let size = GroupSize::of_containers(&[a.clone(), a]).unwrap();
        assert_eq!(
            size.total.gpus,
            [Gpus {
                count: 4,
                sku: GpuSku::V100
            }]
        );
        assert_eq!(size.rate().gpu, 4);
    }

    #[test]
    fn a_group_without_numbers_has_no_size() {
        let nothing = Container {
            name: "web".into(),
            ..Container::default()
        };
        let error = GroupSize::of_containers(&[nothing]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "container 'web' has no request for CPU and memory"
        );
        let error = GroupSize::of_containers(&[container("web", -1.0, 1.0, None)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "container 'web': requests.cpu is '-1': it must be greater than zero"
        );
        let error = GroupSize::of_containers(&[container("web", 1.0, 1.0, Some((1.0, f64::NAN)))])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "container 'web': limits.memoryInGB is 'NaN': it is not a finite number"
        );
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_bounds_hold(sizes in proptest::collection::vec((1u32..500, 1u32..500, 1u32..900, 1u32..900), 1..60)) {
            let containers: Vec<_> = sizes.iter().enumerate().map(|(i, s)| {
                let [cpu, cpu_limit] = [s.0, s.2].map(|n| Cpu::from_hundredths(n).cores());
                let [memory, memory_limit] = [s.1, s.3].map(|n| Memory::from_tenths(n).gb());
                container(&format!("c{i}"), cpu, memory, Some((cpu_limit, memory_limit)))
            }).collect();
            let size = GroupSize::of_containers(&containers).unwrap();
            prop_assert_eq!(size.total.cpu.hundredths(), sizes.iter().map(|s| s.0).sum::<u32>());
            prop_assert_eq!(size.total.memory.tenths(), sizes.iter().map(|s| s.1).sum::<u32>());
            for container in &size.containers {
                prop_assert!(container.cpu_limit <= size.total.cpu);
                prop_assert!(container.limits().memory_max <= size.limits().memory_max);
            }
            let fewer = GroupSize::of_containers(&containers[1..]).unwrap();
            prop_assert!(fewer.total.cpu < size.total.cpu && fewer.total.memory < size.total.memory);
        }
    }
}
