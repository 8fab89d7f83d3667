// Compares what the agent in WebAssembly says about images with what `edge-agent classify --format json` said about them.
//
//   node compare.mjs --web target/web --models models --cascade cascades/C.toml [--policy policies/P.json] [--goal G] \
//     [--chromium] ANSWERS.jsonl
//
// It runs in Node, or in Chromium (chromium.mjs).
// Prints a JSON object; exit code 1 where a class or a decision, to exit or to go on, differs.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { describe, load as loadInNode } from "./agent.mjs";

const text = { type: "string" };
const { values, positionals } = parseArgs({
  options: { web: text, models: text, cascade: text, policy: text, goal: text, chromium: { type: "boolean" } },
  allowPositionals: true,
});
const lines = (await readFile(positionals[0], "utf8")).trim().split("\n").map(line => JSON.parse(line));
const load = values.chromium ? (await import("./chromium.mjs")).load : loadInNode;
const { start, memory, close } = await load(values.web);
const { description, files } = await describe(values);
const agent = await start(description, files);

const decision = answer => (answer.reason === "confident" ? "exit" : "go on");
const median = times => times.toSorted((a, b) => a - b)[times.length >> 1];
const summary = { cascade: values.cascade, in: values.chromium ? "Chromium" : "Node", images: 0, exits: 0, differ: [], worst_confidence: 0 };
const times = { native: [], wasm: [] };
let held = 0;
for (const [index, native] of lines.entries()) {
  const bytes = new Uint8Array(await readFile(native.image));
  const wasm = await agent.classify(String(index), bytes).catch(error => ({ error: error.message }));
  summary.images += 1;
  if (wasm.error || native.error) {
    if (!wasm.error || !native.error) summary.differ.push({ image: native.image, native: native.error ?? null, wasm: wasm.error ?? null });
    continue;
  }
  summary.exits += decision(native) === "exit";
  summary.worst_confidence = Math.max(summary.worst_confidence, Math.abs(wasm.confidence - native.confidence));
  times.native.push(native.device_ms);
  times.wasm.push(wasm.device_ms);
  const said = answer => [answer.class_id, answer.network, answer.exit, decision(answer)];
  if (String(said(wasm)) !== String(said(native))) summary.differ.push({ image: native.image, native: said(native), wasm: said(wasm) });
  // Once the largest image has been seen nothing more is needed.
  if (index === lines.length >> 1) held = await memory();
}
await agent.free();
summary.native_ms = median(times.native);
summary.wasm_ms = median(times.wasm);
summary.memory_half_way = held;
summary.memory_end = await memory();
await close();
console.log(JSON.stringify(summary, null, 1));
process.exitCode = summary.differ.length ? 1 : 0;
