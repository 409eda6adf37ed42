// NATS's own JavaScript client at the doors of two nodes: client.mjs URL_A URL_B, where a Weft service `wave` is known. Prints a line per case.
import assert from "node:assert/strict";
import { connect, headers } from "@nats-io/transport-node";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
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

async function streams(ann, bob) {
  const manager = await jetstreamManager(ann);
  await manager.streams.add({ name: "JS", subjects: ["jsstream.>"] });
  const here = jetstream(ann);
  for (let n = 0; n < 5; n++) assert.equal((await here.publish("jsstream.made", String(n), { msgID: `m${n}` })).seq, n + 1);
  assert.equal((await here.publish("jsstream.made", "4", { msgID: "m4" })).duplicate, true);
  await assert.rejects(here.publish("jsstream.made", "x", { expect: { lastSequence: 1 } }), /wrong last sequence: 5/);
  // From the other door: the stream is one of the mesh.
  const there = await jetstreamManager(bob);
  await there.consumers.add("JS", { durable_name: "worker", ack_policy: "explicit" });
  const consumer = await jetstream(bob).consumers.get("JS", "worker");
  const got = [];
  for await (const msg of await consumer.fetch({ max_messages: 5, expires: 20000 })) {
    got.push(msg.string());
    assert.equal(await msg.ackAck(), true);
  }
  assert.deepEqual(got, ["0", "1", "2", "3", "4"]);
  const info = await consumer.info();
  assert.deepEqual([info.num_ack_pending, info.num_pending], [0, 0]);
  // One that is ordered reads all of it again.
  const ordered = await jetstream(bob).consumers.get("JS");
  const again = [];
  for await (const msg of await ordered.consume()) {
    again.push(msg.seq);
    if (again.length === 5) break;
  }
  assert.deepEqual(again, [1, 2, 3, 4, 5]);
  await manager.streams.delete("JS");
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
for (const one of [publishAndSubscribe, requestAndReply, service, streams, drain]) {
  await one(ann, bob);
  console.log(`ok    nats.js ${one.name}`);
}
await ann.close();
