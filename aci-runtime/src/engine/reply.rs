//! A group as ACI answers it.

use aci_core::contract::GroupRecord;
use aci_core::model::ContainerGroup;

/// The type of the resource, in ARM's words.
const TYPE: &str = "Microsoft.ContainerInstance/containerGroups";

/// Takes out what only answers have, so that a document that came from a GET can be put again.
pub(crate) fn without_read_only(document: &mut ContainerGroup) {
    document.id = None;
    document.type_ = None;
    document.system_data = None;
    let properties = &mut document.properties;
    properties.provisioning_state = None;
    properties.instance_view = None;
    if let Some(address) = &mut properties.ip_address {
        address.fqdn = None;
    }
    for container in &mut properties.containers {
        container.properties.instance_view = None;
    }
    for container in &mut properties.init_containers {
        container.properties.instance_view = None;
    }
}

/// The document with everything that an answer adds. Secrets stay in their type, which does not
/// serialise them.
pub(crate) fn view(record: &GroupRecord) -> ContainerGroup {
    let mut group = addressed(record);
    record.lifecycle.write_views(&mut group);
    group
}

/// [`view`] without the instance views.
pub(crate) fn summary(record: &GroupRecord) -> ContainerGroup {
    let mut group = addressed(record);
    let state = record.lifecycle.provisioning_state();
    group.properties.provisioning_state = Some(state.as_str().to_owned());
    group
}

fn addressed(record: &GroupRecord) -> ContainerGroup {
    let mut group = record.document.clone();
    group.id = Some(record.group.resource_id());
    group.type_ = Some(TYPE.to_owned());
    let properties = &mut group.properties;
    if let (Some(address), Some(attachment)) = (&mut properties.ip_address, &record.attachment) {
        if let Some(ip) = attachment.ip {
            address.ip = Some(ip.to_string());
        }
        address.fqdn.clone_from(&attachment.fqdn);
    }
    group
}
