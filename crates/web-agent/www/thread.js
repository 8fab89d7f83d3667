// The agent's thread, started before the rest of the page is here: it has the most to fetch.

import { lacks } from "./support.js";

const make = () => new Worker("worker.js", { type: "module", name: "outpost" });

let early = lacks() ? null : make();
// One that cannot be loaded is tried again, by whoever hears why.
if (early)
  early.onerror = () => {
    early?.terminate();
    early = null;
  };

/** The thread that was started early, once; then another each time. */
export function take() {
  const worker = early ?? make();
  early = null;
  return worker;
}
