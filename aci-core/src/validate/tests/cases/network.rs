use super::case;
use crate::model::{
    ContainerGroup, ContainerPort, DnsNameLabelReusePolicy, IpAddress, IpAddressType,
    NetworkProfile, Port, Protocol, SubnetId,
};
use crate::validate::tests::Case;

fn address(group: &mut ContainerGroup) -> &mut IpAddress {
    group.properties.ip_address.get_or_insert_default()
}

fn port(group: &mut ContainerGroup) -> &mut ContainerPort {
    &mut group.properties.containers[0].properties.ports[0]
}

fn public(group: &mut ContainerGroup) {
    group.properties.subnet_ids.clear();
    address(group).type_ = IpAddressType::Public;
}

fn more_ports(group: &mut ContainerGroup, count: u16) {
    for port in 8000..8000 + count {
        group.properties.containers[1]
            .properties
            .ports
            .push(ContainerPort {
                port,
                ..ContainerPort::default()
            });
        address(group).ports.push(Port {
            port,
            ..Port::default()
        });
    }
}

pub(super) const CASES: &[Case] = &[
    case!(
        |g| {
            port(g).port = 0;
            address(g).ports.remove(0);
        },
        "InvalidContainerPorts",
        "properties.containers[0].properties.ports[0].port",
        "The ports '0' are invalid for container 'web' in container group 'shop'. The port must be between 1 and 65535.",
    ),
    case!(
        |g| {
            port(g).protocol = Some(Protocol::Other("SCTP".to_owned()));
            address(g).ports.remove(0);
        },
        "InvalidContainerPorts",
        "properties.containers[0].properties.ports[0].protocol",
        "The protocol 'SCTP' of port '80' is invalid for container 'web' in container group 'shop'. The value must be \
         one of 'TCP,UDP'.",
    ),
    case!(
        |g| {
            let again = port(g).clone();
            g.properties.containers[0].properties.ports.push(again);
        },
        "DuplicateContainerPorts",
        "properties.containers[0].properties.ports[2]",
        "The port '80' with protocol 'TCP' is used more than once by container 'web' in container group 'shop'.",
    ),
    case!(
        |g| {
            let again = port(g).clone();
            g.properties.containers[1].properties.ports.push(again);
        },
        "DuplicateContainerPorts",
        "properties.containers[1].properties.ports[0]",
        "The port '80' with protocol 'TCP' is used by containers 'web' and 'log', which share one network, in container \
         group 'shop'.",
    ),
    case!(
        |g| address(g).ports.clear(),
        "MissingIpAddressPorts",
        "properties.ipAddress.ports",
        "The ports in the 'ipAddress' of container group 'shop' cannot be empty.",
    ),
    case!(
        |g| more_ports(g, 4),
        "InvalidIpAddressPorts",
        "properties.ipAddress.ports",
        "The 'ipAddress' of container group 'shop' has 6 ports; at most 5 are allowed.",
    ),
    case!(
        |g| address(g).ports[0].port = 0,
        "InvalidIpAddressPorts",
        "properties.ipAddress.ports[0].port",
        "The port '0' in the 'ipAddress' of container group 'shop' is invalid. The port must be between 1 and 65535.",
    ),
    case!(
        |g| address(g).ports[0].protocol = Some(Protocol::Other("ICMP".to_owned())),
        "InvalidIpAddressPorts",
        "properties.ipAddress.ports[0].protocol",
        "The protocol 'ICMP' in the 'ipAddress' of container group 'shop' is invalid. The value must be one of 'TCP,UDP'.",
    ),
    case!(
        |g| {
            let again = address(g).ports[0].clone();
            address(g).ports.push(again);
        },
        "InvalidIpAddressPorts",
        "properties.ipAddress.ports[2]",
        "The port '80' with protocol 'TCP' is given more than once in the 'ipAddress' of container group 'shop'.",
    ),
    case!(
        |g| {
            port(g).port = 8080;
            g.properties.containers[0].properties.ports[1].protocol = None;
        },
        "UnusedIpAddressPorts",
        "properties.ipAddress.ports",
        "Following ports '80,5353/UDP' in the 'ipAddress' are not used by any container in container group 'shop'. List \
         them among the ports of the container that listens on them.",
    ),
    case!(
        |g| address(g).type_ = IpAddressType::Public,
        "InvalidIpAddressTypeForNetworkProfile",
        "properties.ipAddress.type",
        "IP Address type can't be public when network profile is set. Use 'Private', or remove the network.",
    ),
    case!(
        |g| g.properties.subnet_ids.clear(),
        "InvalidIpAddress",
        "properties.ipAddress.type",
        "The 'ipAddress' of container group 'shop' is of type 'Private' and the group is in no virtual network. Give \
         'subnetIds', or use 'Public'.",
    ),
    case!(
        |g| address(g).type_ = IpAddressType::Other("Elastic".to_owned()),
        "InvalidIpAddress",
        "properties.ipAddress.type",
        "The 'type' 'Elastic' in the 'ipAddress' of container group 'shop' is invalid. The value must be one of \
         'Public,Private'.",
    ),
    case!(
        |g| address(g).ip = Some("10.0.0".to_owned()),
        "InvalidIpAddress",
        "properties.ipAddress.ip",
        "The 'ip' '10.0.0' in the 'ipAddress' of container group 'shop' is no IP address.",
    ),
    case!(
        |g| {
            public(g);
            address(g).dns_name_label = Some("node".to_owned());
        },
        "InvalidDnsNameLabel",
        "properties.ipAddress.dnsNameLabel",
        "The DNS name label 'node' in container group 'shop' is invalid. It can contain only lowercase letters, numbers \
         and hyphens. The first character must be a letter. The last character must be a letter or number. The value \
         must be between 5 and 63 characters long.",
    ),
    case!(
        |g| address(g).dns_name_label = Some("my-shop".to_owned()),
        "InvalidDnsNameLabel",
        "properties.ipAddress.dnsNameLabel",
        "The DNS name label 'my-shop' in container group 'shop' needs an 'ipAddress' of type 'Public'.",
    ),
    case!(
        |g| address(g).dns_name_label_reuse_policy =
            Some(DnsNameLabelReusePolicy::Other("Free".to_owned())),
        "InvalidDnsNameLabel",
        "properties.ipAddress.autoGeneratedDomainNameLabelScope",
        "The 'autoGeneratedDomainNameLabelScope' 'Free' in container group 'shop' is invalid. The value must be one of \
         'Unsecure,TenantReuse,SubscriptionReuse,ResourceGroupReuse,Noreuse'.",
    ),
    case!(
        |g| g.properties.subnet_ids[0].id = "default".to_owned(),
        "InvalidSubnetId",
        "properties.subnetIds[0].id",
        "The subnet 'default' of container group 'shop' is invalid; a resource id \
         '/subscriptions/<subscription>/resourceGroups/<group>/providers/Microsoft.Network/virtualNetworks/<network>/subnets/<subnet>' \
         is expected.",
    ),
    case!(
        |g| {
            let more: SubnetId = g.properties.subnet_ids[0].clone();
            g.properties.subnet_ids.push(more);
        },
        "InvalidSubnetId",
        "properties.subnetIds",
        "Container group 'shop' has 2 subnets; one is allowed.",
    ),
    case!(
        |g| {
            g.properties.network_profile = Some(NetworkProfile {
                id: "/networkProfiles/p".to_owned(),
                ..NetworkProfile::default()
            });
        },
        "InvalidSubnetId",
        "properties.networkProfile.id",
        "The network profile '/networkProfiles/p' of container group 'shop' is invalid; a resource id \
         '/subscriptions/<subscription>/resourceGroups/<group>/providers/Microsoft.Network/networkProfiles/<profile>' is \
         expected.",
    ),
    case!(
        |g| g
            .properties
            .dns_config
            .get_or_insert_default()
            .name_servers
            .clear(),
        "InvalidDnsConfig",
        "properties.dnsConfig.nameServers",
        "The 'nameServers' in the 'dnsConfig' of container group 'shop' cannot be empty.",
    ),
    case!(
        |g| g.properties.dns_config.get_or_insert_default().name_servers[0] =
            "dns.example".to_owned(),
        "InvalidDnsConfig",
        "properties.dnsConfig.nameServers[0]",
        "The name server 'dns.example' in the 'dnsConfig' of container group 'shop' is no IP address.",
    ),
    case!(
        |g| g
            .properties
            .dns_config
            .get_or_insert_default()
            .search_domains = Some("a..b".to_owned()),
        "InvalidDnsConfig",
        "properties.dnsConfig.searchDomains",
        "The search domain 'a..b' in the 'dnsConfig' of container group 'shop' is no domain name.",
    ),
    case!(
        |g| g.properties.dns_config.get_or_insert_default().options =
            Some("ndots:2\nnameserver 1.1.1.1".to_owned()),
        "InvalidDnsConfig",
        "properties.dnsConfig.options",
        "The 'options' in the 'dnsConfig' of container group 'shop' are not in one line.",
    ),
];
