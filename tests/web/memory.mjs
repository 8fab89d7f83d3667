// Whether the agent in WebAssembly keeps anything of the images that it has answered.
//
//   node --expose-gc memory.mjs --web target/web --models models --images 2000 IMAGE
//
// Prints the bytes of its memory and of JavaScript's after a tenth of the images and after all; exit code 1 where they grew.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { describe, load } from "./agent.mjs";

const text = { type: "string" };
const { values, positionals } = parseArgs({ options: { web: text, models: text, images: text }, allowPositionals: true });
const { start, memory } = await load(values.web);
const cascade = "cascades/cifar10-alexnet-resnet.toml";
const policy = "policies/cifar10-alexnet-resnet.json";
const { description, files } = await describe({ models: values.models, cascade, policy });
const agent = await start(description, files);
// Every other image is to be sent, and finds nobody.
const modes = ["device", "cloud"];
const image = await readFile(positionals[0]);
const count = Number(values.images);
const use = async () => {
  globalThis.gc();
  return { wasm: await memory(), heap: process.memoryUsage().heapUsed };
};
let early;
for (let at = 0; at < count; at++) {
  agent.set_mode(modes[at % 2]);
  await agent.classify(String(at), new Uint8Array(image));
  agent.state();
  if (at === Math.floor(count / 10)) early = await use();
}
const late = await use();
console.log(JSON.stringify({ images: count, early, late }));
// JavaScript's own heap varies by what its compilers keep.
process.exitCode = late.wasm > early.wasm || late.heap > early.heap + 2e6 ? 1 : 0;
