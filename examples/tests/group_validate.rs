//! The program `group_validate`, run as a process on documents right and wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program beside this test's own; built now where only this test was asked for.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap().join("examples");
    let program = folder.join(format!("group_validate{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args([
                "build",
                "--offline",
                "--package",
                "aci-examples",
                "--example",
                "group_validate",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success());
    }
    program
}

/// Runs the program in a folder with these files.
fn run(files: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    run_in(folder.path(), arguments)
}

fn run_in(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program())
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

const WEB: &str = "\
apiVersion: '2023-05-01'
name: web
location: westeurope
type: Microsoft.ContainerInstance/containerGroups
properties:
  osType: Linux
  initContainers:
  - name: prepare
    properties:
      image: busybox
      command: [/bin/true]
  containers:
  - name: server
    properties:
      image: nginx:1.27
      ports:
      - port: 80
      resources:
        requests: {cpu: 1, memoryInGB: 1.5}
  - name: log
    properties:
      image: busybox
      resources:
        requests: {cpu: 0.5, memoryInGB: 0.5}
  ipAddress:
    type: Public
    ports:
    - port: '80'
";

const WRONG: &str = "\
name: web
properties:
  osType: Linus
  containers:
  - name: Server
    properties:
      image: nginx
      ports:
      - port: 80
      - port: 80
      resources:
        requests: {cpu: 100, memoryInGB: 1.25}
";

const TEMPLATE: &str = r#"{
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {
    "name": { "type": "string" },
    "cpu": { "type": "int", "defaultValue": 2 }
  },
  "resources": [
    {
      "type": "Microsoft.ContainerInstance/containerGroups",
      "apiVersion": "2023-05-01",
      "name": "[concat(parameters('name'), '-group')]",
      "location": "[resourceGroup().location]",
      "properties": {
        "osType": "Linux",
        "containers": [
          {
            "name": "[parameters('name')]",
            "properties": {
              "image": "nginx",
              "resources": { "requests": { "cpu": "[parameters('cpu')]", "memoryInGB": 4 } }
            }
          }
        ],
        "volumes": [
          {
            "name": "share",
            "azureFile": {
              "shareName": "files",
              "storageAccountName": "store",
              "storageAccountKey": "[listKeys(resourceId('Microsoft.Storage/storageAccounts', 'store'), '2019-06-01').keys[0].value]"
            }
          }
        ]
      }
    }
  ]
}"#;

#[test]
fn a_valid_document_is_told_in_one_line() {
    let (code, out, err) = run(&[("web.yaml", WEB)], &["web.yaml"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(
        out,
        "web.yaml: web: 2 containers, 1 init container, 1.5 CPU, 2 GB\n"
    );
}

#[test]
fn every_problem_has_its_place() {
    let (code, out, _) = run(&[("wrong.yaml", WRONG)], &["wrong.yaml"]);
    assert_eq!(code, 1);
    let found: Vec<(&str, &str)> = out
        .lines()
        .map(|line| {
            let code = line.rsplit('(').next().unwrap().trim_end_matches(')');
            (line.split(": ").next().unwrap(), code)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("wrong.yaml:3:11", "InvalidOsType"),
            ("wrong.yaml:5:11", "InvalidContainerName"),
            ("wrong.yaml:10:9", "DuplicateContainerPorts"),
            ("wrong.yaml:12:42", "MemoryRequirementNotTimesOfOneTenthGB"),
        ],
        "{out}"
    );
    assert!(
        out.contains(
            "The memory requirement is '1.25' in container 'Server' of container group 'web'."
        ),
        "{out}"
    );
}

#[test]
fn a_hundred_cores_are_refused() {
    let text = WRONG
        .replace("Linus", "Linux")
        .replace("Server", "server")
        .replace("      - port: 80\n      - port: 80\n", "      - port: 80\n")
        .replace("1.25", "1");
    let (code, out, _) = run(&[("big.yaml", &text)], &["big.yaml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("Resource requested: '100' CPU '1' GB memory 'Linux' OS"),
        "{out}"
    );
    assert!(out.ends_with("(ServiceUnavailable)\n"), "{out}");
}

#[test]
fn all_files_are_checked_and_one_wrong_one_counts() {
    let files = [("web.yaml", WEB), ("wrong.yaml", WRONG)];
    let (code, out, _) = run(&files, &["web.yaml", "missing.yaml", "wrong.yaml"]);
    assert_eq!(code, 1);
    let heads: Vec<&str> = out
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(heads[..2], ["web.yaml", "missing.yaml"]);
    assert!(heads[2..].iter().all(|head| *head == "wrong.yaml"), "{out}");
    assert!(
        out.contains("missing.yaml: The file cannot be read: No such file or directory"),
        "{out}"
    );
    assert!(out.contains("(CannotRead)"), "{out}");
}

#[test]
fn texts_that_cannot_be_read_say_where() {
    let twice = "name: a\nproperties:\n  osType: Linux\n  osType: Windows\n";
    let files = [
        ("twice.yaml", twice),
        ("open.yaml", "properties:\n  osType: 'Linux\n"),
        ("open.json", "{\n  \"name\": \"a\",\n"),
        ("list.yaml", "- a\n- b\n"),
        ("empty.yaml", ""),
        ("binary.yaml", "\u{1}\u{2}"),
    ];
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let (code, out, _) = run(&files, &names);
    assert_eq!(code, 1);
    for name in &names {
        let lines: Vec<&str> = out.lines().filter(|line| line.starts_with(name)).collect();
        assert!(!lines.is_empty(), "{name}: {out}");
        for line in lines {
            assert!(line.ends_with("(InvalidRequestContent)"), "{line}");
            let place = line[name.len() + 1..].split(':').next().unwrap();
            assert!(place.parse::<u32>().is_ok(), "{line}");
        }
    }
    assert!(
        out.lines().any(|line| line.starts_with("twice.yaml:4:3:")),
        "{out}"
    );
}

#[test]
fn a_template_takes_its_parameters_from_a_file() {
    let parameters = r#"{ "parameters": { "name": { "value": "shop" } } }"#;
    let files = [("template.json", TEMPLATE), ("parameters.json", parameters)];
    let (code, out, _) = run(
        &files,
        &["template.json", "--parameters", "parameters.json"],
    );
    assert_eq!(code, 0, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(
        lines[0].starts_with("template.json:31:") && lines[0].contains(": warning: "),
        "{out}"
    );
    assert!(lines[0].contains("listKeys"), "{out}");
    assert_eq!(
        lines[1],
        "template.json: shop-group: 1 container, 2 CPU, 4 GB"
    );

    let (code, out, _) = run(
        &files,
        &[
            "template.json",
            "--parameters",
            "parameters.json",
            "--strict",
        ],
    );
    assert_eq!(code, 1, "{out}");
}

#[test]
fn a_template_with_a_wrong_value_says_where_the_value_comes_from() {
    let parameters = r#"{ "parameters": { "name": { "value": "Shop" }, "cpu": { "value": 64 } } }"#;
    let files = [("template.json", TEMPLATE), ("parameters.json", parameters)];
    let (code, out, _) = run(
        &files,
        &["template.json", "--parameters", "parameters.json"],
    );
    assert_eq!(code, 1);
    assert!(
        out.contains("template.json:18:21: The container name 'Shop'"),
        "{out}"
    );
    assert!(
        out.contains("Resource requested: '64' CPU '4' GB memory"),
        "{out}"
    );

    let (code, out, _) = run(&files, &["template.json"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("name") && out.contains("template.json:"),
        "{out}"
    );

    let (code, out, _) = run(&files, &["template.json", "--parameters", "none.json"]);
    assert_eq!(code, 1);
    assert!(
        out.starts_with("none.json: The file cannot be read"),
        "{out}"
    );
}

#[test]
fn profiles_and_lists_are_documents_too() {
    let profile = WEB
        .replace("containerGroups", "containerGroupProfiles")
        .replace("2023-05-01", "2025-09-01");
    let list = r#"{"value": [{"name": "a", "properties": {"osType": "Linux", "containers": []}}]}"#;
    let (code, out, _) = run(&[("profile.yaml", &profile)], &["profile.yaml"]);
    assert_eq!(code, 0, "{out}");
    assert_eq!(
        out,
        "profile.yaml: web (profile): 2 containers, 1 init container, 1.5 CPU, 2 GB\n"
    );
    let (code, out, _) = run(&[("list.json", list)], &["list.json"]);
    assert_eq!(code, 1);
    assert!(out.ends_with("(MissingContainers)\n"), "{out}");
}

#[test]
fn programs_get_json() {
    let (code, out, _) = run(
        &[("web.yaml", WEB), ("wrong.yaml", WRONG)],
        &["--json", "web.yaml", "wrong.yaml"],
    );
    assert_eq!(code, 1);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["valid"], false);
    let [web, wrong] = &value["documents"].as_array().unwrap()[..] else {
        panic!("{out}")
    };
    assert_eq!(
        web["groups"],
        serde_json::json!([{
            "name": "web", "kind": "group", "containers": 2, "initContainers": 1,
            "cpu": 1.5, "memoryInGB": 2.0, "gpus": 0
        }])
    );
    assert_eq!(
        (&web["valid"], &web["problems"]),
        (&true.into(), &serde_json::json!([]))
    );
    let first = &wrong["problems"][0];
    assert_eq!(first["code"], "InvalidOsType");
    assert_eq!(first["path"], "properties.osType");
    assert_eq!((&first["line"], &first["column"]), (&3.into(), &11.into()));
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [&[][..], &["--wrong", "x"], &["x", "--parameters"]] {
        let (code, out, err) = run(&[], arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains("--help"), "{err}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let text = WEB.replace(
        "      image: nginx:1.27\n",
        "      image: nginx:1.27\n      environmentVariables:\n      - {name: bad-name, secureValue: hunter2, value: x}\n",
    );
    let (code, out, err) = run(&[("web.yaml", &text)], &["web.yaml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("'bad-name'") && !out.contains("hunter2") && !err.contains("hunter2"),
        "{out}"
    );
}
