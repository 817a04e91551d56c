//! Operating system, sku, priority, confidential computing, restart policy.

use crate::model::{GpuResource, OsType, Priority, RestartPolicy, Sku};

use super::check::{Check, Path, base64, shown};
use super::codes;

/// The largest policy of a confidential group, in bytes of base64.
const MAX_CCE_POLICY: usize = 120 * 1024;

pub(super) fn check(check: &mut Check<'_>) {
    os_type(check);
    windows(check);
    let properties = check.properties();
    let group = check.group_name();
    if let Some(RestartPolicy::Other(policy)) = &properties.restart_policy {
        let message = format!(
            "The 'restartPolicy' '{}' for container group '{group}' is invalid. The value must be one of '{}'.",
            shown(policy),
            RestartPolicy::KNOWN.join(",")
        );
        check.problem(
            codes::INVALID_RESTART_POLICY,
            &Path::properties("restartPolicy"),
            message,
        );
    }
    if let Some(Sku::Other(sku)) = &properties.sku {
        let message = format!(
            "The 'sku' '{}' for container group '{group}' is invalid. The value must be one of '{}'.",
            shown(sku),
            Sku::KNOWN.join(",")
        );
        check.problem(codes::INVALID_SKU, &Path::properties("sku"), message);
    }
    match &properties.priority {
        Some(Priority::Other(_)) => {
            let message = format!(
                "The 'Priority' must be one of 'Regular,Spot' for container group '{group}'."
            );
            check.problem(
                codes::PRIORITY_NOT_SPECIFIED,
                &Path::properties("priority"),
                message,
            );
        }
        Some(Priority::Spot) => spot(check),
        _ => {}
    }
    confidential(check);
}

fn os_type(check: &mut Check<'_>) {
    let given = match &check.properties().os_type {
        Some(OsType::Linux | OsType::Windows) => return,
        None if check.has_profile() => return,
        None => String::new(),
        Some(OsType::Other(other)) => format!(" '{}' is given.", shown(other)),
    };
    let message = format!(
        "The 'osType' for container group '{}' is invalid. The value must be one of 'Windows,Linux'.{given}",
        check.group_name()
    );
    check.problem(codes::INVALID_OS_TYPE, &Path::properties("osType"), message);
}

/// The requests for GPUs, with their paths.
fn gpus<'a>(check: &Check<'a>) -> Vec<(&'a GpuResource, Path)> {
    let containers = check.properties().containers.iter().enumerate();
    let gpus = containers.filter_map(|(i, container)| {
        let resources = container.properties.resources.as_ref()?;
        let gpu = resources.requests.as_ref()?.gpu.as_ref()?;
        let path = Path::properties("containers").index(i).name("properties");
        Some((gpu, path.name("resources").name("requests").name("gpu")))
    });
    gpus.collect()
}

fn windows(check: &mut Check<'_>) {
    if !check.is_windows() {
        return;
    }
    let properties = check.properties();
    let group = check.group_name();
    let count = properties.containers.len() + properties.init_containers.len();
    if count > 1 {
        let message = format!(
            "Container group '{group}' is of 'osType' 'Windows' and has {count} containers; ACI runs one container in a \
             Windows group."
        );
        check.problem(
            codes::NOT_SUPPORTED_ON_WINDOWS,
            &Path::properties("containers"),
            message,
        );
    }
    if properties.priority != Some(Priority::Spot) && properties.sku != Some(Sku::Confidential) {
        for (_, path) in gpus(check) {
            let message = format!(
                "Container group '{group}' is of 'osType' 'Windows' and asks for GPUs, which ACI gives to Linux \
                 containers only."
            );
            check.problem(codes::NOT_SUPPORTED_ON_WINDOWS, &path, message);
        }
    }
}

fn spot(check: &mut Check<'_>) {
    let properties = check.properties();
    let inbound = [
        ("ipAddress", properties.ip_address.is_some()),
        ("subnetIds", !properties.subnet_ids.is_empty()),
        ("networkProfile", properties.network_profile.is_some()),
    ];
    if let Some((property, _)) = inbound.iter().find(|(_, is)| *is) {
        let message = format!(
            "Spot Priority is not supported for container groups with inbound connectivity. Remove '{property}'."
        );
        check.problem(codes::SPOT_INBOUND, &Path::properties(property), message);
    }
    if let Some(sku) = properties
        .sku
        .as_ref()
        .filter(|sku| !matches!(sku, Sku::Standard | Sku::NotSpecified | Sku::Other(_)))
    {
        let message = format!("Spot Priority Container Group is not supported in '{sku}' Sku.");
        check.problem(codes::SPOT_SKU, &Path::properties("sku"), message);
    }
    if let Some((_, path)) = gpus(check).first() {
        let message = "Spot Priority Container Groups that include containers requesting GPU resources are not supported.";
        check.problem(codes::SPOT_GPU, path, message);
    }
    if !check.group.zones.is_empty() {
        let message = format!(
            "Spot Priority is not supported for container groups with 'zones': '{}'.",
            shown(&check.group.zones.join(","))
        );
        check.problem(codes::SPOT_ZONES, &Path::root().name("zones"), message);
    }
}

fn confidential(check: &mut Check<'_>) {
    let properties = check.properties();
    let group = check.group_name();
    let is = properties.sku == Some(Sku::Confidential);
    let compute = properties.confidential_compute_properties.as_ref();
    let policy = compute.and_then(|c| c.cce_policy.as_deref());
    let path = Path::properties("confidentialComputeProperties").name("ccePolicy");
    if let Some(policy) = policy {
        let fault = if policy.len() > MAX_CCE_POLICY {
            Some(format!(
                "has {} bytes; at most {MAX_CCE_POLICY} are allowed",
                policy.len()
            ))
        } else if base64(policy).is_none() {
            Some("is not base64 encoded".to_owned())
        } else {
            None
        };
        if let Some(fault) = fault {
            let message = format!("The 'ccePolicy' of container group '{group}' {fault}.");
            check.problem(codes::INVALID_CCE_POLICY, &path, message);
        }
        if !is && properties.sku.is_some() {
            let message = format!(
                "Container group '{group}' has a 'ccePolicy', which has an effect with 'sku' 'Confidential' only."
            );
            check.warning(codes::NO_EFFECT, &path, message);
        }
    }
    // Spot groups are refused for their sku already.
    if !is || properties.priority == Some(Priority::Spot) {
        return;
    }
    let mut refuse = |why: &str, path: Path| {
        let message =
            format!("The sku 'Confidential' of container group '{group}' is not supported {why}.");
        check.problem(codes::CONFIDENTIAL_NOT_SUPPORTED, &path, message);
    };
    if properties.os_type == Some(OsType::Windows) {
        refuse("with 'osType' 'Windows'", Path::properties("osType"));
    }
    let gpus = properties.containers.iter().position(|c| {
        let requests = c
            .properties
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        requests.is_some_and(|r| r.gpu.is_some())
    });
    if let Some(i) = gpus {
        let path = Path::properties("containers")
            .index(i)
            .name("properties")
            .name("resources");
        refuse("with GPUs", path.name("requests").name("gpu"));
    }
    if !check.rules.confidential {
        let location = check
            .group
            .location
            .as_deref()
            .unwrap_or(&check.rules.location);
        let message = format!(
            "The sku 'Confidential' of container group '{group}' is not supported in the location '{}'.",
            shown(location)
        );
        check.problem(
            codes::CONFIDENTIAL_NOT_SUPPORTED,
            &Path::properties("sku"),
            message,
        );
    }
    if policy.is_none_or(str::is_empty) {
        let message = format!(
            "The confidential container group '{group}' has no 'ccePolicy', so nothing is enforced."
        );
        check.warning(codes::MAY_FAIL_LATER, &path, message);
    }
}
