// NATS's own JavaScript client at the doors of two nodes: client.mjs URL_A URL_B, where a Weft service `wave` is known. Prints a line per case.
import assert from "node:assert/strict";
import { connect, headers } from "@nats-io/transport-node";
import { Svcm } from "@nats-io/services";

const PATIENCE_MS = 30_000;
const text = (msg) => new TextDecoder().decode(msg.data);

async function until(what, look) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert(Date.now() < deadline, `not in time: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const asked = (nc, subject, payload) =>
  until(subject, () => nc.request(subject, payload, { timeout: 5000 }).catch((error) => {
    assert.match(`${error.name} ${error.message} ${error.cause ?? ""}`, /responders|503/i);
    return undefined;
  }));

async function publishAndSubscribe(ann, bob) {
  const got = [];
  bob.subscribe("js.>", { callback: (_, msg) => got.push(msg) });
  await bob.flush();
  await until("the first message", async () => { ann.publish("js.warm"); await ann.flush(); return got.length > 0; });
  const block = headers();
  block.append("Tenant", "x");
  block.append("Tenant", "y");
  for (let n = 0; n < 100; n++) ann.publish("js.a", String(n), { headers: block });
  const real = () => got.filter((msg) => msg.subject === "js.a");
  await until("all messages", async () => real().length >= 100);
  real().forEach((msg, n) => {
    assert.equal(text(msg), String(n));
    assert.deepEqual(msg.headers.values("Tenant"), ["x", "y"]);
  });
}

async function requestAndReply(ann, bob) {
  await assert.rejects(ann.request("nobody.there", "", { timeout: 5000 }));
  bob.subscribe("js_greet", { queue: "q", callback: (_, msg) => msg.respond(`hello ${text(msg)}`) });
  await bob.flush();
  assert.equal(text(await asked(ann, "js_greet", "ann")), "hello ann");
  assert.equal(text(await asked(ann, "wave", "ann")), "bye ann");
}

async function service(ann, bob) {
  const added = await new Svcm(bob).add({ name: "js_clock", version: "1.0.0" });
  added.addEndpoint("js_clock", (_, msg) => msg.respond("noon"));
  assert.equal(text(await asked(ann, "js_clock", "")), "noon");
  const names = [];
  await until("both services", async () => {
    for await (const found of await new Svcm(ann).client({ maxWait: 1000, strategy: "stall" }).ping()) names.push(found.name);
    return names.includes("js_clock") && names.includes("wave");
  });
  await added.stop();
}

async function drain(_, bob) {
  const sub = bob.subscribe("js_last");
  for (let n = 0; n < 10; n++) bob.publish("js_last", String(n));
  await bob.flush();
  const all = (async () => { let n = 0; for await (const _ of sub) n++; return n; })();
  await bob.drain();
  assert.equal(await all, 10);
}

const servers = process.argv.slice(2, 4);
const [ann, bob] = await Promise.all(servers.map((url) => connect({ servers: url })));
for (const one of [publishAndSubscribe, requestAndReply, service, drain]) {
  await one(ann, bob);
  console.log(`ok    nats.js ${one.name}`);
}
await ann.close();
