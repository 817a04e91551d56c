//! What a changed document means for a group that runs.

use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    ContainerGroup, OsType, ResourceLimits, ResourceRequests, ResourceRequirements, RestartPolicy,
};

/// What has to be done for a changed document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpdateKind {
    /// Nothing has changed.
    None,
    /// Only what the machine does not see, such as tags: the document is replaced, nothing is
    /// restarted.
    InPlaceTagsOnly,
    /// Only values of config maps (and tags): their files are written anew, nothing is restarted.
    ConfigMapOnly,
    /// Something else: all containers are restarted in place.
    Restart {
        /// The sandbox too has to be made again, because volumes, ports or the like have changed.
        new_sandbox: bool,
    },
}

/// What a changed document means for a group that is up. A group that is not up (stopped,
/// succeeded, failed or new) is deployed as new, and everything may change; it is not to be asked
/// here.
///
/// # Errors
/// [`Invalid`](ErrorKind::Invalid) with ACI's `InvalidContainerGroupUpdate` if the operating
/// system, the restart policy, the subnet or network profile, or the CPU, memory or GPU of the
/// group differ.
pub fn update_kind(old: &ContainerGroup, new: &ContainerGroup) -> Result<UpdateKind> {
    if let Some(what) = immutable_difference(old, new) {
        let message = format!(
            "The updates on container group '{}' are invalid. If you are going to update the os \
             type, restart policy, network profile, CPU, memory or GPU resources for a container \
             group, you must delete it first and then create a new one.",
            new.name
        );
        let error = Error::new(ErrorKind::Invalid, "group.update", message)
            .code("InvalidContainerGroupUpdate")
            .hint(format!("{what} differs from that of the running group"));
        return Err(error);
    }
    let (mut old, mut new) = (asked_for(old), asked_for(new));
    if old == new {
        return Ok(UpdateKind::None);
    }
    for document in [&mut old, &mut new] {
        document.tags.clear();
        document.zones.clear();
        document.location = None;
        document.unknown = Default::default();
    }
    if old == new {
        return Ok(UpdateKind::InPlaceTagsOnly);
    }
    // A config map that appears or disappears has to be mounted or unmounted.
    for (a, b) in old
        .properties
        .containers
        .iter_mut()
        .zip(&mut new.properties.containers)
    {
        if a.properties.config_map.is_some() == b.properties.config_map.is_some() {
            a.properties.config_map = None;
            b.properties.config_map = None;
        }
    }
    if old == new {
        return Ok(UpdateKind::ConfigMapOnly);
    }
    let in_volumes = refers_in_volumes(&old) || refers_in_volumes(&new);
    for document in [&mut old, &mut new] {
        let properties = &mut document.properties;
        properties.containers.clear();
        properties.init_containers.clear();
        properties.image_registry_credentials.clear();
        if !in_volumes {
            properties.secret_references.clear();
        }
        properties.extensions.clear();
        properties.identity_acls = None;
        properties.diagnostics = None;
        document.identity = None;
    }
    Ok(UpdateKind::Restart {
        new_sandbox: old != new,
    })
}

/// Whether a volume is made from secret references, so that it is another one if they change.
pub(super) fn refers_in_volumes(document: &ContainerGroup) -> bool {
    document.properties.volumes.iter().any(|volume| {
        let share = volume.azure_file.as_ref();
        volume.secret_reference.is_some()
            || share.is_some_and(|s| s.storage_account_key_reference.is_some())
    })
}

/// The document without what only replies have, and with what is absent made explicit.
fn asked_for(document: &ContainerGroup) -> ContainerGroup {
    let mut document = document.clone();
    document.name = document.name.to_lowercase();
    document.id = None;
    document.type_ = None;
    document.api_version = None;
    document.system_data = None;
    if let Some(identity) = &mut document.identity {
        identity.principal_id = None;
        identity.tenant_id = None;
        for user_assigned in identity.user_assigned_identities.values_mut() {
            *user_assigned = Default::default();
        }
    }
    let properties = &mut document.properties;
    properties.provisioning_state = None;
    properties.instance_view = None;
    properties.state = None;
    properties.is_created_from_standby_pool = None;
    properties.provisioning_timeout_in_seconds = None;
    properties.is_custom_provisioning_timeout = None;
    properties.restart_policy.get_or_insert_default();
    properties.os_type.get_or_insert_default();
    properties.sku.get_or_insert_default();
    properties.priority.get_or_insert_default();
    if let Some(address) = &mut properties.ip_address {
        // Replies show the address that was given; the same document sent again asks for nothing
        // new.
        address.ip = None;
        address.fqdn = None;
        for port in &mut address.ports {
            port.protocol.get_or_insert_default();
        }
    }
    for container in &mut properties.containers {
        let properties = &mut container.properties;
        properties.instance_view = None;
        // Compared on their own, with the limits' defaults.
        properties.resources = None;
        for port in &mut properties.ports {
            port.protocol.get_or_insert_default();
        }
    }
    for init in &mut properties.init_containers {
        init.properties.instance_view = None;
    }
    document
}

/// The first of the properties that cannot change and yet differ.
fn immutable_difference(old: &ContainerGroup, new: &ContainerGroup) -> Option<String> {
    let (a, b) = (&old.properties, &new.properties);
    let os = |os: &Option<OsType>| os.clone().unwrap_or_default();
    let policy = |policy: &Option<RestartPolicy>| policy.clone().unwrap_or_default();
    let subnets = |document: &ContainerGroup| -> Vec<String> {
        let subnets = document.properties.subnet_ids.iter();
        subnets.map(|s| s.id.to_lowercase()).collect()
    };
    let profile = |document: &ContainerGroup| {
        let profile = document.properties.network_profile.as_ref();
        profile.map(|p| p.id.to_lowercase())
    };
    if os(&a.os_type) != os(&b.os_type) {
        return Some("osType".to_owned());
    }
    if policy(&a.restart_policy) != policy(&b.restart_policy) {
        return Some("restartPolicy".to_owned());
    }
    if subnets(old) != subnets(new) {
        return Some("subnetIds".to_owned());
    }
    if profile(old) != profile(new) {
        return Some("networkProfile".to_owned());
    }
    for container in &b.containers {
        let Some(before) = old.container(&container.name) else {
            continue;
        };
        let sizes = [before, container].map(|c| Size::of(c.properties.resources.as_ref()));
        if sizes[0] != sizes[1] {
            return Some(format!("resources of container '{}'", container.name));
        }
    }
    if total(old) != total(new) {
        return Some("the sum of the containers' resources".to_owned());
    }
    None
}

/// Resources in whole units, so that `1` and `1.0` and rounding do not matter: hundredths of a
/// core, tenths of a GB, GPUs; requests and limits.
#[derive(PartialEq)]
struct Size {
    requests: [i64; 3],
    limits: [i64; 3],
    sku: Option<String>,
}

impl Size {
    fn of(resources: Option<&ResourceRequirements>) -> Self {
        let requests = resources.and_then(|r| r.requests.clone());
        let requests: ResourceRequests = requests.unwrap_or_default();
        let limits = resources.and_then(|r| r.limits.clone());
        let limits: ResourceLimits = limits.unwrap_or_default();
        let gpu = requests.gpu.as_ref();
        let limit_gpu = limits.gpu.as_ref().or(gpu);
        let count = |gpu: Option<&crate::model::GpuResource>| gpu.map_or(0, |g| i64::from(g.count));
        Self {
            requests: [
                units(requests.cpu, 100.0),
                units(requests.memory_in_gb, 10.0),
                count(gpu),
            ],
            limits: [
                units(limits.cpu.or(requests.cpu), 100.0),
                units(limits.memory_in_gb.or(requests.memory_in_gb), 10.0),
                count(limit_gpu),
            ],
            sku: gpu.map(|g| g.sku.as_str().to_lowercase()),
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // saturates, and real sizes are small
fn units(value: Option<f64>, per_unit: f64) -> i64 {
    (value.unwrap_or_default() * per_unit).round() as i64
}

fn total(document: &ContainerGroup) -> [i64; 3] {
    let containers = document.properties.containers.iter();
    containers
        .map(|c| Size::of(c.properties.resources.as_ref()).requests)
        .fold([0; 3], |sum, size| [0, 1, 2].map(|i| sum[i] + size[i]))
}
