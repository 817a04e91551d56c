//! What a container asks for and may use.

use super::macros::{object, open_enum};

object! {
    /// What a container asks for and may use.
    ResourceRequirements {
        /// What it is given for certain; the group gets the sum over its containers.
        requests: Option<ResourceRequests> => "requests" [] "2018-04-01" / "2017-08-01-preview";
        /// What it may use at most; absent: what it asks for.
        limits: Option<ResourceLimits> => "limits" [] "2018-04-01" / "2017-08-01-preview";
    }
}

object! {
    /// What a container is given for certain. CPU and memory have to be given.
    ResourceRequests {
        /// Memory in GB, in steps of 0.1.
        memory_in_gb: Option<f64> => "memoryInGB" [] "2018-04-01" / "2017-08-01-preview";
        /// CPU in cores, in steps of 0.01.
        cpu: Option<f64> => "cpu" [] "2018-04-01" / "2017-08-01-preview";
        /// GPUs.
        gpu: Option<GpuResource> => "gpu" [] "2018-10-01";
    }
}

object! {
    /// What a container may use at most.
    ResourceLimits {
        /// Memory in GB.
        memory_in_gb: Option<f64> => "memoryInGB" [] "2018-04-01" / "2017-08-01-preview";
        /// CPU in cores.
        cpu: Option<f64> => "cpu" [] "2018-04-01" / "2017-08-01-preview";
        /// GPUs.
        gpu: Option<GpuResource> => "gpu" [] "2018-10-01";
    }
}

object! {
    /// GPUs of one kind.
    GpuResource {
        /// How many.
        count: u32 => "count" [required] "2018-10-01";
        /// Which.
        sku: GpuSku => "sku" [required] "2018-10-01";
    }
}

open_enum! {
    /// A kind of GPU.
    GpuSku {
        /// NVIDIA Tesla K80.
        K80 = "K80",
        /// NVIDIA Tesla P100.
        P100 = "P100",
        /// NVIDIA Tesla V100.
        V100 = "V100",
    }
}
