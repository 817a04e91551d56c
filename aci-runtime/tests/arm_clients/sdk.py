"""Drives the front with Azure's own SDK: python sdk.py BASE_URL TOKEN CA_FILE IMAGE.

Every answer is compared with what the SDK's models made of it: nothing may be lost.
"""

import datetime
import json
import sys
import time

import azure.mgmt.containerinstance as package
import websocket
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.containerinstance import ContainerInstanceManagementClient, models

BASE, TOKEN, CA, IMAGE = sys.argv[1:5]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "Sdk-Tests"


class Static:
    def get_token(self, *scopes, **kwargs):
        return AccessToken(TOKEN, int(time.time()) + 3600)


answers = []


def remember(response):
    answers.append(response.http_response)


client = ContainerInstanceManagementClient(
    Static(),
    SUBSCRIPTION,
    base_url=BASE,
    credential_scopes=[BASE + "/.default"],
    connection_verify=CA,
    polling_interval=1,
    raw_response_hook=remember,
)
groups, containers, location = client.container_groups, client.containers, client.location


def plain(value):
    """A value as JSON has it, in one spelling of times and numbers."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).timestamp()
    if isinstance(value, str):
        if len(value) >= 20 and value[4:5] == "-" and value[10:11] == "T":
            try:
                text = value.replace("Z", "+00:00")
                if "." in text:
                    head, tail = text.split(".", 1)
                    digits = "".join(c for c in tail if c.isdigit() or c in "+:")
                    fraction, zone = digits.split("+", 1)
                    text = f"{head}.{fraction[:6].ljust(6, '0')}+{zone}"
                return datetime.datetime.fromisoformat(text).timestamp()
            except ValueError:
                return value
        return value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return value


def lost(raw, read, path=""):
    """Where `read` differs from `raw`."""
    if isinstance(raw, dict) and isinstance(read, dict):
        for key in raw:
            if key not in read:
                yield f"{path}.{key} is lost"
            else:
                yield from lost(raw[key], read[key], f"{path}.{key}")
        for key in read.keys() - raw.keys():
            yield f"{path}.{key} was made up"
    elif isinstance(raw, list) and isinstance(read, list) and len(raw) == len(read):
        for i, (a, b) in enumerate(zip(raw, read)):
            yield from lost(a, b, f"{path}[{i}]")
    elif raw != read:
        yield f"{path}: {raw!r} became {read!r}"


def known(model):
    """What a model knows by name, as JSON: properties that it only carries along do not count."""
    if hasattr(model, "serialize"):
        return model.serialize(keep_readonly=True)
    fields = getattr(type(model), "_attr_to_rest_field", None)
    if fields is not None:
        result = {}
        for attribute, field in fields.items():
            value = getattr(model, attribute)
            if value is not None:
                result[field._rest_name] = known(value)
        return result
    if isinstance(model, list):
        return [known(item) for item in model]
    if isinstance(model, dict) or hasattr(model, "items"):
        return {key: known(value) for key, value in model.items()}
    return getattr(model, "value", model)


def whole(raw, model, what):
    problems = list(lost(plain(raw), plain(known(model))))
    assert not problems, f"{what}: {problems}\n{json.dumps(raw)}"


def last():
    return json.loads(answers[-1].text())


def asked(call, *args, **kwargs):
    """Calls and compares the answer with what was read of it."""
    model = call(*args, raw_response_hook=remember, **kwargs)
    whole(last(), model, call.__name__)
    return model


def listed(call, *args):
    items = list(call(*args, raw_response_hook=remember))
    return items


def refused(code, call, *args, **kwargs):
    try:
        result = call(*args, **kwargs)
        if hasattr(result, "result"):
            result.result()
    except HttpResponseError as error:
        assert error.error is not None, f"no ARM error: {error}"
        assert error.error.code == code, f"{error.error.code} instead of {code}: {error.message}"
        return error
    raise AssertionError(f"{code} was expected, but it was accepted")


def document(script, policy="Always", **more):
    """A group with one container that runs a script."""
    return models.ContainerGroup(
        location="local",
        os_type="Linux",
        restart_policy=policy,
        tags={"made": "by the SDK"},
        containers=[
            models.Container(
                name="app",
                image=IMAGE,
                command=["/bin/sh", "-c", script],
                resources=models.ResourceRequirements(
                    requests=models.ResourceRequests(cpu=0.5, memory_in_gb=0.3)
                ),
                environment_variables=[
                    models.EnvironmentVariable(name="PLAIN", value="shown"),
                    models.EnvironmentVariable(name="HIDDEN", secure_value="never-shown"),
                ],
                volume_mounts=[models.VolumeMount(name="secret-files", mount_path="/secret")],
            )
        ],
        volumes=[models.Volume(name="secret-files", secret={"key": "bmV2ZXItc2hvd24="})],
        **more,
    )


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


SCRIPT = 'echo "first $PLAIN"; echo second; while true; do sleep 1; done'

print("created by the long-running poller")
poller = groups.begin_create_or_update(
    GROUP, "web", document(SCRIPT), raw_response_hook=remember
)
group = poller.result()
assert group.provisioning_state == "Succeeded", group.provisioning_state
whole(last(), group, "create")
assert group.id.endswith("/resourceGroups/Sdk-Tests/providers/Microsoft.ContainerInstance/containerGroups/web"), group.id

print("read")
group = asked(groups.get, GROUP, "web")
assert group.instance_view.state == "Running"
state = group.containers[0].instance_view.current_state
assert state.state == "Running" and state.start_time is not None
assert [e.name for e in group.containers[0].instance_view.events][-1] == "Started"
text = answers[-1].text()
assert "never-shown" not in text and "bmV2ZXItc2hvd24=" not in text, "a secret is shown"
assert group.volumes[0].secret is not None, "a secret volume does not say that it is one"
assert group.containers[0].environment_variables[1].name == "HIDDEN"

print("logs")
until("the log", lambda: "second" in containers.list_logs(GROUP, "web", "app").content)
assert asked(containers.list_logs, GROUP, "web", "app").content == "first shown\nsecond\n"
assert asked(containers.list_logs, GROUP, "web", "app", tail=1).content == "second\n"
stamped = asked(containers.list_logs, GROUP, "web", "app", tail=1, timestamps=True).content
assert stamped.startswith("20") and stamped.endswith("Z second\n"), stamped
refused("ContainerNotFound", containers.list_logs, GROUP, "web", "none")

print("a command through its WebSocket")
request = models.ContainerExecRequest(
    command="/bin/sh", terminal_size=models.ContainerExecRequestTerminalSize(rows=24, cols=80)
)
session = asked(containers.execute_command, GROUP, "web", "app", request)
assert session.web_socket_uri.startswith("wss://"), session.web_socket_uri
socket = websocket.create_connection(session.web_socket_uri, sslopt={"ca_certs": CA})
socket.send(session.password)
socket.send_binary(b"echo $((6 * 7)); exit 3\n")
output = b""
while True:
    kind, frame = socket.recv_data()
    if kind == websocket.ABNF.OPCODE_CLOSE:
        assert int.from_bytes(frame[:2], "big") == 1000, frame
        break
    output += frame
assert b"42" in output, output

print("updated in place")
changed = document(SCRIPT)
changed.containers[0].environment_variables[0].value = "changed"
group = groups.begin_create_or_update(GROUP, "web", changed).result()
assert group.containers[0].environment_variables[0].value == "changed"
until("the changed log", lambda: "first changed" in containers.list_logs(GROUP, "web", "app").content)
assert asked(groups.get, GROUP, "web").containers[0].instance_view.restart_count >= 1

print("what cannot change is refused")
error = refused("InvalidContainerGroupUpdate", groups.begin_create_or_update, GROUP, "web", document(SCRIPT, "Never"))
assert error.status_code == 400
error = refused(
    "InvalidOsType",
    groups.begin_create_or_update,
    GROUP,
    "bad",
    models.ContainerGroup(location="local", os_type="Solaris", containers=[]),
)
assert len(error.error.details) >= 2, "not all problems at once"

print("tags")
tagged = asked(groups.update, GROUP, "web", models.Resource(tags={"now": "other"}))
assert tagged.tags == {"now": "other"}

print("lists in pages")
for name in ["job-a", "job-b", "job-c"]:
    groups.begin_create_or_update(GROUP, name, document("true", "Never")).result()
before = len(answers)
names = [g.name for g in listed(groups.list_by_resource_group, GROUP)]
assert names == ["job-a", "job-b", "job-c", "web"], names
assert len(answers) - before >= 2, "it did not come in pages"
assert {g.name for g in listed(groups.list)} >= set(names)
for item in last()["value"]:
    assert "instanceView" not in item["properties"], "a list shows instance views"
done = asked(groups.get, GROUP, "job-a")
assert done.instance_view.state == "Succeeded"
assert done.containers[0].instance_view.current_state.exit_code == 0

print("stopped, started, restarted")
groups.stop(GROUP, "web")
assert asked(groups.get, GROUP, "web").instance_view.state == "Stopped"
refused("ContainerGroupStopped", containers.execute_command, GROUP, "web", "app", request)
groups.begin_start(GROUP, "web").result()
assert asked(groups.get, GROUP, "web").instance_view.state == "Running"
groups.begin_restart(GROUP, "web").result()
until("the restart", lambda: groups.get(GROUP, "web").containers[0].instance_view.restart_count >= 1)
assert asked(groups.get, GROUP, "web").instance_view.state == "Running"

print("what the location has")
usages = {u.name.value: u for u in location.list_usage("local", raw_response_hook=remember)}
whole(last()["value"][0], list(location.list_usage("local"))[0], "usages")
assert usages["ContainerGroups"].current_value >= 1
assert usages["StandardCores"].limit >= 1
capabilities = list(location.list_capabilities("local", raw_response_hook=remember))
whole(last()["value"][0], capabilities[0], "capabilities")
assert capabilities[0].os_type == "Linux" and capabilities[0].capabilities.max_cpu >= 1
images = [i.image for i in location.list_cached_images("local")]
assert IMAGE in images, images
operations = list(client.operations.list(raw_response_hook=remember))
whole(last()["value"][0], operations[0], "operations")
assert any(o.name == "Microsoft.ContainerInstance/containerGroups/read" for o in operations)
assert groups.get_outbound_network_dependencies_endpoints(GROUP, "web") == []

if hasattr(client, "cg_profile"):
    print("profiles and their revisions")
    profiles = client.cg_profile

    def profile(value):
        made = document(SCRIPT)
        made.containers[0].environment_variables[0].value = value
        return models.ContainerGroupProfile(
            location="local",
            properties=models.ContainerGroupProfileProperties(
                os_type="Linux", restart_policy="Always", containers=made.containers, volumes=made.volumes
            ),
        )

    first = asked(profiles.create_or_update, GROUP, "kind", profile("one"))
    assert first.properties.revision == 1
    second = asked(profiles.create_or_update, GROUP, "kind", profile("two"))
    assert second.properties.revision == 2 and second.properties.registered_revisions == [1, 2]
    assert asked(profiles.get, GROUP, "kind").properties.revision == 2
    old = asked(profiles.get_by_revision_number, GROUP, "kind", "1")
    assert old.properties.containers[0].environment_variables[0].value == "one"
    assert [p.properties.revision for p in profiles.list_all_revisions(GROUP, "kind")] == [1, 2]
    assert [p.name for p in client.cg_profiles.list_by_resource_group(GROUP)] == ["kind"]
    patched = asked(profiles.update, GROUP, "kind", models.ContainerGroupProfilePatch(tags={"a": "b"}))
    assert patched.tags == {"a": "b"}
    made = models.ContainerGroup(
        location="local",
        container_group_profile=models.ContainerGroupProfileReferenceDefinition(id=first.id, revision=1),
    )
    groups.begin_create_or_update(GROUP, "from-profile", made).result()
    group = asked(groups.get, GROUP, "from-profile")
    assert group.containers[0].environment_variables[0].value == "one"
    until("its log", lambda: "first one" in containers.list_logs(GROUP, "from-profile", "app").content)
    refused("InvalidContainerGroupProfile", groups.begin_create_or_update, GROUP, "no-profile", models.ContainerGroup(
        location="local",
        container_group_profile=models.ContainerGroupProfileReferenceDefinition(id=first.id, revision=9),
    ))
    profiles.delete(GROUP, "kind")
    refused("ResourceNotFound", profiles.get, GROUP, "kind")
    groups.begin_delete(GROUP, "from-profile").result()

print("deleted")
gone = groups.begin_delete(GROUP, "web", raw_response_hook=remember).result()
assert gone.name == "web", "the answer is not the group that was deleted"
try:
    groups.get(GROUP, "web")
    raise AssertionError("it is still there")
except ResourceNotFoundError as error:
    assert error.error.code == "ResourceNotFound"
groups.begin_delete(GROUP, "web").result()
for name in ["job-a", "job-b", "job-c"]:
    groups.begin_delete(GROUP, name).result()
assert listed(groups.list_by_resource_group, GROUP) == []

print("strangers are kept out")


class Wrong(Static):
    def get_token(self, *scopes, **kwargs):
        return AccessToken("x" * 40, int(time.time()) + 3600)


stranger = ContainerInstanceManagementClient(
    Wrong(), SUBSCRIPTION, base_url=BASE, credential_scopes=[BASE + "/.default"], connection_verify=CA, retry_total=0
)
try:
    list(stranger.container_groups.list())
    raise AssertionError("a wrong token was taken")
except HttpResponseError as error:
    assert error.status_code == 401, error

for answer in answers:
    wanted = ["x-ms-request-id", "x-ms-correlation-request-id"]
    if "/subscriptions/" in answer.request.url:
        kind = "reads" if answer.request.method == "GET" else "writes"
        wanted.append(f"x-ms-ratelimit-remaining-subscription-{kind}")
    for name in wanted:
        assert name in answer.headers, f"{answer.request.url} has no {name}"

print(f"passed: azure-mgmt-containerinstance {package.__version__}, {len(answers)} answers")
