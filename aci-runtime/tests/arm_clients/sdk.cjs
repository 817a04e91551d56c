// Drives the front with Azure's own SDK for JavaScript: node sdk.cjs BASE_URL TOKEN IMAGE, with the
// server's authority in NODE_EXTRA_CA_CERTS.

const assert = require("node:assert/strict");
const { ContainerInstanceManagementClient } = require("@azure/arm-containerinstance");
const WebSocket = require("ws");

const [endpoint, token, image] = process.argv.slice(2);
const subscription = "00000000-0000-0000-0000-000000000000";
const group = "Js-Tests";
const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3_600_000 }) };
const client = new ContainerInstanceManagementClient(credential, subscription, { endpoint });
const { containerGroups: groups, containers } = client;

const document = (command, restartPolicy = "Always") => ({
  location: "local",
  tags: { made: "by a test" },
  osType: "Linux",
  restartPolicy,
  containers: [{
    name: "app",
    image,
    command,
    environmentVariables: [{ name: "PLAIN", value: "shown" }, { name: "HIDDEN", secureValue: "never-shown" }],
    resources: { requests: { cpu: 0.1, memoryInGB: 0.1 } },
  }],
});

async function all(pages) {
  const found = [];
  for await (const one of pages) found.push(one);
  return found;
}

async function refused(code, asking) {
  await assert.rejects(asking, (error) => {
    assert.equal(error.code, code, error.message);
    return true;
  });
}

/** What a command says, and the code of the closing frame. */
function run(session) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(session.webSocketUri);
    let said = "";
    socket.on("open", () => socket.send(session.password));
    socket.on("message", (data) => { said += data; });
    socket.on("close", (code) => resolve([said, code]));
    socket.on("error", reject);
  });
}

async function main() {
  const made = await groups
    .beginCreateOrUpdate(group, "web", document(["/bin/sh", "-c", "echo first $PLAIN; exec sleep 3600"]), { updateIntervalInMs: 200 })
    .then((poller) => (poller.pollUntilDone ? poller.pollUntilDone() : poller));
  assert.equal(made.provisioningState, "Succeeded");
  const got = await groups.get(group, "web");
  assert.equal(got.instanceView.state, "Running");
  assert.ok(got.containers[0].instanceView.currentState.startTime instanceof Date);
  assert.ok(!JSON.stringify(got).includes("never-shown"));
  await groups.beginCreateOrUpdateAndWait(group, "job", document(["/bin/true"], "Never"), { updateIntervalInMs: 200 });
  assert.deepEqual((await all(groups.listByResourceGroup(group))).map((g) => g.name), ["job", "web"]);
  assert.equal((await groups.update(group, "web", { tags: { now: "other" } })).tags.now, "other");

  let content = "";
  for (let i = 0; i < 100 && !content; i++) {
    content = (await containers.listLogs(group, "web", "app", { tail: 5 })).content;
  }
  assert.equal(content, "first shown\n");

  const session = await containers.executeCommand(group, "web", "app", {
    command: "/bin/sh -c 'echo $((6 * 7))'", terminalSize: { rows: 24, cols: 80 },
  });
  const [said, code] = await run(session);
  assert.ok(said.includes("42"), said);
  assert.equal(code, 1000);

  await refused("InvalidContainerGroupUpdate", groups.beginCreateOrUpdateAndWait(group, "web", document(["/bin/true"], "Never")));
  await groups.stop(group, "web");
  await groups.beginStartAndWait(group, "web", { updateIntervalInMs: 200 });
  await groups.beginRestartAndWait(group, "web", { updateIntervalInMs: 200 });
  assert.ok((await all(client.location.listUsage("local"))).length > 0);
  assert.equal((await groups.beginDeleteAndWait(group, "web", { updateIntervalInMs: 200 })).name, "web");
  await groups.beginDeleteAndWait(group, "job", { updateIntervalInMs: 200 });
  await refused("ResourceNotFound", groups.get(group, "web"));
  const { version } = require("@azure/arm-containerinstance/package.json");
  console.log(`passed: @azure/arm-containerinstance ${version}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
