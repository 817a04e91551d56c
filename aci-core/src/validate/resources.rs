//! Requests and limits, and the size of the group.

use crate::model::{Container, GpuResource, GpuSku, Priority, ResourceRequirements};
use crate::size::{AmountError, Cpu, Gpus, Memory, Rounded, Total, unavailable_message};

use super::check::{Check, Path, shown};
use super::codes;

/// What the rules need to know of one container's numbers; `None` where they are no amounts.
struct Sized {
    path: Path,
    name: String,
    cpu_limit: Option<Cpu>,
    memory_limit: Option<Memory>,
}

pub(super) fn check(check: &mut Check<'_>) {
    let mut total = Some(Total::default());
    let mut sized = Vec::new();
    for (i, container) in check.properties().containers.iter().enumerate() {
        let path = Path::properties("containers")
            .index(i)
            .name("properties")
            .name("resources");
        let Some(resources) = requests(check, container, &path) else {
            total = None;
            continue;
        };
        let before = check.problems.len();
        let asked = amounts(check, container, resources, &path);
        let asked = asked.filter(|_| check.problems.len() == before);
        total = match (total, asked) {
            (Some(mut total), Some((cpu, memory))) => {
                total.cpu += cpu;
                total.memory += memory;
                let gpus = resources.requests.as_ref().and_then(|r| r.gpu.as_ref());
                gpus.into_iter()
                    .for_each(|gpu| total.add_gpus(&Gpus::from(gpu)));
                Some(total)
            }
            _ => None,
        };
        sized.push(limits(check, container, resources, &path));
        gpus(check, container, resources, &path);
    }
    // Without sound numbers of every container there is no total to compare with.
    let Some(total) = total.filter(|_| !sized.is_empty()) else {
        return;
    };
    for container in &sized {
        limits_within_total(check, container, &total);
    }
    group_size(check, &total);
}

fn requests<'a>(
    check: &mut Check<'_>,
    container: &'a Container,
    path: &Path,
) -> Option<&'a ResourceRequirements> {
    let resources = container.properties.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    let missing = match requests {
        Some(r) if r.cpu.is_some() && r.memory_in_gb.is_some() => return resources,
        Some(r) if r.cpu.is_some() => path.name("requests").name("memoryInGB"),
        Some(r) if r.memory_in_gb.is_some() => path.name("requests").name("cpu"),
        _ => path.name("requests"),
    };
    if requests.is_none() && check.has_profile() {
        return None;
    }
    let message = format!(
        "The resource requests are not specified in container '{}' of contain group '{}'. Both memory and CPU requests \
         are required since API version '2017-07-01-preview'.",
        shown(&container.name),
        check.group_name()
    );
    check.problem(codes::RESOURCE_REQUESTS_NOT_SPECIFIED, &missing, message);
    None
}

/// The amounts that a container asks for, after reporting what is wrong with them.
fn amounts(
    check: &mut Check<'_>,
    container: &Container,
    resources: &ResourceRequirements,
    path: &Path,
) -> Option<(Cpu, Memory)> {
    let requests = resources.requests.as_ref()?;
    let path = path.name("requests");
    let cpu = requests
        .cpu
        .and_then(|cpu| cpu_amount(check, container, cpu, &path, true));
    let memory = requests
        .memory_in_gb
        .and_then(|gb| memory_amount(check, container, gb, &path));
    Some((cpu?, memory?))
}

fn cpu_amount(
    check: &mut Check<'_>,
    container: &Container,
    cores: f64,
    path: &Path,
    exact: bool,
) -> Option<Cpu> {
    let path = path.name("cpu");
    let head = requirement(check, "CPU", container, cores);
    let off_grid = format!("{head} The CPU requirement should be in increments of 0.01 cores.");
    match Cpu::from_cores(cores) {
        Ok(Rounded {
            amount,
            exact: true,
        }) => Some(amount),
        Ok(Rounded { amount, .. }) => {
            if exact {
                check.problem(codes::CPU_NOT_TIMES_OF_ONE_HUNDREDTH, &path, off_grid);
            }
            Some(amount)
        }
        Err(AmountError::BelowStep(_)) => {
            check.problem(codes::CPU_NOT_TIMES_OF_ONE_HUNDREDTH, &path, off_grid);
            None
        }
        Err(error) => {
            check.problem(
                codes::INVALID_RESOURCE_REQUESTS,
                &path,
                no_amount(&head, error),
            );
            None
        }
    }
}

fn memory_amount(
    check: &mut Check<'_>,
    container: &Container,
    gb: f64,
    path: &Path,
) -> Option<Memory> {
    let path = path.name("memoryInGB");
    let head = requirement(check, "memory", container, gb);
    let off_grid = format!("{head} The memory requirement should be in increments of 0.1 GB.");
    match Memory::from_gb(gb) {
        Ok(Rounded {
            amount,
            exact: true,
        }) => Some(amount),
        Ok(Rounded { amount, .. }) => {
            check.problem(codes::MEMORY_NOT_TIMES_OF_ONE_TENTH_GB, &path, off_grid);
            Some(amount)
        }
        Err(AmountError::BelowStep(_)) => {
            check.problem(codes::MEMORY_NOT_TIMES_OF_ONE_TENTH_GB, &path, off_grid);
            None
        }
        Err(error) => {
            check.problem(
                codes::INVALID_RESOURCE_REQUESTS,
                &path,
                no_amount(&head, error),
            );
            None
        }
    }
}

fn requirement(check: &Check<'_>, what: &str, container: &Container, value: f64) -> String {
    let (name, group) = (shown(&container.name), check.group_name());
    format!(
        "The {what} requirement is '{value}' in container '{name}' of container group '{group}'."
    )
}

fn no_amount(head: &str, error: AmountError) -> String {
    let reason = error.to_string();
    let reason = reason.strip_prefix("it ").unwrap_or(&reason);
    format!("{head} The value {reason}.")
}

fn limits(
    check: &mut Check<'_>,
    container: &Container,
    resources: &ResourceRequirements,
    path: &Path,
) -> Sized {
    let path = path.name("limits");
    let mut sized = Sized {
        path: path.clone(),
        name: shown(&container.name),
        cpu_limit: None,
        memory_limit: None,
    };
    let (Some(requests), Some(limits)) = (&resources.requests, &resources.limits) else {
        return sized;
    };
    sized.cpu_limit = limits
        .cpu
        .and_then(|cpu| cpu_amount(check, container, cpu, &path, false));
    sized.memory_limit = limits
        .memory_in_gb
        .and_then(|gb| memory_amount(check, container, gb, &path));
    let asked = requests.cpu.and_then(|cpu| Cpu::from_cores(cpu).ok());
    if let (Some(limit), Some(asked)) = (sized.cpu_limit, asked)
        && limit < asked.amount
    {
        below(
            check,
            container,
            "Cpu",
            (&limit, &asked.amount),
            &path.name("cpu"),
        );
    }
    let asked = requests
        .memory_in_gb
        .and_then(|gb| Memory::from_gb(gb).ok());
    if let (Some(limit), Some(asked)) = (sized.memory_limit, asked)
        && limit < asked.amount
    {
        below(
            check,
            container,
            "MemoryInGB",
            (&limit, &asked.amount),
            &path.name("memoryInGB"),
        );
    }
    if let (Some(limit), Some(asked)) = (&limits.gpu, &requests.gpu)
        && limit.count < asked.count
    {
        below(
            check,
            container,
            "Gpu",
            (&limit.count, &asked.count),
            &path.name("gpu").name("count"),
        );
    }
    sized
}

fn below(
    check: &mut Check<'_>,
    container: &Container,
    what: &str,
    (limit, request): (&dyn std::fmt::Display, &dyn std::fmt::Display),
    path: &Path,
) {
    let message = format!(
        "The '{what}' limit '{limit}' is less than the request '{request}' in container '{}' of container group '{}'. \
         The '{what}' limit value must be greater than or equal to the request value.",
        shown(&container.name),
        check.group_name()
    );
    check.problem(codes::RESOURCE_LIMITS_LESS_THAN_REQUESTS, path, message);
}

fn limits_within_total(check: &mut Check<'_>, container: &Sized, total: &Total) {
    let mut above = |what: &str, limit: String, total: String, path: Path| {
        let message = format!(
            "The '{what}' limit '{limit}' in container '{}' is greater than the total request '{total}' of container \
             group '{}'.",
            container.name,
            check.group_name()
        );
        check.problem(codes::CONTAINER_LIMIT_GREATER_THAN_TOTAL, &path, message);
    };
    if let Some(limit) = container.cpu_limit.filter(|limit| *limit > total.cpu) {
        above(
            "Cpu",
            limit.to_string(),
            total.cpu.to_string(),
            container.path.name("cpu"),
        );
    }
    if let Some(limit) = container.memory_limit.filter(|limit| *limit > total.memory) {
        let path = container.path.name("memoryInGB");
        above(
            "MemoryInGB",
            limit.to_string(),
            total.memory.to_string(),
            path,
        );
    }
}

fn group_size(check: &mut Check<'_>, total: &Total) {
    let properties = check.properties();
    let spot = properties.priority == Some(Priority::Spot);
    let max = check.rules.max_size(properties.sku.as_ref(), spot);
    let path = Path::properties("containers");
    if total.cpu > max.cpu || total.memory > max.memory {
        let location = check
            .group
            .location
            .as_deref()
            .unwrap_or(&check.rules.location);
        let os = properties.os_type.clone().unwrap_or_default();
        let message = unavailable_message(total, &shown(location), &os, check.in_virtual_network());
        let message = format!(
            "{message}. At most '{}' CPU '{}' GB memory can be had.",
            max.cpu, max.memory
        );
        check.problem(codes::SERVICE_UNAVAILABLE, &path, message);
    }
    let min = check.rules.minimum;
    if total.cpu < min.cpu || total.memory < min.memory {
        let message = format!(
            "Container group '{}' requests '{}' CPU and '{}' GB memory in total; ACI documents a minimum of '{}' CPU and \
             '{}' GB memory for a group.",
            check.group_name(),
            total.cpu,
            total.memory,
            min.cpu,
            min.memory
        );
        let severity = check.rules.below_minimum;
        check.report(severity, codes::INVALID_RESOURCE_REQUESTS, &path, message);
    }
}

fn gpus(
    check: &mut Check<'_>,
    container: &Container,
    resources: &ResourceRequirements,
    path: &Path,
) {
    let requests = resources.requests.as_ref().and_then(|r| r.gpu.as_ref());
    let limits = resources.limits.as_ref().and_then(|l| l.gpu.as_ref());
    for (gpu, part) in [(requests, "requests"), (limits, "limits")] {
        if let Some(gpu) = gpu {
            gpu_resource(check, container, gpu, &path.name(part).name("gpu"));
        }
    }
    let (Some(limit), asked) = (limits, requests) else {
        return;
    };
    if asked.is_none_or(|asked| asked.sku != limit.sku) {
        let message = format!(
            "Container '{}' in container group '{}' has a limit of '{}' GPUs without a request for the same kind.",
            shown(&container.name),
            check.group_name(),
            limit.sku
        );
        let path = path.name("limits").name("gpu");
        check.problem(codes::INVALID_GPU_RESOURCE, &path, message);
    }
}

fn gpu_resource(check: &mut Check<'_>, container: &Container, gpu: &GpuResource, path: &Path) {
    let (name, group) = (shown(&container.name), check.group_name());
    if let GpuSku::Other(sku) = &gpu.sku {
        let message = format!(
            "The GPU sku '{}' in container '{name}' of container group '{group}' is invalid. The value must be one of \
             '{}'.",
            shown(sku),
            GpuSku::KNOWN.join(",")
        );
        check.problem(codes::INVALID_GPU_RESOURCE, &path.name("sku"), message);
    }
    if ![1, 2, 4].contains(&gpu.count) {
        let message = format!(
            "The GPU count '{}' in container '{name}' of container group '{group}' is invalid. The value must be one of \
             '1,2,4'.",
            gpu.count
        );
        check.problem(codes::INVALID_GPU_RESOURCE, &path.name("count"), message);
    }
    if check.rules.gpus_retired {
        let message = format!(
            "Container '{name}' of container group '{group}' asks for GPUs, which ACI has retired on 2025-07-14; another \
             host may have them."
        );
        check.warning(codes::MAY_FAIL_LATER, path, message);
    }
}
