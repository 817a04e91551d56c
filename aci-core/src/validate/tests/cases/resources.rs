use super::case;
use crate::model::{
    ContainerGroup, GpuResource, GpuSku, Priority, ResourceLimits, ResourceRequests,
};
use crate::validate::tests::Case;

fn requests(group: &mut ContainerGroup) -> &mut ResourceRequests {
    let resources = group.properties.containers[0]
        .properties
        .resources
        .get_or_insert_default();
    resources.requests.get_or_insert_default()
}

fn limits(group: &mut ContainerGroup) -> &mut ResourceLimits {
    let resources = group.properties.containers[0]
        .properties
        .resources
        .get_or_insert_default();
    resources.limits.get_or_insert_default()
}

fn gpu(count: u32, sku: GpuSku) -> Option<GpuResource> {
    Some(GpuResource {
        count,
        sku,
        ..GpuResource::default()
    })
}

pub(super) const CASES: &[Case] = &[
    case!(
        |g| g.properties.containers[0].properties.resources = None,
        "ResourceRequestsNotSpecified",
        "properties.containers[0].properties.resources.requests",
        "The resource requests are not specified in container 'web' of contain group 'shop'. Both memory and CPU \
         requests are required since API version '2017-07-01-preview'.",
    ),
    case!(
        |g| requests(g).cpu = None,
        "ResourceRequestsNotSpecified",
        "properties.containers[0].properties.resources.requests.cpu",
        "The resource requests are not specified in container 'web' of contain group 'shop'. Both memory and CPU \
         requests are required since API version '2017-07-01-preview'.",
    ),
    case!(
        |g| requests(g).cpu = Some(-2.0),
        "InvalidResourceRequests",
        "properties.containers[0].properties.resources.requests.cpu",
        "The CPU requirement is '-2' in container 'web' of container group 'shop'. The value must be greater than zero.",
    ),
    case!(
        |g| requests(g).memory_in_gb = Some(f64::INFINITY),
        "InvalidResourceRequests",
        "properties.containers[0].properties.resources.requests.memoryInGB",
        "The memory requirement is 'inf' in container 'web' of container group 'shop'. The value is not a finite number.",
    ),
    case!(
        |g| requests(g).memory_in_gb = Some(1.25),
        "MemoryRequirementNotTimesOfOneTenthGB",
        "properties.containers[0].properties.resources.requests.memoryInGB",
        "The memory requirement is '1.25' in container 'web' of container group 'shop'. The memory requirement should be \
         in increments of 0.1 GB.",
    ),
    case!(
        |g| requests(g).cpu = Some(0.755),
        "CpuRequirementNotTimesOfOneHundredthCore",
        "properties.containers[0].properties.resources.requests.cpu",
        "The CPU requirement is '0.755' in container 'web' of container group 'shop'. The CPU requirement should be in \
         increments of 0.01 cores.",
    ),
    case!(
        |g| limits(g).cpu = Some(0.5),
        "ResourceLimitsLessThanRequests",
        "properties.containers[0].properties.resources.limits.cpu",
        "The 'Cpu' limit '0.5' is less than the request '1' in container 'web' of container group 'shop'. The 'Cpu' limit \
         value must be greater than or equal to the request value.",
    ),
    case!(
        |g| limits(g).memory_in_gb = Some(1.0),
        "ResourceLimitsLessThanRequests",
        "properties.containers[0].properties.resources.limits.memoryInGB",
        "The 'MemoryInGB' limit '1' is less than the request '1.5' in container 'web' of container group 'shop'. The \
         'MemoryInGB' limit value must be greater than or equal to the request value.",
    ),
    case!(
        |g| limits(g).cpu = Some(1.6),
        "ContainerLimitGreaterThanContainerGroupTotalRequest",
        "properties.containers[0].properties.resources.limits.cpu",
        "The 'Cpu' limit '1.6' in container 'web' is greater than the total request '1.5' of container group 'shop'.",
    ),
    case!(
        |g| limits(g).memory_in_gb = Some(2.1),
        "ContainerLimitGreaterThanContainerGroupTotalRequest",
        "properties.containers[0].properties.resources.limits.memoryInGB",
        "The 'MemoryInGB' limit '2.1' in container 'web' is greater than the total request '2' of container group 'shop'.",
    ),
    case!(
        |g| {
            requests(g).cpu = Some(100.0);
            limits(g).cpu = None;
        },
        "ServiceUnavailable",
        "properties.containers",
        "The requested resource is not available in the location 'westeurope' at this moment. Please retry with a \
         different resource request or in another location. Resource requested: '100.5' CPU '2' GB memory 'Linux' OS \
         virtual network. At most '31' CPU '240' GB memory can be had.",
    ),
    case!(
        |g| {
            g.properties.priority = Some(Priority::Spot);
            g.properties.subnet_ids.clear();
            g.properties.ip_address = None;
            requests(g).memory_in_gb = Some(16.0);
            limits(g).memory_in_gb = None;
        },
        "ServiceUnavailable",
        "properties.containers",
        "The requested resource is not available in the location 'westeurope' at this moment. Please retry with a \
         different resource request or in another location. Resource requested: '1.5' CPU '16.5' GB memory 'Linux' OS. \
         At most '4' CPU '16' GB memory can be had.",
    ),
    case!(
        |g| requests(g).gpu = gpu(1, GpuSku::Other("H200".to_owned())),
        "InvalidGpuResource",
        "properties.containers[0].properties.resources.requests.gpu.sku",
        "The GPU sku 'H200' in container 'web' of container group 'shop' is invalid. The value must be one of \
         'K80,P100,V100'.",
    ),
    case!(
        |g| requests(g).gpu = gpu(3, GpuSku::V100),
        "InvalidGpuResource",
        "properties.containers[0].properties.resources.requests.gpu.count",
        "The GPU count '3' in container 'web' of container group 'shop' is invalid. The value must be one of '1,2,4'.",
    ),
    case!(
        |g| limits(g).gpu = gpu(1, GpuSku::V100),
        "InvalidGpuResource",
        "properties.containers[0].properties.resources.limits.gpu",
        "Container 'web' in container group 'shop' has a limit of 'V100' GPUs without a request for the same kind.",
    ),
    case!(
        |g| {
            requests(g).gpu = gpu(2, GpuSku::V100);
            limits(g).gpu = gpu(1, GpuSku::V100);
        },
        "ResourceLimitsLessThanRequests",
        "properties.containers[0].properties.resources.limits.gpu.count",
        "The 'Gpu' limit '1' is less than the request '2' in container 'web' of container group 'shop'. The 'Gpu' limit \
         value must be greater than or equal to the request value.",
    ),
];
