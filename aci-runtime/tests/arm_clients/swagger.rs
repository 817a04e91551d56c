//! The published description of the API: its example requests are taken or refused with a reason,
//! and what is answered validates against the description of the request's version.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aci_core::fake::{FakeHost, TokioClock};
use aci_runtime::arm::{ArmApi, ArmOptions, danger};
use axum::body::Body;
use axum::extract::Request;
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

fn shared(path: &str) -> Option<PathBuf> {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(path);
    if whole.exists() {
        return Some(whole);
    }
    println!("SKIPPED: no {path} beside this checkout");
    None
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A front on fakes that takes any subscription.
struct Front(axum::Router);

impl Front {
    async fn new() -> Self {
        let host = FakeHost::new(Arc::new(TokioClock::new()));
        let mut host = host;
        host.images = host.images.with_image("nginx", &["serve", "80"]);
        let engine = super::server::fake_engine(&host).await;
        let mut options = ArmOptions::default();
        options.subscriptions = Vec::new();
        let api = ArmApi::builder(engine)
            .store(host.store.clone())
            .authorizer(danger::Everybody)
            .options(options)
            .build()
            .await
            .unwrap();
        Self(api.router())
    }

    async fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "localhost");
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let answer = self.0.clone().oneshot(request.unwrap()).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, value)
    }
}

fn group(subscription: &str, name: &str, version: &str) -> String {
    format!(
        "/subscriptions/{subscription}/resourceGroups/demo/providers/Microsoft.ContainerInstance/containerGroups/{name}?api-version={version}"
    )
}

/// Why an example is not run here; each is checked to be the reason that is given.
const REASONS: &[(&str, &str)] = &[
    // The examples ask for K80 GPUs, which Azure has retired and the fake machine has not.
    ("ServiceUnavailable", "K80"),
    // A public address in a virtual network: Azure refuses that, too.
    ("InvalidIpAddressTypeForNetworkProfile", "\"Public\""),
];

#[tokio::test]
async fn the_examples_requests_are_taken_or_refused_with_a_reason() {
    let Some(corpus) = shared("corpus/swagger-examples") else {
        return;
    };
    let front = Front::new().await;
    let (mut taken, mut refused) = (Vec::new(), BTreeMap::new());
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    for path in files {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some((version, rest)) = file.split_once("__") else {
            continue;
        };
        if !file.ends_with("__req.json") {
            continue;
        }
        let name = format!("{version}-{}", rest.split("__").next().unwrap()).to_lowercase();
        let (status, answer) = front
            .ask("PUT", &group("subid", &name, version), Some(&read(&path)))
            .await;
        if status.is_success() {
            assert!(
                answer["properties"]["provisioningState"].is_string(),
                "{file}: {answer}"
            );
            taken.push(file.clone());
            let (status, _) = front
                .ask("DELETE", &group("subid", &name, version), None)
                .await;
            assert_eq!(status, StatusCode::OK);
        } else {
            assert!(status.is_client_error(), "{file}: {status} {answer}");
            let error = &answer["error"];
            let code = error["code"].as_str().unwrap_or_default();
            let text = answer.to_string();
            assert!(
                error["message"].as_str().is_some_and(|m| m.len() > 20),
                "{file}: {answer}"
            );
            let known = REASONS.iter().any(|(c, says)| {
                *c == code && (text.contains(says) || read(&path).to_string().contains(says))
            });
            assert!(
                known,
                "{file} is refused for a reason that this test does not know: {answer}"
            );
            refused.insert(file.clone(), code.to_owned());
        }
    }
    println!("taken: {}, refused: {refused:?}", taken.len());
    assert!(taken.len() + refused.len() >= 10);
}

/// The example requests of the other operations, as the description has them.
#[tokio::test]
async fn the_examples_of_all_operations_are_answered_as_described() {
    let Some(folder) = shared("spec/swagger/2021-10-01") else {
        return;
    };
    let swagger = read(&folder.join("containerInstance.json"));
    let front = Front::new().await;
    let mut made = read(&folder.join("examples/ContainerGroupsCreateOrUpdate.json"))["parameters"]
        ["containerGroup"]
        .clone();
    // As the machine has no GPU, and a public address is refused in a network; see the test above.
    let properties = made["properties"].as_object_mut().unwrap();
    properties.remove("subnetIds");
    for container in made["properties"]["containers"].as_array_mut().unwrap() {
        container["properties"]["resources"]["requests"]
            .as_object_mut()
            .unwrap()
            .remove("gpu");
    }
    let mut tried = 0;
    for (path, methods) in swagger["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (title, example) in operation["x-ms-examples"].as_object().unwrap() {
                let example = read(&folder.join(example["$ref"].as_str().unwrap()));
                let mut target = path.clone();
                let mut query = String::new();
                let mut body = None;
                let mut about = None;
                for (name, value) in example["parameters"].as_object().unwrap() {
                    let text = value
                        .as_str()
                        .map_or_else(|| value.to_string(), |t| t.replace(' ', "%20"));
                    let hole = format!("{{{name}}}");
                    if target.contains(&hole) {
                        target = target.replace(&hole, &text);
                    } else if value.is_object() {
                        body = Some(value.clone());
                    } else if !value.is_array() {
                        query.push_str(&format!("&{name}={text}"));
                    }
                }
                // What an example leaves out is called by its own name.
                let target = target.replace(['{', '}'], "");
                // What the operation is about is there.
                if let Some((resource, name)) = target.split_once("/containerGroups/") {
                    let name = name.split('/').next().unwrap();
                    let at = format!("{resource}/containerGroups/{name}?api-version=2021-10-01");
                    let mut document = made.clone();
                    let wanted = example["parameters"]["containerName"]
                        .as_str()
                        .unwrap_or("app");
                    document["properties"]["containers"][0]["name"] = json!(wanted);
                    let (status, answer) = front.ask("PUT", &at, Some(&document)).await;
                    assert!(status.is_success(), "{title}: {answer}");
                    settled(&front, &at).await;
                    about = Some(at);
                    if method == "put" {
                        body = Some(document);
                    }
                } else if target.contains("/resourceGroups/") {
                    let at = target.split("/providers/").next().unwrap();
                    let at = format!("{at}?api-version=2021-04-01");
                    front
                        .ask("PUT", &at, Some(&json!({"location": "local"})))
                        .await;
                }
                let target = format!("{target}?{}", query.trim_start_matches('&'));
                let (status, answer) = front
                    .ask(&method.to_uppercase(), &target, body.as_ref())
                    .await;
                let described = &operation["responses"][status.as_str()];
                assert!(
                    described.is_object(),
                    "{title}: {method} {target} answers {status}: {answer}"
                );
                match described.get("schema") {
                    Some(schema) => {
                        let problems = problems(&swagger, schema, &answer);
                        assert!(problems.is_empty(), "{title}: {problems:#?}\n{answer:#}");
                    }
                    None => assert!(answer.is_null(), "{title}: {answer}"),
                }
                // Its name label is for the next one.
                if let Some(about) = about {
                    front.ask("DELETE", &about, None).await;
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 17, "only {tried}");
}

/// Waits until the group of an address is up.
async fn settled(front: &Front, at: &str) {
    for _ in 0..2_000 {
        let (_, answer) = front.ask("GET", at, None).await;
        let state = &answer["properties"]["instanceView"]["state"];
        let done = &answer["properties"]["provisioningState"];
        if state == "Running" && done == "Succeeded" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{at} does not come up");
}

/// Everything in which a value differs from a schema of the description; a property that the schema
/// does not have is one, too.
fn problems(swagger: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut root = json!({"definitions": swagger["definitions"], "allOf": [schema]});
    // Other than JSON Schema's: `format: int32` and the like say nothing that matters here.
    root["$schema"] = json!("http://json-schema.org/draft-04/schema#");
    let validator = jsonschema::draft4::new(&root).unwrap();
    let mut found: Vec<String> = validator
        .iter_errors(value)
        .map(|e| format!("{}: {e}", e.instance_path()))
        // Required of requests; ACI never answers it, and its own example answers have it not.
        .filter(|e| !e.contains("\"workspaceKey\" is a required property"))
        .collect();
    unknown(swagger, schema, value, "", &mut found);
    found
}

/// The properties of a schema, with those of what it is composed of.
fn properties<'a>(
    swagger: &'a Value,
    schema: &'a Value,
    all: &mut BTreeMap<&'a str, &'a Value>,
) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return properties(swagger, &swagger["definitions"][name], all);
    }
    let mut open = schema.get("additionalProperties").is_some();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        open |= properties(swagger, part, all);
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        all.insert(name, schema);
    }
    open
}

fn unknown(swagger: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let mut known = BTreeMap::new();
            let open = properties(swagger, schema, &mut known);
            for (name, inner) in map {
                match known.get(name.as_str()) {
                    Some(schema) => {
                        unknown(swagger, schema, inner, &format!("{path}/{name}"), found)
                    }
                    None if open || known.is_empty() => {}
                    None => found.push(format!("{path}/{name}: not in the description")),
                }
            }
        }
        Value::Array(items) => {
            let mut schema = schema;
            if let Some(name) = schema["$ref"].as_str() {
                schema = &swagger["definitions"][name.rsplit('/').next().unwrap()];
            }
            for (i, item) in items.iter().enumerate() {
                unknown(
                    swagger,
                    &schema["items"],
                    item,
                    &format!("{path}[{i}]"),
                    found,
                );
            }
        }
        _ => {}
    }
}

/// What only answers have; the schemas describe requests.
const READ_ONLY: &[&str] = &[
    "id",
    "systemData",
    "instanceView",
    "provisioningState",
    "revision",
    "registeredRevisions",
    "isCreatedFromStandbyPool",
    "fqdn",
    "principalId",
    "tenantId",
];

fn without_read_only(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
            map.values_mut().for_each(without_read_only);
        }
        Value::Array(items) => items.iter_mut().for_each(without_read_only),
        _ => {}
    }
}

/// Stricter, and usable without a network: objects have no further properties, and a size may have
/// a fraction (the schemas' `integer` stands for the reference's `number`).
fn strict(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let expression = map.get("$ref").and_then(Value::as_str);
            if expression.is_some_and(|r| r.ends_with("/definitions/expression")) {
                *value = json!({"type": "string", "pattern": "^\\[.*\\]$"});
                return;
            }
            let fixed = map
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|p| !p.is_empty());
            if fixed
                && map.get("type") == Some(&json!("object"))
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
            for (key, inner) in map.iter_mut() {
                if matches!(key.as_str(), "cpu" | "memoryInGB") && inner["oneOf"].is_array() {
                    inner["oneOf"][0]["type"] = json!("number");
                }
                strict(inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}

/// A group with something of every age; each version shows what it knows of it.
fn rich() -> Value {
    json!({
        "location": "local",
        "tags": {"a": "b"},
        "zones": ["1"],
        "properties": {
            "osType": "Linux",
            "sku": "Standard",
            "priority": "Regular",
            "restartPolicy": "OnFailure",
            "ipAddress": {"type": "Public", "ports": [{"port": 8080}]},
            "dnsConfig": {"nameServers": ["192.0.2.53"], "searchDomains": "example.org", "options": "ndots:2"},
            "imageRegistryCredentials": [{"server": "registry.example.org", "username": "u", "password": "p"}],
            "initContainers": [{"name": "first", "properties": {"image": "job", "volumeMounts": [{"name": "shared-files", "mountPath": "/s"}]}}],
            "containers": [{"name": "app", "properties": {
                "image": "hello",
                "ports": [{"port": 8080, "protocol": "TCP"}],
                "environmentVariables": [{"name": "A", "value": "1"}, {"name": "B", "secureValue": "2"}],
                "resources": {"requests": {"cpu": 1.5, "memoryInGB": 1}, "limits": {"cpu": 1.5, "memoryInGB": 1}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "http"}, "periodSeconds": 60},
                "readinessProbe": {"exec": {"command": ["true"]}, "initialDelaySeconds": 1},
                "securityContext": {"runAsUser": 1, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "shared-files", "mountPath": "/s", "readOnly": true}]
            }}],
            "volumes": [{"name": "shared-files", "emptyDir": {}}, {"name": "secret-files", "secret": {"k": "dg=="}}]
        }
    })
}

#[tokio::test]
async fn answers_of_every_version_have_its_shape() {
    let Some(folder) = shared("spec/arm-schemas") else {
        return;
    };
    let front = Front::new().await;
    for (i, version) in [
        "2021-10-01",
        "2023-05-01",
        "2025-09-01",
        "2026-06-01-preview",
    ]
    .into_iter()
    .enumerate()
    {
        let mut schema = read(&folder.join(format!("{version}.json")));
        strict(&mut schema);
        let root = json!({
            "$schema": "http://json-schema.org/draft-04/schema#",
            "definitions": schema["definitions"],
            "allOf": [schema["resourceDefinitions"]["containerGroups"]],
        });
        let validator = jsonschema::draft4::new(&root).unwrap();
        let at = group("subid", &format!("rich-{i}"), version);
        let (status, answer) = front.ask("PUT", &at, Some(&rich())).await;
        assert_eq!(status, StatusCode::CREATED, "{version}: {answer}");
        settled(&front, &at).await;
        let (_, got) = front.ask("GET", &at, None).await;
        let list = format!(
            "/subscriptions/subid/providers/Microsoft.ContainerInstance/containerGroups?api-version={version}"
        );
        let (_, listed) = front.ask("GET", &list, None).await;
        for mut answer in [answer, got, listed["value"][0].clone()] {
            without_read_only(&mut answer);
            answer["apiVersion"] = json!(version);
            // Secrets are required of requests and in no answer.
            let errors: Vec<_> = validator
                .iter_errors(&answer)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{version}: {errors:#?}\n{answer:#}");
        }
    }
    // What is younger than the version is not shown, and neither is a secret.
    let (_, old) = front
        .ask("GET", &group("subid", "rich-0", "2018-04-01"), None)
        .await;
    let text = old.to_string();
    for young in [
        "initContainers",
        "sku",
        "zones",
        "dnsConfig",
        "livenessProbe",
        "securityContext",
        "priority",
        "systemData",
        "\"B\":",
    ] {
        assert!(!text.contains(young), "2018-04-01 shows {young}: {old}");
    }
    assert_eq!(
        old["properties"]["containers"][0]["properties"]["image"],
        "hello"
    );
}
