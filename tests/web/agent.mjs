// The agent of target/web in Node: what a page does, without a page.

import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, normalize } from "node:path";

/** Of the WebAssembly in a folder that scripts/build-web made: what starts an agent, by default without a cloud; the bytes of its
 * memory; and what ends it. */
export async function load(web) {
  const pkg = join(web, "pkg");
  const folder = await mkdtemp(join(tmpdir(), "outpost-web-"));
  try {
    // The extension says that it is a module, as its server's headers do to a browser.
    const module = join(folder, "outpost_web_agent.mjs");
    await writeFile(module, await readFile(join(pkg, "outpost_web_agent.js")));
    const { default: init, Agent, Files } = await import(module);
    const memory = (await init({ module_or_path: await readFile(join(pkg, "outpost_web_agent_bg.wasm")) })).memory;
    const start = async (description, files, options = NOWHERE) => new Agent(description, await Files.take(files), options, () => {});
    return { start, memory: async () => memory.buffer.byteLength, close: async () => {} };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** What `GET /page/agent.json` would say, and the files that it names, by their paths from the model folder. */
export async function describe({ models, cascade, policy, goal, deadline_ms = 1000 }) {
  const files = new Map();
  const take = async path => {
    if (!files.has(path)) files.set(path, await readFile(join(models, path)));
    return files.get(path).toString();
  };
  const value = (text, key) => text.match(new RegExp(`^${key} = "(.*)"$`, "m"))?.[1];
  const nodes = (await take(cascade)).split("[[node]]").slice(1);
  for (const node of nodes) {
    const network = value(node, "network");
    const manifest = await take(`${network}/model.toml`);
    const labels = value(manifest, "labels");
    if (labels) await take(normalize(join(network, labels)));
    if (value(node, "site") === "device") await take(`${network}/${value(manifest, "file")}`);
  }
  if (policy) await take(policy);
  const digest = bytes => createHash("sha256").update(bytes).digest("hex");
  const description = {
    cascade: { name: cascade, path: cascade },
    policy: policy ? { path: policy } : null,
    goal: goal ?? null,
    deadline_ms,
    files: [...files].map(([path, bytes]) => ({ path, sha256: digest(bytes), bytes: bytes.length })),
  };
  const bytes = new Map([...files].map(([path, file]) => [path, new Uint8Array(file)]));
  return { description: JSON.stringify(description), files: bytes };
}

/** A place where nobody listens: what is to be sent falls back on the device. */
export const NOWHERE = { cloud: "http://127.0.0.1:9" };
