// What the agent in WebAssembly refuses, and that it says what and why, in an `Error`.
//
//   node refusals.mjs --web target/web --models models

import assert from "node:assert";
import { parseArgs } from "node:util";

import { describe, load } from "./agent.mjs";

const text = { type: "string" };
const { values } = parseArgs({ options: { web: text, models: text } });
const { start } = await load(values.web);
const cascade = "cascades/cifar10-alexnet-resnet.toml";
const policy = "policies/cifar10-alexnet-resnet.json";
const { description, files } = await describe({ models: values.models, cascade, policy });
const agent = await start(description, files);

await assert.rejects(start("<html>", files), /does not parse: reload the page/);
await assert.rejects(start(description, new Map()), new RegExp(`${cascade}" is missing`));
await assert.rejects(start(description, new Map(files).set(cascade, new Uint8Array(3))), /its SHA-256 is [0-9a-f]{64}, [0-9a-f]{64} was expected/);
await assert.rejects(start(description, files, {}), /`cloud` is missing/);
assert.throws(() => agent.set_mode("x"), /"x" is no mode/);
assert.throws(() => agent.set_point("nope"), /no operating point "nope"/);
assert.throws(() => agent.set_goal("loss=-1"), /"loss=-1" is no operating point/);
assert.throws(() => agent.set_token("a\nb"), Error);
await assert.rejects(agent.classify("id", new Uint8Array([1, 2, 3])), /neither JPEG, PNG, WebP nor AVIF/);
await assert.rejects(agent.classify("id", new Uint8Array()), /the image is empty/);
// Nothing of it changed what holds.
const state = agent.state();
assert.equal(state.mode, "policy");
assert.equal(state.policy.goal, "loss=1");
agent.free();
