// The agent's thread, started before the rest of the page is here: it has the most to fetch.

import { uuid } from "./format.js";
import { lacks } from "./support.js";

/** Has `worker` given the program, compiled while that begins; `null` where that fails: the worker then does it itself, and says
 * why it cannot. */
async function compile(worker) {
  const give = module => worker.postMessage({ kind: "program", module });
  try { give(await WebAssembly.compileStreaming(fetch("pkg/outpost_web_agent_bg.wasm"))); } catch { give(null); }
}

/** A worker; its helpers tell over the channel of its name that one crashed, as it may wait for that one. */
function make() {
  const name = `outpost-${uuid()}`;
  const worker = new Worker("worker.js", { type: "module", name });
  compile(worker);
  return Object.assign(worker, { helpers: new BroadcastChannel(name) });
}

let early = lacks() ? null : make();
// One that cannot be loaded is tried again, by whoever hears why.
if (early)
  early.onerror = () => {
    early?.terminate();
    early?.helpers.close();
    early = null;
  };

/** The thread that was started early, once; then another each time. */
export function take() {
  const worker = early ?? make();
  early = null;
  return worker;
}
