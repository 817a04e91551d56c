//! Deployment templates that people published: every one yields its container groups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aci_core::document::SecretMode;
use aci_core::template::{EvaluationContext, Parameters, StorageKeys, Template};
use serde_json::{Value, json};

/// A template: its file, the parameters that it is given, its groups with their images, and how
/// many resources there are in all.
struct Case {
    file: &'static str,
    parameters: Value,
    groups: &'static [(&'static str, &'static [&'static str])],
    resources: usize,
}

const HELLO: &str = "mcr.microsoft.com/azuredocs/aci-helloworld";

fn cases() -> Vec<Case> {
    vec![
        Case {
            file: "azure-quickstart-templates/101-aci-linuxcontainer-public-ip__azuredeploy.json",
            parameters: json!({ "restartPolicy": "onfailure" }),
            groups: &[("acilinuxpublicipcontainergroup", &[HELLO])],
            resources: 1,
        },
        Case {
            file: "azure-quickstart-templates/101-aci-vnet__azuredeploy.json",
            parameters: json!({}),
            groups: &[("aci-containergroup", &["microsoft/aci-helloworld"])],
            resources: 3,
        },
        Case {
            file: "azure-quickstart-templates/201-aci-linuxcontainer-secure-environmentvariables__azuredeploy.json",
            parameters: json!({
                "containergroupname": "secure", "containername": "web",
                "environmentVariableName": "TOKEN", "environmentVariableValue": "hunter2",
            }),
            groups: &[("secure", &["nginx"])],
            resources: 1,
        },
        Case {
            file: "azure-quickstart-templates/201-aci-linuxcontainer-volume-gitrepo__azuredeploy.json",
            parameters: json!({ "containergroupname": "git", "containername": "web", "volumename": "source" }),
            groups: &[("git", &["nginx"])],
            resources: 1,
        },
        Case {
            file: "azure-quickstart-templates/201-aci-sftp-files-existing-storage__azuredeploy.json",
            parameters: json!({
                "existingStorageAccountResourceGroupName": "storage", "existingStorageAccountName": "mystore",
                "existingFileShareName": "share", "sftpUser": "ann", "sftpPassword": "hunter2",
            }),
            groups: &[("sftp-group", &["atmoz/sftp:latest"])],
            resources: 2,
        },
        Case {
            file: "azure-quickstart-templates/201-aci-udp__azuredeploy.json",
            parameters: json!({ "containerName": "udpserver" }),
            groups: &[("udpserver-udp1", &["annonator/aciudptest:latest"])],
            resources: 1,
        },
        Case {
            file: "azure-quickstart-templates/201-aci-wordpress__azuredeploy.json",
            parameters: json!({ "mysqlPassword": "hunter2", "storageAccountName": "mystore" }),
            groups: &[(
                "wordpress-containerinstance",
                &["wordpress:4.9-apache", "mysql:5.6"],
            )],
            resources: 6,
        },
        Case {
            file: "Azure+azure-docs-json-samples/container-instances__aci-deploy-volume-emptydir.json",
            parameters: json!({}),
            groups: &[(
                "volume-demo-emptydir",
                &[
                    "mcr.microsoft.com/azuredocs/aci-helloworld:latest",
                    "mcr.microsoft.com/azuredocs/aci-tutorial-sidecar",
                ],
            )],
            resources: 1,
        },
        Case {
            file: "Azure+azure-docs-json-samples/container-instances__aci-deploy-volume-gitrepo.json",
            parameters: json!({}),
            groups: &[("volume-demo-gitrepo", &["microsoft/aci-helloworld:latest"])],
            resources: 1,
        },
        Case {
            file: "Azure+azure-docs-json-samples/container-instances__aci-deploy-volume-secret.json",
            parameters: json!({}),
            groups: &[("secret-volume-demo", &["microsoft/aci-helloworld:latest"])],
            resources: 1,
        },
        Case {
            file: "Azure-Samples+azure-cli-samples/container-instances__nat-gateway-arm-template.json",
            parameters: json!({ "resourceGroupName": "demo" }),
            groups: &[("appcontainer", &[HELLO]), ("testegress", &[HELLO])],
            resources: 7,
        },
    ]
}

fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("SKIPPED: the folder {} is missing", folder.display());
    None
}

fn context() -> EvaluationContext<'static> {
    EvaluationContext::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .resource_group("demo", "westeurope")
}

fn template(folder: &Path, file: &str) -> Template {
    Template::parse(&fs::read_to_string(folder.join(file)).unwrap())
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_template_yields_its_groups() {
    let Some(folder) = corpus() else { return };
    let keys = StorageKeys::new().account("mystore", "c3RvcmFnZS1rZXk=");
    for case in cases() {
        let file = case.file;
        let context = context()
            .resolver(&keys)
            .parameters(Parameters::from_value(&case.parameters).unwrap());
        let evaluated = template(&folder, file)
            .evaluate(&context)
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            evaluated.resources.len(),
            case.resources,
            "{file}: {:?}",
            evaluated.resources
        );
        let groups = evaluated
            .container_groups()
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let found: Vec<(&str, Vec<&str>)> = groups
            .iter()
            .map(|group| {
                let images = group
                    .properties
                    .containers
                    .iter()
                    .map(|container| container.properties.image.as_deref().unwrap_or_default());
                (group.name.as_str(), images.collect())
            })
            .collect();
        let expected: Vec<(&str, Vec<&str>)> = case
            .groups
            .iter()
            .map(|(name, images)| (*name, images.to_vec()))
            .collect();
        assert_eq!(found, expected, "{file}");
        for group in &groups {
            let text = group.to_json(SecretMode::Reveal);
            assert!(
                !text.contains("\"["),
                "{file}: an expression is left in {text}"
            );
            assert!(
                !format!("{evaluated:?}").contains("hunter2"),
                "{file}: a secret is shown"
            );
        }
    }
}

/// The list above is complete: no template of the corpus is left out.
#[test]
fn every_template_is_listed() {
    let Some(folder) = corpus() else { return };
    let listed: Vec<PathBuf> = cases().iter().map(|case| folder.join(case.file)).collect();
    for inner in fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
    {
        for path in fs::read_dir(inner)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let text = fs::read_to_string(&path).unwrap();
            if path.extension().is_some_and(|ending| ending == "json")
                && text.contains("deploymentTemplate.json")
            {
                assert!(listed.contains(&path), "{} is not tested", path.display());
            }
        }
    }
}

/// What is set in the templates arrives in the groups.
#[test]
fn values_arrive() {
    let Some(folder) = corpus() else { return };
    let keys = StorageKeys::new().account("mystore", "c3RvcmFnZS1rZXk=");
    let groups = |file: &str| {
        let case = cases()
            .into_iter()
            .find(|case| case.file.contains(file))
            .unwrap();
        let context = context()
            .resolver(&keys)
            .parameters(Parameters::from_value(&case.parameters).unwrap());
        let evaluated = template(&folder, case.file).evaluate(&context).unwrap();
        evaluated
            .container_groups()
            .unwrap()
            .iter()
            .map(|group| json_of(&group.to_json(SecretMode::Reveal)))
            .collect::<Vec<_>>()
    };
    let sftp = &groups("201-aci-sftp")[0]["properties"];
    assert_eq!(
        sftp["containers"][0]["properties"]["environmentVariables"][0]["value"],
        "ann:hunter2:1001"
    );
    assert_eq!(
        sftp["containers"][0]["properties"]["volumeMounts"][0]["mountPath"],
        "/home/ann/upload"
    );
    assert_eq!(
        sftp["volumes"][0]["azureFile"]["storageAccountKey"],
        "c3RvcmFnZS1rZXk="
    );
    let udp = &groups("201-aci-udp")[0];
    assert_eq!(udp["location"], "westeurope");
    assert_eq!(
        udp["properties"]["containers"][0]["properties"]["resources"]["requests"],
        json!({"cpu": 1, "memoryInGB": 1.5})
    );
    assert_eq!(udp["properties"]["ipAddress"]["ports"][0]["port"], 1234);
    let wordpress = &groups("201-aci-wordpress")[0]["properties"];
    let label = wordpress["ipAddress"]["dnsNameLabel"].as_str().unwrap();
    assert!(
        label.len() == 13
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    );
    let vnet = &groups("101-aci-vnet")[0]["properties"];
    assert!(
        vnet["networkProfile"]["id"]
            .as_str()
            .unwrap()
            .ends_with("/networkProfiles/aci-networkProfile")
    );
    let nat = groups("nat-gateway");
    assert_eq!(
        nat[1]["properties"]["containers"][0]["properties"]["command"],
        json!(["curl", "-s", "http://checkip.dyndns.org"])
    );
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Without the keys the group cannot be had, and the error says which expression waits for them.
#[test]
fn storage_keys_are_asked_for() {
    let Some(folder) = corpus() else { return };
    let case = cases()
        .into_iter()
        .find(|case| case.file.contains("201-aci-sftp"))
        .unwrap();
    let context = context().parameters(Parameters::from_value(&case.parameters).unwrap());
    let error = template(&folder, case.file)
        .evaluate(&context)
        .unwrap()
        .container_groups()
        .unwrap_err();
    let problem = &error.problems()[0];
    assert_eq!(problem.code, "InvalidTemplate");
    assert_eq!(
        problem.path,
        "resources[1].properties.volumes[0].azureFile.storageAccountKey"
    );
    assert!(problem.line.is_some());
    for part in [
        "[listKeys(variables('storageAccountId'),'2018-02-01').keys[0].value]",
        "/resourceGroups/storage/",
        "resolver",
    ] {
        assert!(
            problem.message.contains(part),
            "{part}: {}",
            problem.message
        );
    }
    assert!(!error.to_string().contains("hunter2"));
}

/// A parameter that has no default and no value is named.
#[test]
fn missing_parameters_are_named() {
    let Some(folder) = corpus() else { return };
    for case in cases() {
        let template = template(&folder, case.file);
        let required: Vec<String> = template
            .parameters()
            .filter(|info| info.required)
            .map(|info| info.name.to_owned())
            .collect();
        match (template.evaluate(&context()), required.first()) {
            (Ok(_), None) => {}
            (Err(error), Some(first)) => {
                let text = error.to_string();
                assert!(
                    text.contains(&format!("'{first}' is not provided")),
                    "{}: {text}",
                    case.file
                );
                assert!(text.contains("at line "), "{}: {text}", case.file);
            }
            (result, required) => panic!(
                "{}: {required:?} is missing, yet {:?}",
                case.file,
                result.map(|_| ())
            ),
        }
    }
}

/// A template as the Bicep compiler writes it: symbolic names, a module, functions of the
/// compiler's namespace, loaded text, types by reference.
const COMPILED: &str = r##"{
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "languageVersion": "2.0",
  "contentVersion": "1.0.0.0",
  "metadata": { "_generator": { "name": "bicep", "version": "0.30.3.12046", "templateHash": "1" } },
  "definitions": {
    "sizeType": { "type": "object", "properties": { "cpu": { "type": "string" }, "memory": { "type": "int" } } }
  },
  "functions": [{
    "namespace": "__bicep",
    "members": {
      "label": {
        "parameters": [{ "type": "string", "name": "app" }, { "type": "int", "name": "index" }],
        "output": { "type": "string", "value": "[format('{0}-{1:D2}', toLower(parameters('app')), parameters('index'))]" }
      }
    }
  }],
  "parameters": {
    "app": { "type": "string", "minLength": 2, "maxLength": 20 },
    "count": { "type": "int", "defaultValue": 2, "minValue": 1, "maxValue": 5 },
    "size": { "$ref": "#/definitions/sizeType", "defaultValue": { "cpu": "0.5", "memory": 1 } },
    "settings": { "type": "object", "defaultValue": { "B_KEY": "two", "A_KEY": "one" } },
    "password": { "type": "securestring", "nullable": true },
    "stamp": { "type": "string", "defaultValue": "[utcNow('yyyy-MM-dd')]" }
  },
  "variables": {
    "$fxv#0": "#!/bin/sh\necho ready > /shared/index.html\n",
    "environment": "[map(items(parameters('settings')), lambda('item', createObject('name', lambdaVariables('item').key, 'value', lambdaVariables('item').value)))]",
    "secrets": "[if(empty(parameters('password')), createArray(), createArray(createObject('name', 'PASSWORD', 'secureValue', parameters('password'))))]"
  },
  "resources": {
    "existingNet": {
      "existing": true, "type": "Microsoft.Network/virtualNetworks", "apiVersion": "2024-01-01", "name": "shared-net"
    },
    "web": {
      "copy": { "name": "web", "count": "[length(range(0, parameters('count')))]", "mode": "serial", "batchSize": 1 },
      "type": "Microsoft.ContainerInstance/containerGroups",
      "apiVersion": "2023-05-01",
      "name": "[__bicep.label(parameters('app'), add(copyIndex(), 1))]",
      "location": "[resourceGroup().location]",
      "tags": "[union(createObject('stamp', parameters('stamp')), coalesce(tryGet(parameters('settings'), 'tags'), createObject()))]",
      "zones": "[if(equals(mod(copyIndex(), 2), 0), createArray('1'), null())]",
      "properties": {
        "osType": "Linux",
        "restartPolicy": "OnFailure",
        "subnetIds": [{ "id": "[resourceId('Microsoft.Network/virtualNetworks/subnets', 'shared-net', 'apps')]" }],
        "initContainers": [{
          "name": "prepare",
          "properties": {
            "image": "busybox:1.36",
            "command": ["/bin/sh", "-c", "[variables('$fxv#0')]"],
            "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }]
          }
        }],
        "containers": [{
          "name": "web",
          "properties": {
            "image": "[reference('names').outputs.image.value]",
            "environmentVariables": "[concat(variables('environment'), variables('secrets'))]",
            "resources": { "requests": {
              "cpu": "[json(parameters('size').cpu)]", "memoryInGB": "[parameters('size').memory]" } },
            "ports": "[map(range(0, 2), lambda('i', createObject('port', add(8080, lambdaVariables('i')), 'protocol', 'TCP')))]",
            "volumeMounts": [{ "name": "shared", "mountPath": "/srv" }]
          }
        }],
        "volumes": [{ "name": "shared", "emptyDir": {} }]
      },
      "dependsOn": ["names"]
    },
    "names": {
      "type": "Microsoft.Resources/deployments",
      "apiVersion": "2022-09-01",
      "name": "[format('names-{0}', uniqueString(deployment().name))]",
      "properties": {
        "expressionEvaluationOptions": { "scope": "inner" },
        "mode": "Incremental",
        "parameters": { "tag": { "value": "1.27" } },
        "template": {
          "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
          "languageVersion": "2.0",
          "contentVersion": "1.0.0.0",
          "parameters": { "tag": { "type": "string" } },
          "resources": {},
          "outputs": { "image": { "type": "string", "value": "[format('docker.io/library/nginx:{0}', parameters('tag'))]" } }
        }
      }
    }
  },
  "outputs": {
    "ids": {
      "type": "array",
      "copy": { "count": "[length(range(0, parameters('count')))]", "input": "[resourceInfo(format('web[{0}]', copyIndex())).id]" }
    },
    "address": { "type": "string", "value": "[reference('web[0]').ipAddress.ip]" }
  }
}"##;

#[test]
fn a_compiled_template_yields_its_groups() {
    let template = Template::parse(COMPILED).unwrap();
    let parameters = Parameters::from_json(r#"{ "app": "Shop", "password": "hunter2" }"#).unwrap();
    let evaluated = template
        .evaluate(&context().parameters(parameters))
        .unwrap();
    let groups = evaluated.container_groups().unwrap();
    assert_eq!(
        groups
            .iter()
            .map(|group| group.name.as_str())
            .collect::<Vec<_>>(),
        ["shop-01", "shop-02"]
    );
    let group = json_of(&groups[0].to_json(SecretMode::Reveal));
    assert_eq!(group["tags"]["stamp"], "2023-11-14");
    assert_eq!(group["zones"], json!(["1"]));
    let container = &group["properties"]["containers"][0]["properties"];
    assert_eq!(container["image"], "docker.io/library/nginx:1.27");
    assert_eq!(
        container["resources"]["requests"],
        json!({"cpu": 0.5, "memoryInGB": 1})
    );
    assert_eq!(container["ports"][1]["port"], 8081);
    let names = container["environmentVariables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["A_KEY", "B_KEY", "PASSWORD"]);
    assert_eq!(
        container["environmentVariables"][2]["secureValue"],
        "hunter2"
    );
    assert_eq!(
        evaluated
            .output("ids")
            .unwrap()
            .value
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(evaluated.output("address").unwrap().complete().is_err());
    assert!(!format!("{evaluated:?}").contains("hunter2"));

    let error = template
        .evaluate(&context().parameters(Parameters::new().with("app", "x")))
        .unwrap_err();
    assert!(error.to_string().contains("minimum length '2'"), "{error}");
    let zones = template
        .evaluate(&context().parameters(Parameters::new().with("app", "shop").with("count", 1)))
        .unwrap();
    let group = json_of(&zones.container_groups().unwrap()[0].to_json(SecretMode::Reveal));
    assert_eq!(
        group["properties"]["containers"][0]["properties"]["environmentVariables"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}
