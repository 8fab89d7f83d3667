// The agent of target/web in Chromium, for what compares it: on the main thread of an empty page.
//
// OUTPOST_PLAYWRIGHT names the folder with the packages of tests/page/package.json, OUTPOST_CHROMIUM the browser.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, normalize } from "node:path";

import { NOWHERE } from "./agent.mjs";
import { launch } from "../page/browser.mjs";

const KINDS = { js: "text/javascript", wasm: "application/wasm" };

/** What `load` of agent.mjs gives, of Chromium. */
export async function load(web) {
  const server = createServer(async (request, response) => {
    const kind = KINDS[request.url.split(".").pop()];
    const file = kind && (await readFile(join(web, normalize(request.url))).catch(() => null));
    response.writeHead(kind && !file ? 404 : 200, { "content-type": kind ?? "text/html" });
    response.end(file ?? "<!doctype html>");
  }).listen(0, "127.0.0.1");
  await new Promise(done => server.once("listening", done));
  const browser = await launch();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate(async () => {
    const { default: init, Agent, Files } = await import("/pkg/outpost_web_agent.js");
    const { memory } = await init();
    globalThis.held = { Agent, Files, memory, bytes: text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0)) };
  });
  const text = bytes => Buffer.from(bytes).toString("base64");
  const memory = () => page.evaluate(() => globalThis.held.memory.buffer.byteLength);
  const close = async () => {
    await browser.close();
    server.close();
  };
  const agent = {
    classify: (id, image) => page.evaluate(([id, image]) => globalThis.held.agent.classify(id, globalThis.held.bytes(image)), [id, text(image)]),
    free: () => page.evaluate(() => globalThis.held.agent.free()),
  };
  const start = async (description, files, options = NOWHERE) => {
    const given = [...files].map(([path, file]) => [path, text(file)]);
    await page.evaluate(async ([description, given, options]) => {
      const { Agent, Files, bytes } = globalThis.held;
      const files = await Files.take(new Map(given.map(([path, file]) => [path, bytes(file)])));
      globalThis.held.agent = new Agent(description, files, options, () => {});
    }, [description, given, options]);
    return agent;
  };
  return { start, memory, close };
}
