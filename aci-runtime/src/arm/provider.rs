//! What the providers say of themselves: endpoints, operations, types, usages, capabilities, images.

use std::collections::BTreeMap;

use aci_core::model::ApiVersion;
use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::auth::Need;
use super::call::Call;
use super::error::{ArmError, ArmResult};
use super::route::{FIRST, Route, Versions};
use super::{Front, reply};

/// The api-versions of Azure Container Instances that clients are told of. Any date from the first
/// to the last is taken.
pub(crate) const ACI_VERSIONS: &[&str] = &[
    "2026-07-01",
    "2026-06-01-preview",
    "2025-09-01",
    "2024-11-01-preview",
    "2024-10-01-preview",
    "2024-09-01-preview",
    "2024-05-01-preview",
    "2023-05-01",
    "2022-10-01-preview",
    "2022-09-01",
    "2021-10-01",
    "2021-09-01",
    "2021-07-01",
    "2021-03-01",
    "2020-11-01",
    "2019-12-01",
    "2018-10-01",
    "2018-09-01",
    "2018-06-01",
    "2018-04-01",
];

/// What other providers' types are asked for with, as a rule.
const OTHER_VERSIONS: &[&str] = &[
    "2024-05-01",
    "2023-05-01",
    "2022-09-01",
    "2021-04-01",
    "2019-06-01",
];

pub(crate) fn routes() -> Vec<Route> {
    let aci = |route: Route| route.versions(Versions::Aci(FIRST));
    const PROVIDERS: &str = "Microsoft.Resources/subscriptions/providers/read";
    vec![
        aci(Route::new(
            Method::GET,
            "/providers/Microsoft.ContainerInstance/operations",
            "Microsoft.ContainerInstance/operations/read",
            |call| operations(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/locations/{location}/usages",
            "Microsoft.ContainerInstance/locations/usages/read",
            |call| usages(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/locations/{location}/capabilities",
            "Microsoft.ContainerInstance/locations/capabilities/read",
            |call| capabilities(call).boxed(),
        )),
        aci(Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerInstance/locations/{location}/cachedImages",
            "Microsoft.ContainerInstance/locations/cachedImages/read",
            |call| cached_images(call).boxed(),
        )),
        Route::new(
            Method::GET,
            "/metadata/endpoints",
            "Microsoft.Resources/metadata/read",
            |call| endpoints(call).boxed(),
        )
        .need(Need::Open),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers",
            PROVIDERS,
            |call| providers(call).boxed(),
        ),
        Route::new(
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/{resourceProviderNamespace}",
            PROVIDERS,
            |call| provider(call).boxed(),
        ),
        Route::new(
            Method::POST,
            "/subscriptions/{subscriptionId}/providers/{resourceProviderNamespace}/register",
            "Microsoft.Resources/subscriptions/providers/register/action",
            |call| provider(call).boxed(),
        ),
        Route::new(Method::GET, "/providers", PROVIDERS, |call| {
            providers(call).boxed()
        }),
        Route::new(
            Method::GET,
            "/providers/{resourceProviderNamespace}",
            PROVIDERS,
            |call| provider(call).boxed(),
        ),
    ]
}

/// The actions that roles can be made of, from the table of routes.
async fn operations(call: Call) -> ArmResult {
    let mut actions: Vec<&str> = call
        .front
        .routes
        .iter()
        .map(|route| route.action)
        .filter(|action| action.starts_with("Microsoft.ContainerInstance/"))
        .collect();
    actions.sort_unstable();
    actions.dedup();
    let value: Vec<_> = actions
        .into_iter()
        .map(|action| {
            let verb = action.strip_suffix("/action").unwrap_or(action);
            let (resource, operation) = verb.rsplit_once('/').unwrap_or((verb, ""));
            let resource = resource.trim_start_matches("Microsoft.ContainerInstance/");
            json!({
                "name": action,
                "display": {
                    "provider": "Microsoft Container Instance",
                    "resource": resource,
                    "operation": operation,
                    "description": format!("{operation} of {resource}"),
                },
                "origin": "User",
            })
        })
        .collect();
    Ok(reply::ok(&json!({ "value": value })))
}

/// The smaller of the quota and what the machine has; both count.
async fn usages(call: Call) -> ArmResult {
    let usage = call.front.engine.usage();
    let cores = |cpu: aci_core::size::Cpu| u64::from(cpu.hundredths() / 100);
    let used = usage.in_use.total.cpu;
    let limit = usage.quota.cpu.min(usage.capacity.cpu);
    let gpus = |all: &[aci_core::size::Gpus], sku: &str| -> u64 {
        let of_kind = all
            .iter()
            .filter(|g| g.sku.to_string().eq_ignore_ascii_case(sku));
        of_kind.map(|g| u64::from(g.count)).sum()
    };
    let mut value = vec![
        (
            "ContainerGroups",
            "Container Groups",
            u64::from(usage.in_use.groups),
            // What int32 holds; schemas want no more.
            u64::from(usage.quota.groups.min(i32::MAX.unsigned_abs())),
        ),
        (
            "StandardCores",
            "Standard Cores",
            u64::from(used.cores_rounded_up()),
            cores(limit),
        ),
    ];
    for (name, localized, sku) in [
        ("StandardK80Cores", "Standard K80 Cores", "K80"),
        ("StandardP100Cores", "Standard P100 Cores", "P100"),
        ("StandardV100Cores", "Standard V100 Cores", "V100"),
    ] {
        let there = gpus(&usage.capacity.gpus, sku);
        value.push((name, localized, gpus(&usage.in_use.total.gpus, sku), there));
    }
    // Not in the description of 2021-10-01 and before.
    let with_id = call.version >= "2022-09-01".parse().unwrap_or_default();
    let value: Vec<Value> = value
        .into_iter()
        .map(|(name, localized, current, limit)| {
            let mut one = json!({
                "unit": "Count",
                "currentValue": current,
                "limit": limit,
                "name": {"value": name, "localizedValue": localized},
            });
            if with_id {
                one["id"] = json!(format!(
                    "/subscriptions/{}/providers/Microsoft.ContainerInstance/locations/{}/usages/{name}",
                    call.subscription(),
                    call.value("location")
                ));
            }
            one
        })
        .collect();
    Ok(reply::ok(&json!({ "value": value })))
}

async fn capabilities(call: Call) -> ArmResult {
    let engine = &call.front.engine;
    let usage = engine.usage();
    let limit = usage.quota.cpu.min(usage.capacity.cpu);
    let isolation = engine.isolation_capability();
    let systems: &[&str] = if isolation.windows {
        &["Linux", "Windows"]
    } else {
        &["Linux"]
    };
    let one = |system: &str, address: &str, gpu: String, count: u32| {
        json!({
            "resourceType": "containerGroups",
            "osType": system,
            "location": engine.options().location,
            "ipAddressType": address,
            "gpu": gpu,
            "capabilities": {
                "maxMemoryInGB": usage.capacity.memory.gb(),
                "maxCpu": limit.cores(),
                "maxGpuCount": count,
            },
        })
    };
    let mut value = Vec::new();
    for system in systems {
        for address in ["Public", "Private"] {
            value.push(one(system, address, "None".to_owned(), 0));
            for gpu in &usage.capacity.gpus {
                value.push(one(system, address, gpu.sku.to_string(), gpu.count));
            }
        }
    }
    Ok(reply::ok(&json!({ "value": value })))
}

/// The images that need no pull.
async fn cached_images(call: Call) -> ArmResult {
    let images = call.front.engine.images().await?;
    let value: Vec<Value> = images
        .into_iter()
        .map(|image| json!({"osType": "Linux", "image": image.reference}))
        .collect();
    Ok(reply::ok(&json!({ "value": value })))
}

/// What clients ask first, before they have a token: where to get one, and for whom. Azure has
/// answered three shapes; clients ask for the one that they read.
async fn endpoints(call: Call) -> ArmResult {
    let base = call.base();
    let options = &call.front.options;
    let login = options
        .login_endpoint
        .clone()
        .unwrap_or_else(|| base.clone());
    let slashed = format!("{base}/");
    let since = |text: &str| text.parse::<ApiVersion>().is_ok_and(|v| call.version >= v);
    if !since("2018-05-01") {
        return Ok(reply::ok(&json!({
            "galleryEndpoint": slashed,
            "graphEndpoint": slashed,
            "portalEndpoint": slashed,
            "authentication": {"loginEndpoint": login, "audiences": [slashed, base]},
        })));
    }
    let cloud = json!({
        "name": options.cloud_name,
        "portal": slashed,
        "authentication": {
            "loginEndpoint": login,
            "audiences": [slashed, base],
            "tenant": options.tenant_id,
            "identityProvider": "AAD",
        },
        "media": slashed,
        "graphAudience": slashed,
        "graph": slashed,
        "suffixes": {"storage": "core.windows.net"},
        "batch": slashed,
        "resourceManager": slashed,
        "gallery": slashed,
        "microsoftGraphResourceId": slashed,
        "activeDirectoryDataLake": slashed,
    });
    Ok(reply::ok(&if since("2022-09-01") {
        cloud
    } else {
        json!([cloud])
    }))
}

/// The namespaces and their types, from the table of routes.
fn namespaces(front: &Front) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for route in &front.routes {
        let action = route.action.strip_suffix("/action");
        let action = action.unwrap_or(route.action);
        let Some((namespace, rest)) = action.split_once('/') else {
            continue;
        };
        let Some((kind, _)) = rest.rsplit_once('/') else {
            continue;
        };
        let kinds = all.entry(namespace).or_default();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    all
}

fn provider_value(front: &Front, subscription: &str, namespace: &str, kinds: &[&str]) -> Value {
    let location = &front.engine.options().location;
    let types: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            let versions = if namespace == "Microsoft.ContainerInstance" {
                ACI_VERSIONS
            } else {
                OTHER_VERSIONS
            };
            json!({
                "resourceType": kind,
                "locations": [location],
                "apiVersions": versions,
                "capabilities": "None",
            })
        })
        .collect();
    let id = if subscription.is_empty() {
        format!("/providers/{namespace}")
    } else {
        format!("/subscriptions/{subscription}/providers/{namespace}")
    };
    json!({
        "id": id,
        "namespace": namespace,
        "resourceTypes": types,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
    })
}

async fn providers(call: Call) -> ArmResult {
    let all = namespaces(&call.front);
    let value: Vec<Value> = all
        .iter()
        .map(|(namespace, kinds)| {
            provider_value(&call.front, call.subscription(), namespace, kinds)
        })
        .collect();
    Ok(reply::ok(&json!({ "value": value })))
}

/// One provider; registering it is no more than asking for it, because all are.
async fn provider(call: Call) -> ArmResult {
    let wanted = call.value("resourceProviderNamespace");
    let all = namespaces(&call.front);
    let found = all
        .iter()
        .find(|(namespace, _)| namespace.eq_ignore_ascii_case(wanted));
    match found {
        Some((namespace, kinds)) => {
            let value = provider_value(&call.front, call.subscription(), namespace, kinds);
            Ok(reply::ok(&value))
        }
        None => Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "InvalidResourceNamespace",
            format!("The resource namespace '{wanted}' is invalid."),
        )),
    }
}
