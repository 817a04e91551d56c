//! The server as its page says to use it: signed in to by managed identity, a group put, looked at,
//! entered and measured; the server killed and started again; the group deleted. On namespaces, as
//! root and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

const ORDINARY: &str = "54321";
const GROUP: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/\
                     Microsoft.ContainerInstance/containerGroups/web";
const VERSION: &str = "api-version=2023-05-01";
const LAN: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/\
                   Microsoft.Network/virtualNetworks/lan?api-version=2023-04-01";
const DEPLOYMENT: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/\
                          providers/Microsoft.Resources/deployments/both?api-version=2021-04-01";
const STEPS: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/\
                     providers/Microsoft.Resources/deployments/both/operations?api-version=2021-04-01";

fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let target = deps.parent().unwrap().parent().unwrap();
    let program = target.join("examples/arm_server");
    assert!(
        program.exists(),
        "{} is missing: cargo build --examples",
        program.display()
    );
    program
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// A network namespace of the test's own, so that other engines of the machine, and what the test
/// leaves if it fails, are not in the way.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let script = "ip link set lo up; echo; exec sleep 600";
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", script])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self(child)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.0.id().to_string()]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server in a directory; killed when it is dropped.
struct Running<'n> {
    network: Option<&'n Network>,
    child: Child,
    dir: PathBuf,
    base: String,
}

impl<'n> Running<'n> {
    fn start(
        place: &Path,
        ordinary: bool,
        network: Option<&'n Network>,
        collector: Option<&Collector>,
    ) -> Self {
        let dir = place.join("state");
        let own = place.join("arm_server");
        let mut command = if ordinary {
            let mut command = Command::new("setpriv");
            command.args([
                &format!("--reuid={ORDINARY}"),
                &format!("--regid={ORDINARY}"),
                "--clear-groups",
            ]);
            command
                .args(["--inh-caps=-all", "--bounding-set=-all"])
                .arg(own);
            command
        } else {
            match network {
                Some(network) => {
                    let mut command = network.command();
                    command.arg(own);
                    command
                }
                None => Command::new(own),
            }
        };
        command
            .args(["--listen", "127.0.0.1:0", "--dir"])
            .arg(&dir)
            .env_remove("XDG_RUNTIME_DIR")
            .envs(collector.map(|c| ("OTEL_EXPORTER_OTLP_ENDPOINT", c.endpoint.clone())))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(place.join("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut base = String::new();
        for line in &mut lines {
            let line = line.unwrap();
            if let Some(found) = line.strip_prefix("listening on ") {
                base = found.to_owned();
            }
            if line.starts_with("for clients:") {
                break;
            }
        }
        let log = std::fs::read_to_string(place.join("log")).unwrap();
        assert!(!base.is_empty(), "{log}");
        // What it still says is read, so that it does not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            network,
            child,
            dir,
            base,
        }
    }

    /// Calls with what the server has written for clients.
    fn shell(&self, script: &str, arguments: &[&str]) -> Output {
        let script = format!(". {}/azure.env; {script}", self.dir.display());
        let mut command = match self.network {
            Some(network) => {
                let mut command = network.command();
                command.arg("sh");
                command
            }
            None => Command::new("sh"),
        };
        command.args(["-c", &script, "sh"]).args(arguments);
        command.output().unwrap()
    }

    fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> (u32, Value) {
        let url = format!("{}{path}", self.base);
        let script = format!(
            "curl -sS --cacert \"$REQUESTS_CA_BUNDLE\" -X {method} -H 'Authorization: Bearer {token}' -H \
             'Content-Type: application/json' -d \"$1\" -w '\\n%{{http_code}}' '{url}'"
        );
        let output = self.shell(&script, &[&body.to_string()]);
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let status = status.parse().unwrap_or_else(|_| panic!("{text} {said}"));
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Signs in as 'az login --identity' and the SDKs do.
    fn sign_in(&self) -> String {
        let script = "curl -sS --cacert \"$REQUESTS_CA_BUNDLE\" -H \"X-IDENTITY-HEADER: $IDENTITY_HEADER\" \
                      \"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=https://management.azure.com/\"";
        let output = self.shell(script, &[]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    fn wait_until(&self, token: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_at(&format!("{GROUP}?{VERSION}"), token, holds)
    }

    fn wait_at(&self, path: &str, token: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..300 {
            last = self.call("GET", path, token, &json!({})).1;
            if holds(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("it did not come so far: {last:#}");
    }

    /// Runs a command in the container through the WebSocket client that the Azure CLI uses.
    fn exec(&self, token: &str, command: &str) -> String {
        self.exec_in("web", token, command)
    }

    fn exec_in(&self, group: &str, token: &str, command: &str) -> String {
        let path = format!("{}/containers/web/exec?{VERSION}", sibling(group));
        let body = json!({"command": command, "terminalSize": {"rows": 24, "cols": 80}});
        let (status, ticket) = self.call("POST", &path, token, &body);
        assert_eq!(status, 200, "{ticket}");
        let script = "import sys, websocket\n\
             ws = websocket.create_connection(sys.argv[1])\n\
             ws.send(sys.argv[2])\n\
             while True:\n\
             \x20   opcode, data = ws.recv_data()\n\
             \x20   if opcode == websocket.ABNF.OPCODE_CLOSE:\n\
             \x20       print(int.from_bytes(data[:2], 'big'), data[2:].decode())\n\
             \x20       break\n\
             \x20   sys.stdout.write(data.decode())\n";
        let file = self.dir.parent().unwrap().join("exec.py");
        std::fs::write(&file, script).unwrap();
        let (uri, password) = (
            ticket["webSocketUri"].as_str().unwrap(),
            ticket["password"].as_str().unwrap(),
        );
        let file = file.display().to_string();
        let output = self.shell("/usr/bin/python3 \"$@\"", &[&file, uri, password]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As a crash does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        // setpriv has become the server, so this is its own process.
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Deletes the group of a test that has failed.
struct Clean<'n>(&'n Path, bool, Option<&'n Network>);

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let server = Running::start(self.0, self.1, self.2, None);
            let token = server.sign_in();
            let names = ["web", "inside", "caller", "first", "second"].map(sibling);
            for group in names.into_iter().chain([hello()]) {
                let path = format!("{group}?{VERSION}");
                server.call("DELETE", &path, &token, &json!({}));
                server.wait_at(&path, &token, |view| {
                    view["error"]["code"] == "ResourceNotFound"
                });
            }
            server.stop();
        }
    }
}

fn document() -> Value {
    json!({"location": "local", "identity": {"type": "SystemAssigned"}, "properties": {
        "osType": "Linux", "restartPolicy": "Always",
        "containers": [{"name": "web", "properties": {
            "image": "local/hello:1",
            "command": ["/bin/sh", "-c", "echo it serves; exec /bin/hello-web serve /etc 8080"],
            "resources": {"requests": {"cpu": 1, "memoryInGB": 0.5}}}}]}})
}

/// Another group of the same resource group.
fn sibling(name: &str) -> String {
    GROUP.replace("/web", &format!("/{name}"))
}

/// The group of the page.
fn hello() -> String {
    sibling("hello").replace("/rg/", "/demo/")
}

/// The first line and the body of each post.
type Posts = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes what OpenTelemetry's exporters post, and keeps it.
struct Collector {
    endpoint: String,
    posts: Posts,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let posts = Posts::default();
        let kept = Arc::clone(&posts);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                kept.lock().unwrap().push((first, body));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                reader.get_mut().write_all(answer).unwrap();
            }
        });
        Self { endpoint, posts }
    }

    /// Whether a post to a path had a word in it. Names are texts in OpenTelemetry's protocol.
    fn has(&self, path: &str, word: &str) -> bool {
        let posts = self.posts.lock().unwrap();
        posts.iter().any(|(first, body)| {
            first.starts_with(&format!("POST {path} "))
                && body.windows(word.len()).any(|w| w == word.as_bytes())
        })
    }
}

/// Two groups, the second after the first, which takes its time.
fn template() -> Value {
    let group = |name: &str, after: &[&str]| {
        let after = after
            .iter()
            .map(|a| format!("Microsoft.ContainerInstance/containerGroups/{a}"));
        let container = json!({"image": "local/hello:1", "command": ["/bin/sleep", "3600"],
            "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}});
        json!({"type": "Microsoft.ContainerInstance/containerGroups", "apiVersion": "2023-05-01",
            "name": name, "location": "local", "dependsOn": after.collect::<Vec<_>>(),
            "properties": {"osType": "Linux",
                "initContainers": [{"name": "slow", "properties": {
                    "image": "local/hello:1", "command": ["/bin/sleep", "3"]}}],
                "containers": [{"name": "c", "properties": container}]}})
    };
    json!({"properties": {"mode": "Incremental", "template": {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [group("first", &[]), group("second", &["first"])]}}})
}

/// A group in a subnet that clients have described; its address.
fn in_a_subnet(server: &Running<'_>, token: &str) -> String {
    let network = json!({"location": "local", "properties": {
        "addressSpace": {"addressPrefixes": ["10.77.0.0/16"]},
        "subnets": [{"name": "in", "properties": {"addressPrefix": "10.77.3.0/24"}}]}});
    let (status, put) = server.call("PUT", LAN, token, &network);
    assert_eq!(status, 201, "{put}");
    member(server, token, "inside")
}

/// Security rules decide what the groups of the subnet say to each other.
fn rules_are_in_force(server: &Running<'_>, token: &str, ip: &str) {
    member(server, token, "caller");
    let curl =
        format!("/usr/bin/curl -s -m 3 -o /dev/null -w %{{http_code}} http://{ip}:8080/hosts");
    let reaches = || server.exec_in("caller", token, &curl).contains("200");
    assert!(reaches());
    let rule = |access: &str| {
        let body = json!({"location": "local", "properties": {"securityRules": [{"name": "web", "properties": {
            "priority": 100, "direction": "Inbound", "access": access, "protocol": "Tcp",
            "sourceAddressPrefix": "VirtualNetwork", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "8080"}}]}});
        let (status, put) = server.call("PUT", &rules(), token, &body);
        assert!([200, 201].contains(&status), "{put}");
    };
    rule("Deny");
    let subnet = LAN.replace("/lan?", "/lan/subnets/in?");
    let group = json!({"id": rules().split('?').next().unwrap()});
    let body =
        json!({"properties": {"addressPrefix": "10.77.3.0/24", "networkSecurityGroup": group}});
    let (status, put) = server.call("PUT", &subnet, token, &body);
    assert_eq!(status, 200, "{put}");
    assert!(!reaches(), "the rule is not in force");
    rule("Allow");
    assert!(reaches());
    deleted(server, token, "caller");
}

/// The subnet's network security group.
fn rules() -> String {
    LAN.replace("virtualNetworks/lan", "networkSecurityGroups/rules")
}

/// A group of the subnet; its address.
fn member(server: &Running<'_>, token: &str, name: &str) -> String {
    let subnet = format!("{}/subnets/in", LAN.split('?').next().unwrap());
    let mut inside = document();
    inside["properties"]["subnetIds"] = json!([{"id": subnet}]);
    inside["properties"]["ipAddress"] =
        json!({"type": "Private", "ports": [{"port": 8080, "protocol": "TCP"}]});
    inside["properties"]["containers"][0]["properties"]["ports"] = json!([{"port": 8080}]);
    inside["properties"]["containers"][0]["properties"]["resources"] =
        json!({"requests": {"cpu": 0.1, "memoryInGB": 0.1}});
    let path = format!("{}?{VERSION}", sibling(name));
    let (status, put) = server.call("PUT", &path, token, &inside);
    assert_eq!(status, 201, "{put}");
    let view = server.wait_at(&path, token, |view| {
        view["properties"]["instanceView"]["state"] == "Running"
            && view["properties"]["ipAddress"]["ip"].is_string()
    });
    let ip = view["properties"]["ipAddress"]["ip"].as_str().unwrap();
    assert!(ip.starts_with("10.77.3."), "{ip}");
    ip.to_owned()
}

/// The group in the subnet is reached, and its network stays while it is there.
fn still_in_the_subnet(server: &Running<'_>, token: &str, ip: &str) {
    let script =
        format!("curl -sS --retry 20 --retry-connrefused --retry-delay 1 http://{ip}:8080/hosts");
    let said = server.shell(&script, &[]);
    assert!(said.status.success() && !said.stdout.is_empty(), "{said:?}");
    let (status, kept) = server.call("DELETE", LAN, token, &json!({}));
    assert_eq!(
        (status, &kept["error"]["code"]),
        (400, &json!("InUseSubnetCannotBeDeleted"))
    );
}

fn deleted(server: &Running<'_>, token: &str, name: &str) {
    let path = format!("{}?{VERSION}", sibling(name));
    let (status, _) = server.call("DELETE", &path, token, &json!({}));
    assert!([200, 202, 204].contains(&status), "{name}: {status}");
    server.wait_at(&path, token, |view| {
        view["error"]["code"] == "ResourceNotFound"
    });
}

fn as_the_page_says(ordinary: bool) {
    let place: TempDir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::copy(program(), place.path().join("arm_server")).unwrap();
    let network = is_root().then(Network::new).filter(|_| !ordinary);
    let network = network.as_ref();
    let _clean = Clean(place.path(), ordinary, network);
    // The server has to reach it, so not out of a network of its own.
    let collector = network.is_none().then(Collector::start);
    let collector = collector.as_ref();
    let server = Running::start(place.path(), ordinary, network, collector);
    let token = server.sign_in();
    let (status, _) = server.call("GET", &format!("{GROUP}?{VERSION}"), "wrong", &json!({}));
    assert_eq!(status, 401);
    for (wish, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let script = "curl -sS --cacert \"$REQUESTS_CA_BUNDLE\" -o /dev/null -w '%{http_version}' \"$1\" \
                      \"$ACI_ENDPOINT/metadata/endpoints?api-version=2022-09-01\"";
        let said = server.shell(script, &[wish]);
        assert_eq!(String::from_utf8_lossy(&said.stdout), version);
    }
    let (status, put) = server.call("PUT", &format!("{GROUP}?{VERSION}"), &token, &document());
    assert_eq!(status, 201, "{put}");
    let state = |view: &Value| view["properties"]["instanceView"]["state"] == "Running";
    let view = server.wait_until(&token, |v| {
        state(v) && v["properties"]["provisioningState"] == "Succeeded"
    });
    let started = |view: &Value| {
        let container = &view["properties"]["containers"][0]["properties"];
        container["instanceView"]["currentState"]["startTime"].clone()
    };
    let (status, logs) = server.call(
        "GET",
        &format!("{GROUP}/containers/web/logs?{VERSION}&tail=5"),
        &token,
        &json!({}),
    );
    assert_eq!(status, 200);
    assert!(
        logs["content"].as_str().unwrap().contains("it serves"),
        "{logs}"
    );
    let seen = server.exec(&token, "/bin/sh -c 'id; exit 3'");
    assert!(seen.contains("uid=0"), "{seen}");
    assert!(seen.contains(r#"1000 {"exitCode":3}"#), "{seen}");
    if !ordinary {
        let path = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault";
        let seen = server.exec(
            &token,
            &format!("/usr/bin/curl -sS -H 'Metadata: true' '{path}'"),
        );
        assert!(
            seen.contains("access_token") && seen.contains("\"token_type\":\"Bearer\""),
            "{seen}"
        );
        let seen = server.exec(&token, &format!("/usr/bin/curl -sS '{path}'"));
        assert!(seen.contains("Required metadata header"), "{seen}");
    }
    let metrics = format!(
        "{GROUP}/providers/Microsoft.Insights/metrics?api-version=2018-01-01&metricnames=MemoryUsage"
    );
    let (status, memory) = server.call("GET", &metrics, &token, &json!({}));
    assert_eq!(
        (status, &memory["value"][0]["unit"]),
        (200, &json!("Bytes"))
    );

    let named = &view["identity"];
    assert_eq!(named["type"], "SystemAssigned");
    assert!(
        named["principalId"]
            .as_str()
            .is_some_and(|id| id.len() == 36)
    );
    let inside = network.map(|_| in_a_subnet(&server, &token));
    if let Some(ip) = &inside {
        still_in_the_subnet(&server, &token, ip);
        rules_are_in_force(&server, &token, ip);
    }

    // Killed in the middle of its life and of a deployment: groups go on and are taken over, and
    // the deployment comes to its end.
    let (status, put) = server.call("PUT", DEPLOYMENT, &token, &template());
    assert_eq!(status, 201, "{put}");
    server.wait_at(STEPS, &token, |steps| {
        let steps = steps["value"].as_array().into_iter().flatten();
        let mut states = steps.map(|s| &s["properties"]["provisioningState"]);
        states.any(|state| state == "Running")
    });
    server.kill();
    let server = Running::start(place.path(), ordinary, network, collector);
    let token = server.sign_in();
    let end = server.wait_at(DEPLOYMENT, &token, |view| {
        view["properties"]["provisioningState"] != "Running"
    });
    assert_eq!(end["properties"]["provisioningState"], "Succeeded", "{end}");
    let (_, steps) = server.call("GET", STEPS, &token, &json!({}));
    assert_eq!(steps["value"].as_array().unwrap().len(), 2, "{steps}");
    deleted(&server, &token, "second");
    deleted(&server, &token, "first");
    if let Some(ip) = &inside {
        still_in_the_subnet(&server, &token, ip);
        deleted(&server, &token, "inside");
        for path in [LAN, &rules()] {
            let (status, gone) = server.call("DELETE", path, &token, &json!({}));
            assert_eq!(status, 200, "{gone}");
        }
    }
    let again = server.wait_until(&token, state);
    assert_eq!(started(&again), started(&view), "it was not started anew");
    assert!(server.exec(&token, "/bin/cat /etc/hosts").contains("1000"));
    deleted(&server, &token, "web");
    let dir = server.dir.clone();
    server.stop();
    if let Some(collector) = collector {
        assert!(
            collector.has("/v1/traces", "arm.request"),
            "no trace was sent"
        );
        assert!(collector.has("/v1/metrics", "aci_admissions_total"));
        // A gauge, whose value is kept between its changes.
        assert!(collector.has("/v1/metrics", "aci_groups"));
    }
    let left = aci_examples::leftovers::find(&[dir.to_str().unwrap()], &[]);
    assert!(left.is_empty(), "{left:?}");
    // The secret is in the files that are for it, and in nothing that was said.
    let secret = std::fs::read_to_string(dir.join("secret")).unwrap();
    let log = std::fs::read_to_string(place.path().join("log")).unwrap();
    assert!(!log.contains(secret.trim()) && !log.contains(&token));
    for file in [
        "secret",
        "token.key",
        "azure.env",
        "tls/server.key",
        "tls/ca.key",
    ] {
        let mode = std::fs::metadata(dir.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
}

/// The text of a code block of the server's page: the first one of a language below a heading.
fn of_the_page(heading: &str, language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("arm_server/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
    block.split("\n```").next().unwrap().to_owned()
}

/// What a newcomer copies from the page does what the page says.
#[test]
fn the_commands_of_the_page() {
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::copy(program(), place.path().join("arm_server")).unwrap();
    let network = is_root().then(Network::new);
    let _clean = Clean(place.path(), false, network.as_ref());
    let server = Running::start(place.path(), false, network.as_ref(), None);
    std::os::unix::fs::symlink(&server.dir, place.path().join("arm-server")).unwrap();
    let script = format!(
        "cd {}; set -eu; {}",
        place.path().display(),
        of_the_page("curl", "sh")
    );
    let said = server.shell(&script, &[]);
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success() && err.is_empty(), "{out}{err}");
    assert!(
        out.contains("\"provisioningState\":\"Pending\"") && out.contains("webSocketUri"),
        "{out}"
    );
    let token = server.sign_in();
    let hello = format!("{}?{VERSION}", hello());
    let (status, gone) = server.call("GET", &hello, &token, &json!({}));
    assert_eq!(status, 404, "{gone}");
    let dir = server.dir.clone();
    server.stop();
    let left = aci_examples::leftovers::find(&[dir.to_str().unwrap()], &[]);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn as_root() {
    if !is_root() {
        println!("SKIPPED: the tests do not run as root");
        return;
    }
    as_the_page_says(false);
}

#[test]
fn as_an_ordinary_user() {
    as_the_page_says(is_root());
}

/// An environment of its own with the newest packages of PyPI, kept below `target/tmp`.
fn python(name: &str, packages: &[&str]) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let done = home.join("done");
    if !done.exists() {
        let pip = home.join("bin/pip");
        let (home, pip) = (home.to_str().unwrap(), pip.to_str().unwrap());
        let mut install = vec![pip, "install", "--quiet"];
        install.extend(packages);
        for step in [vec!["python3", "-m", "venv", home], install] {
            let done = Command::new(step[0]).args(&step[1..]).status().unwrap();
            assert!(done.success(), "{step:?}");
        }
        std::fs::write(done, "").unwrap();
    }
    home.join("bin")
}

/// The page's programs, with the SDKs that it names and the managed identity, see what is there.
#[test]
#[ignore = "installs SDKs from PyPI and npm; make cli-arm"]
fn the_programs_of_the_page() {
    let python = python(
        "azure-sdk",
        &["azure-identity", "azure-mgmt-containerinstance"],
    );
    let node = Path::new(env!("CARGO_TARGET_TMPDIR")).join("azure-sdk-node");
    let packages = ["@azure/identity", "@azure/arm-containerinstance"];
    let mut install = Command::new("npm");
    install.args([
        "install",
        "--loglevel=error",
        "--no-fund",
        "--no-audit",
        "--prefix",
    ]);
    assert!(
        install
            .arg(&node)
            .args(packages)
            .status()
            .unwrap()
            .success()
    );
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(program(), place.path().join("arm_server")).unwrap();
    let network = is_root().then(Network::new);
    let _clean = Clean(place.path(), false, network.as_ref());
    let server = Running::start(place.path(), false, network.as_ref(), None);
    let token = server.sign_in();
    // The page's Python program asks for the logs of this one.
    let hello = format!("{}?{VERSION}", hello());
    let (status, put) = server.call("PUT", &hello, &token, &document());
    assert_eq!(status, 201, "{put}");
    server.wait_at(&hello, &token, |v| {
        v["properties"]["provisioningState"] == "Succeeded"
    });
    let write = |name: &str, text: String| {
        let file = place.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let sees = |command: &str, file: String, wanted: &str| {
        let said = server.shell(command, &[&file]);
        let out = String::from_utf8_lossy(&said.stdout);
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && out.contains(wanted), "{out}{err}");
    };
    let file = write("page.py", of_the_page("Python", "python"));
    sees(
        &format!("{}/python \"$1\"", python.display()),
        file,
        "hello Succeeded",
    );
    let file = write("page.cjs", of_the_page("JavaScript", "js"));
    let modules = node.join("node_modules");
    sees(
        &format!("NODE_PATH={} node \"$1\"", modules.display()),
        file,
        "hello Succeeded",
    );
    let (status, _) = server.call("DELETE", &hello, &token, &json!({}));
    assert!([200, 202].contains(&status), "{status}");
    server.wait_at(&hello, &token, |view| {
        view["error"]["code"] == "ResourceNotFound"
    });
    server.stop();
}

#[test]
#[ignore = "installs the Azure CLI, 700 MB; make cli-arm"]
fn the_azure_cli() {
    let az = python("azure-cli", &["azure-cli"]).join("az");
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(program(), place.path().join("arm_server")).unwrap();
    let network = is_root().then(Network::new);
    let server = Running::start(place.path(), false, network.as_ref(), None);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = |name: &str| here.join(name).display().to_string();
    let said = server.shell(
        "sh \"$@\"",
        &[
            &path("tests/azure_cli.sh"),
            &az.display().to_string(),
            &path("groups/hello.yaml"),
            &path("tests/typed.py"),
            if network.is_some() { "addresses" } else { "" },
        ],
    );
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    println!("{err}{out}");
    server.stop();
    assert!(said.status.success() && out.contains("passed: "));
}
