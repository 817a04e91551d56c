//! Tests of reading: forgiveness where people need it, places, and bounds.

use super::*;
use crate::model::ContainerGroup;

#[test]
fn unknown_properties_are_reported_and_kept() {
    let text = r#"{"name": "g", "apiVersion": "2021-10-01", "properties": {
        "containers": [], "pririty": "Spot", "priority": "Spot", "osTpye": {"a": [1, null, "x"]}}}"#;
    let document = read(text, Format::Json).unwrap();
    let warnings: Vec<_> = document
        .warnings
        .iter()
        .map(|w| (w.code.as_str(), w.path.as_str()))
        .collect();
    assert_eq!(
        warnings,
        [
            ("UnknownProperty", "properties.pririty"),
            ("PropertyNotInApiVersion", "properties.priority"),
            ("UnknownProperty", "properties.osTpye"),
        ]
    );
    assert!(
        document.warnings[0]
            .message
            .ends_with("Did you mean 'priority'?"),
        "{}",
        document.warnings[0].message
    );
    assert!(
        document.warnings[2]
            .message
            .ends_with("Did you mean 'osType'?")
    );
    let group = &document.groups[0];
    assert_eq!(
        ContainerGroup::from_json(&group.to_json(SecretMode::Reveal)).unwrap(),
        *group
    );
    assert!(!group.to_json(SecretMode::Redact).contains("osTpye"));
}

#[test]
fn keys_given_twice_are_refused_with_both_places() {
    let same = read("{\"name\": 1,\n \"name\": 2}", Format::Json).unwrap_err();
    assert_eq!(
        same.problems()[0].message,
        "Key 'name' stands here and at 1:2; remove one of them."
    );
    assert_eq!(
        (same.problems()[0].line, same.problems()[0].column),
        (Some(2), Some(2))
    );
    let by_case = inspect(
        r#"{"name": "a", "Name": "b", "properties": {}}"#,
        Format::Json,
    );
    assert_eq!(by_case.problems.len(), 1);
    assert_eq!(by_case.problems[0].path, "name");
    #[cfg(feature = "yaml")]
    {
        let yaml = read("a: 1\nb: 2\na: 3\n", Format::Yaml).unwrap_err();
        assert_eq!(
            yaml.problems()[0].message,
            "Key 'a' stands here and at 1:1; remove one of them."
        );
    }
}

#[test]
fn syntax_errors_name_their_place() {
    let cases = [
        ("", 1, 1),
        ("{", 1, 1),
        ("{\"a\": 1,}", 1, 9),
        ("{\"a\": [1,\n2\n", 1, 7),
        ("{\"a\": tru}", 1, 7),
        ("{\"a\": \"x", 1, 7),
        ("{\"a\" 1}", 1, 6),
        ("{a: 1}", 1, 2),
        ("{\"a\": \"\\ud800\"}", 1, 9),
        ("{} x", 1, 4),
        ("{\"a\": 01}", 1, 7),
        ("/* x", 1, 1),
    ];
    for (text, line, column) in cases {
        let error = read(text, Format::Json).unwrap_err();
        assert_eq!(error.aci_code(), Some("InvalidRequestContent"), "{text}");
        let problem = &error.problems()[0];
        assert_eq!(
            (problem.line, problem.column),
            (Some(line), Some(column)),
            "{text}: {}",
            problem.message
        );
    }
}

#[test]
fn json_with_comments_escapes_and_a_byte_order_mark_is_read() {
    let text = "\u{feff}// hi\n{\"a\\u00e9\\ud83d\\ude00\\n\": /* x */ [-1.5e+3, \"two\nlines\"]}";
    let node = parse(text, Format::Json).unwrap();
    assert_eq!(
        node.to_json(),
        serde_json::json!({"aé😀\n": [-1500.0, "two\nlines"]})
    );
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain("{\"é\": 1}".encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(decode(&utf16).unwrap(), "{\"é\": 1}");
    assert_eq!(decode(b"\xef\xbb\xbf{}").unwrap(), "{}");
    assert_eq!(decode(b"a\nb\xff").unwrap_err().problems()[0].line, Some(2));
}

#[test]
fn deep_documents_are_refused() {
    for format in [Format::Json, Format::Yaml] {
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let error = read(&text, format).unwrap_err();
        assert!(
            error.message().contains("levels deep") || cfg!(not(feature = "yaml")),
            "{}",
            error.message()
        );
    }
    let large = " ".repeat(MAX_BYTES + 1);
    assert!(
        read(&large, Format::Json)
            .unwrap_err()
            .message()
            .contains("at most")
    );
}

#[cfg(feature = "yaml")]
mod yaml {
    use super::*;
    use crate::document::tree::{Data, ScalarKind};
    use crate::model::RestartPolicy;

    const HELLO: &str = "\
apiVersion: 2019-12-01
location: eastus
Name: hello
Properties:
  Containers:
  - name: web
    properties:
      image: nginx
      ports:
      - port: '80'
        protocol: tcp
      resources:
        requests: {cpu: '0.5', memoryInGb: 1}
      environmentVariables:
      - {name: A, value: 0755}
      - {name: B, value: on}
      - {name: C, secureValue: hunter2}
      volumeMounts:
      - {name: store, mountPath: /s, readOnly: yes}
  osType: linux
  restartPolicy: onfailure
tags: {day: 2023-05-01, nothing: null}
type: Microsoft.ContainerInstance/containerGroups
";

    #[test]
    fn yaml_is_read_as_people_write_it() {
        let document = read(HELLO, Format::Yaml).unwrap();
        let group = &document.groups[0];
        assert_eq!(group.api_version.as_deref(), Some("2019-12-01"));
        assert_eq!(
            group.tags.iter().collect::<Vec<_>>(),
            [(&"day".to_owned(), &"2023-05-01".to_owned())]
        );
        assert_eq!(
            group.properties.restart_policy,
            Some(RestartPolicy::OnFailure)
        );
        let web = &group.container("web").unwrap().properties;
        assert_eq!(web.ports[0].port, 80);
        assert_eq!(web.environment_variables[0].value.as_deref(), Some("0755"));
        assert_eq!(web.environment_variables[1].value.as_deref(), Some("on"));
        assert_eq!(web.volume_mounts[0].read_only, Some(true));
        assert_eq!(document.warnings, []);
        let place = document
            .places
            .place("properties.containers[0].properties.image")
            .unwrap();
        assert_eq!((place.line, place.column), (8, 14));
        let near = document
            .places
            .nearest("properties.containers[0].properties.livenessProbe.exec")
            .unwrap();
        assert_eq!(near.line, 7);
    }

    #[test]
    fn all_problems_are_reported_with_their_places() {
        let text = "name: g\nproperties:\n  containers:\n  - properties: {ports: [{port: 70000}, {port: http}]}\n  - 3\n";
        let reading = inspect(text, Format::Yaml);
        let seen: Vec<_> = reading
            .problems
            .iter()
            .map(|p| (p.path.as_str(), p.line, p.message.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (
                    "properties.containers[0].properties.ports[0].port",
                    Some(4),
                    "Expected a whole number from 0 to 65535 at 'properties.containers[0].properties.ports[0].port', found '70000'."
                ),
                (
                    "properties.containers[0].properties.ports[1].port",
                    Some(4),
                    "Expected a whole number from 0 to 65535 at 'properties.containers[0].properties.ports[1].port', found 'http'."
                ),
                (
                    "properties.containers[0].name",
                    Some(4),
                    "Required property 'name' not found in JSON. Path 'properties.containers[0]'."
                ),
                (
                    "properties.containers[1]",
                    Some(5),
                    "Expected an object at 'properties.containers[1]', found a number."
                ),
            ]
        );
        assert_eq!(reading.document.groups[0].name, "g");
    }

    fn json(text: &str) -> serde_json::Value {
        parse(text, Format::Yaml).unwrap().to_json()
    }

    fn refused(text: &str) -> String {
        parse(text, Format::Yaml).unwrap_err().message().to_owned()
    }

    #[test]
    fn deep_block_collections_are_refused() {
        let text = (0..1000)
            .map(|i| format!("{}a:\n", " ".repeat(i)))
            .collect::<String>();
        assert!(refused(&text).contains("levels deep"));
        assert!(refused(&"- ".repeat(10_000)).contains("levels deep"));
    }

    #[test]
    fn aliases_are_resolved_within_a_budget() {
        assert_eq!(
            json("a: &x [1, b]\nc: *x\n"),
            serde_json::json!({"a": [1, "b"], "c": [1, "b"]})
        );
        assert!(refused("a: &x [*x]").contains("inside the value"));
        let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for i in 1..10 {
            let items = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb += &format!("a{i}: &a{i} [{items}]\n");
        }
        let start = std::time::Instant::now();
        assert!(refused(&bomb).contains("holds too much"));
        assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
        let long = format!(
            "a: &x '{}'\nb: [{}]\n",
            "x".repeat(1_000_000),
            vec!["*x"; 1000].join(", ")
        );
        assert!(refused(&long).contains("holds too much"));
    }

    #[test]
    fn aliases_do_not_deepen_a_document_beyond_its_bound() {
        let mut text = "a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n".to_owned();
        for i in 1..1000 {
            text += &format!("a{i}: &a{i} [[[[[[[[[[*a{}]]]]]]]]]]\n", i - 1);
        }
        assert!(refused(&text).contains("levels deep"));
    }

    #[test]
    fn wide_mappings_take_little_time() {
        let wide = |count, indent| {
            (0..count)
                .map(|i| format!("{indent}k{i}: v\n"))
                .collect::<String>()
        };
        let start = std::time::Instant::now();
        assert_eq!(json(&wide(50_000, "")).as_object().unwrap().len(), 50_000);
        let merged = json(&format!(
            "a: &a\n{}b:\n  <<: *a\n  k1: w\n",
            wide(20_000, "  ")
        ));
        assert_eq!(
            (&merged["b"]["k1"], &merged["b"]["k2"]),
            (&"w".into(), &"v".into())
        );
        assert_eq!(
            inspect(&wide(50_000, ""), Format::Yaml)
                .document
                .warnings
                .len(),
            50_000
        );
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        println!("took {:?}", start.elapsed());
    }

    #[test]
    fn passwords_without_quotes_stay_out_of_messages() {
        for value in [
            "!hunter2",
            "!hunter2 x",
            "*hunter2",
            "@hunter2",
            "`hunter2",
            "%hunter2",
            "'hunter2",
            "\"hunter2\\q\"",
            "[hunter2",
            "hunter2: x: y",
            "&hunter2 !x y",
            "|hunter2",
            "{hunter2",
            "!<hunter2> x",
            "!hunter2!x y",
        ] {
            let text = format!("secureValue: {value}\n");
            if let Err(error) = parse(&text, Format::Yaml) {
                assert!(
                    !format!("{error} {error:?}").contains("hunter2"),
                    "{value}: {error}"
                );
            }
            let text = format!("{{\"secureValue\": {value}}}");
            if let Err(error) = parse(&text, Format::Json) {
                assert!(
                    !format!("{error} {error:?}").contains("hunter2"),
                    "{value}: {error}"
                );
            }
        }
        assert!(refused("secureValue: !hunter2").contains("quotes"));
    }

    #[test]
    fn mappings_can_be_merged() {
        let text = "base: &b {x: 1, y: 2}\nt:\n  <<: *b\n  y: 3\nu: {y: 4, <<: [*b, {z: 5}]}\n";
        let value = json(text);
        assert_eq!(value["t"], serde_json::json!({"x": 1, "y": 3}));
        assert_eq!(value["u"], serde_json::json!({"y": 4, "x": 1, "z": 5}));
        assert!(refused("<<: 3").contains("'<<' needs"));
    }

    #[test]
    fn scalars_keep_their_text_and_tags_are_obeyed() {
        let node = parse(
            "- 0755\n- 1.0\n- !!str 80\n- '80'\n- !!int 80\n- ~\n-\n- True\n- 0x1f\n- 12:30",
            Format::Yaml,
        );
        let node = node.unwrap();
        let Data::List(items) = &node.data else {
            panic!("a list")
        };
        let kinds = items.iter().map(|i| match &i.data {
            Data::Scalar(s) => (s.kind, s.text.as_str()),
            _ => panic!("a scalar"),
        });
        use ScalarKind::{Bool, Null, Number, Text};
        let kinds = kinds.collect::<Vec<_>>();
        assert_eq!(
            kinds[..5],
            [
                (Text, "0755"),
                (Number, "1.0"),
                (Text, "80"),
                (Text, "80"),
                (Number, "80")
            ]
        );
        assert_eq!(
            kinds[5..],
            [
                (Null, "~"),
                (Null, "~"),
                (Bool(true), "True"),
                (Text, "0x1f"),
                (Text, "12:30")
            ]
        );
        assert!(refused("a: !secret x").contains("tag"));
        assert!(refused("a: !!int x").contains("tag"));
    }

    #[test]
    fn one_document_a_file() {
        assert!(refused("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(refused("").contains("empty"));
        assert!(refused("# only a comment\n").contains("empty"));
        assert!(refused("? [a]\n: b\n").contains("key"));
        assert!(refused("a: [1\n").contains("not YAML"));
        assert_eq!(json("--- \na: 1\n...\n"), serde_json::json!({"a": 1}));
    }
}

#[test]
fn templates_and_other_resources_are_named() {
    let template = r#"{"$schema": "https://x/deploymentTemplate.json#", "resources": []}"#;
    assert!(
        read(template, Format::Json)
            .unwrap_err()
            .message()
            .contains("deployment template")
    );
    let other = r#"{"type": "Microsoft.Compute/virtualMachines", "properties": {}}"#;
    let error = read(other, Format::Json).unwrap_err();
    assert_eq!(error.problems()[0].path, "type");
    let profile = r#"{"type": "microsoft.containerinstance/containergroupprofiles", "properties": {"osType": "Linux"}}"#;
    assert_eq!(read(profile, Format::Json).unwrap().profiles.len(), 1);
    assert!(ContainerGroup::from_json(profile).is_err());
    let list = r#"{"value": [{"name": "a", "properties": {}}, {"name": "b", "properties": {"containers": 3}}]}"#;
    let reading = inspect(list, Format::Json);
    assert_eq!(reading.document.groups.len(), 2);
    assert_eq!(reading.problems[0].path, "value[1].properties.containers");
}

#[test]
fn versions_that_are_not_known_are_reported() {
    let warnings = |version: &str| {
        let text = format!(r#"{{"apiVersion": "{version}", "properties": {{}}}}"#);
        let document = read(&text, Format::Json).unwrap();
        document
            .warnings
            .iter()
            .map(|w| (w.code.clone(), w.path.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(warnings("2021-10-01"), []);
    assert_eq!(
        warnings("2021"),
        [("UnknownApiVersion".to_owned(), "apiVersion".to_owned())]
    );
    assert_eq!(
        warnings("2199-01-01"),
        [("UnknownApiVersion".to_owned(), "apiVersion".to_owned())]
    );
    // What `az container export` adds.
    let exported =
        r#"{"additional_properties": {}, "properties": {"additional_properties": null}}"#;
    assert_eq!(read(exported, Format::Json).unwrap().warnings, []);
}
