// The agent's thread: fetches what it needs, runs it, and keeps its token. The page asks by messages, answered by messages.

import "./wait.js";
import { Files, Trouble } from "./files.js";
import { Token } from "./token.js";

/** An image waits this long for a token that has expired before it is taken up without. */
const TOKEN_PATIENCE_MS = 800;
/** A page that was asked nothing for so long needs no token. */
const IDLE_MS = 600_000;
/** Phones have so many fast cores, at most; slower ones would be waited for. */
const MOST_THREADS = 4;

let agent = null;
let mode = "policy";
/** What was chosen while there was no agent yet. */
let early = {};
let asked = performance.now();
/** The service that is asked: the one that the page came from, unless the description names another. */
let cloud = self.location.origin;
/** How the latest offload went, as the browser tells it a moment later: `h3`, `h2` or `http/1.1`. */
let protocol = null;
const loads = new PerformanceObserver(list => note(list.getEntries()));
loads.observe({ type: "resource" });

/** What is said before the page listens. */
let unheard = [];
const post = message => (unheard ? unheard.push(message) : self.postMessage(message));
function listened() {
  const said = unheard ?? [];
  unheard = null;
  said.forEach(post);
}
const tell = (code, details = {}) => post({ kind: "notice", code, details });
/** The latest token, which may be here before there is an agent. */
let bearer = "";
const token = new Token({
  cloud: () => cloud,
  give: text => {
    bearer = text;
    agent?.set_token(text);
  },
  tell: (code, details) => (code ? tell(code, details) : post({ kind: "token" })),
  isWanted: () => mode !== "device" && performance.now() - asked < IDLE_MS,
});

function note(entries) {
  for (const entry of entries) if (entry.name.endsWith("/ModelInfer") && entry.nextHopProtocol) protocol = entry.nextHopProtocol;
  performance.clearResourceTimings();
}

/** Threads that share the work of an image: this one, and its helpers once they come. */
let threads = 1;
/** What helpers begin with. */
let shared = null;
const helpers = [];

/** The WebAssembly as the page compiled it, or `null` where it could not. */
let compiled;
const whenCompiled = new Promise(done => (compiled = done));

/** The program, its memory ready. */
async function program() {
  try {
    const [module, given] = await Promise.all([import("./pkg/outpost_web_agent.js"), whenCompiled]);
    await module.default(given ? { module_or_path: given } : undefined);
    share(module);
    return module;
  } catch (error) { throw new Trouble(sharesMemory() ? "no-program" : "not-isolated", { error: String(error?.message ?? error) }); }
}

/** Whether memory may be declared shared, as the program's is: some browsers let only isolated pages. */
function sharesMemory() {
  try { return Boolean(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true })); } catch { return false; }
}

/** Has the work of images shared among threads, where the page may share memory. */
function share(module) {
  // One core stays the page's.
  const count = Math.min((navigator.hardwareConcurrency ?? 1) - 1, MOST_THREADS);
  if (count < 2 || !self.crossOriginIsolated || !module.share_work) return;
  shared = module.share_work(count);
  threads = count;
}

/** Begins the helpers: once there is an agent, which they would be in the way of. */
function help() {
  while (helpers.length + 1 < threads) {
    const helper = new Worker("helper.js", { type: "module", name: self.name });
    helper.postMessage(shared);
    helpers.push(helper);
  }
}

/** What there is to run. */
async function describe() {
  await files.open();
  const text = await files.description();
  const description = JSON.parse(text);
  cloud = description.cloud ?? cloud;
  return { text, description };
}

// At once: the page may still be on its way.
const began = performance.now();
const files = new Files(tell, count => post({ kind: "progress", ...count }));
const described = describe();
let prepared = Promise.all([program(), described, described.then(({ description }) => files.load(description.files))]);
prepared.catch(() => {});

async function start({ mode: chosen, point }) {
  const waiting = prepared;
  // The files are held no longer than they are needed.
  prepared = null;
  const [{ Agent, Files: Digested }, { text, description }, { files: bytes, count }] = await waiting;
  // While the network is loaded.
  mode = early.mode ?? chosen;
  token.keep();
  const make = async () => new Agent(text, await Digested.take(bytes), { cloud }, heard);
  try { agent = await make(); } catch (error) {
    const { wrong, still } = await files.repair(description.files, bytes);
    if (still.length) throw new Trouble("wrong-digest", { path: still.join(", ") });
    if (!wrong.length) throw new Trouble("agent-refused", { error: error.message });
    try { agent = await make(); } catch (error) { throw new Trouble("agent-refused", { error: error.message }); }
  }
  agent.set_token(bearer);
  change({ mode: early.mode ?? chosen });
  // What was chosen for another policy is no longer there.
  const chosenPoint = early.point ?? point;
  if (agent.state().policy?.operating_points.some(one => one.name === chosenPoint)) change({ point: chosenPoint });
  post({ kind: "ready", state: agent.state(), cloud, threads, took: { ms: performance.now() - began, bytes: count.total, cached: count.cached } });
  help();
}

/** What the agent says beside answers: corrections, confirmations, and that the cloud does not know the token. */
function heard(event) {
  if (event.kind === "unauthenticated") return expired();
  post({ kind: "event", event: { ...event, mode } });
  post({ kind: "state", state: agent.state() });
}

function expired() {
  tell("token-expired");
  token.renew();
}

async function classify({ id, bytes }) {
  asked = performance.now();
  if (mode !== "device" && navigator.onLine) await token.ready(TOKEN_PATIENCE_MS);
  const by = mode;
  try {
    const said = await agent.classify(id, bytes);
    note(loads.takeRecords());
    const answer = { ...said, mode: by, transport: said.transport ?? (said.reason === "offloaded" ? protocol : null) };
    if (answer.reason === "fallback:rejected") expired();
    post({ kind: "answer", id, answer });
  } catch (error) {
    // What is left of the memory after a trap is not to be used.
    if (error instanceof WebAssembly.RuntimeError) post({ kind: "crashed", error: String(error) });
    else post({ kind: "no-answer", id, error: String(error?.message ?? error) });
  }
  post({ kind: "state", state: agent.state() });
}

function change({ mode: chosen, point }) {
  try {
    if (point) agent.set_point(point);
    if (chosen) {
      agent.set_mode(chosen);
      mode = chosen;
    }
  } catch (error) { tell("not-changed", { error: String(error?.message ?? error) }); }
}

self.addEventListener("online", () => agent && token.keep());
self.onmessage = async ({ data }) => {
  if (data.kind === "program") return compiled(data.module);
  if (data.kind === "start") {
    listened();
    try { await start(data); } catch (error) {
      const trouble = error instanceof Trouble ? error : new Trouble("agent-refused", { error: String(error?.message ?? error) });
      post({ kind: "failed", code: trouble.code, details: trouble.details });
    }
    return;
  }
  if (!agent) {
    if (data.kind === "change") early = { ...early, ...data };
    return;
  }
  if (data.kind === "classify") return classify(data);
  if (data.kind === "change") change(data);
  if (data.kind === "awake" && navigator.onLine) token.keep();
  post({ kind: "state", state: agent.state() });
};
post({ kind: "here" });
