// The agent's thread, started before the rest of the page is here: it has the most to fetch.

import { uuid } from "./format.js";
import { lacks } from "./support.js";

/** A worker; its helpers tell over the channel of its name that one crashed, as it may wait for that one. */
function make() {
  const name = `outpost-${uuid()}`;
  return Object.assign(new Worker("worker.js", { type: "module", name }), { helpers: new BroadcastChannel(name) });
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
