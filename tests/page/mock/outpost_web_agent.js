// Stands in for the WebAssembly of crates/web-agent in the tests of its page: the same interface, and answers that an image's
// last byte chooses:
//
//     E  the device is sure        H  the device is not sure, and asks the cloud
//     L  the cloud answers after the deadline, and corrects       T  the network crashes
//     U  it has a part that the network does not read
//     W  a helper crashes, and the network waits for it
//
// With any other the image's bytes say how sure the device is. Calls of the cloud are made, to the server of server.mjs.

/** Digests in JavaScript, since those of the browser are asynchronous and a constructor is not. */
function sha256(bytes) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every(prime => n % prime)) primes.push(n);
  const fraction = value => ((value - Math.floor(value)) * 2 ** 32) | 0;
  const k = primes.map(prime => fraction(Math.cbrt(prime))), h = primes.slice(0, 8).map(prime => fraction(Math.sqrt(prime)));
  const length = (bytes.length + 72) & ~63, padded = new Uint8Array(length), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  view.setUint32(length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(length - 4, bytes.length << 3);
  const w = new Int32Array(64), turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < length; at += 64) {
    for (let i = 0; i < 64; i++)
      w[i] = i < 16 ? view.getInt32(at + 4 * i) : (w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3)) + (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10))) | 0;
    let [a, b, c, d, e, f, g, last] = h;
    for (let i = 0; i < 64; i++) {
      const one = (last + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [last, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, last].forEach((value, i) => (h[i] = (h[i] + value) | 0));
  }
  return h.map(value => (value >>> 0).toString(16).padStart(8, "0")).join("");
}

const sleep = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const CALL = "/inference.GRPCInferenceService/ModelInfer";
const DEVICE_MS = 6, FAILURES = 3, OPEN_MS = 1500;

/** What threads share, in helpers given by who began them. */
let shared = globalThis.crossOriginIsolated ? new Int32Array(new SharedArrayBuffer(12)) : null;

/** Helpers wait at the first number, the thread that waits for them at the second; the third counts those who came. */
export function share_work() {
  return [null, shared];
}

/** A helper crashes when it is woken. */
export function work() {
  Atomics.add(shared, 2, 1);
  Atomics.wait(shared, 0, 0);
  throw new WebAssembly.RuntimeError("unreachable executed by a helper");
}

export default async function init({ module_or_path: module, memory } = {}) {
  shared = memory ?? shared;
  // A helper has it from the thread that it helps, and may be ended any time.
  if (!memory && !(module instanceof WebAssembly.Module)) await fetch(new URL("outpost_web_agent_bg.wasm", import.meta.url));
}

/** Files whose digests were computed. */
export class Files extends Map {
  static async take(files) {
    return new Files(files);
  }
}

export class Agent {
  #cloud;
  #heard;
  #token = null;
  #mode = "policy";
  #labels;
  #bundle;
  #point;
  #deadline;
  #failures = 0;
  #openUntil = 0;
  #link = null;

  constructor(text, files, { cloud }, heard) {
    const description = JSON.parse(text);
    for (const { path, sha256: expected } of description.files) {
      if (!files.has(path)) throw new Error(`${path} is missing`);
      if (sha256(files.get(path)) !== expected) throw new Error(`the digest of ${path} is not ${expected}`);
    }
    const read = path => new TextDecoder().decode(files.get(path));
    this.#cloud = cloud;
    this.#heard = heard;
    this.#deadline = description.deadline_ms;
    this.#labels = read(description.files.find(file => file.path.endsWith("labels.txt")).path).trim().split("\n");
    this.#bundle = JSON.parse(read(description.policy.path));
    this.#point = this.#bundle.operating_points[2].name;
  }

  set_token(token) { this.#token = token; }

  set_mode(mode) {
    if (!["device", "policy", "cloud"].includes(mode)) throw new Error(`${mode} is no mode`);
    this.#mode = mode;
  }

  set_point(name) {
    if (!this.#bundle.operating_points.some(point => point.name === name)) throw new Error(`there is no operating point ${name}`);
    this.#point = name;
  }

  get #circuit() {
    return this.#failures < FAILURES ? "closed" : performance.now() < this.#openUntil ? "open" : "half-open";
  }

  async classify(id, bytes) {
    const began = performance.now(), mark = String.fromCharCode(bytes.at(-1));
    if (bytes.length < 200) throw new Error("the image is corrupt: it ends before its pixels");
    if (mark === "U") throw new Error("the image uses a part of its format that is not supported");
    await sleep(DEVICE_MS);
    if (mark === "W") {
      while (!Atomics.load(shared, 2)) await sleep(5);
      Atomics.store(shared, 0, 1);
      Atomics.notify(shared, 0);
      Atomics.wait(shared, 1, 0);
    }
    if (mark === "T") throw new WebAssembly.RuntimeError("unreachable executed");
    let hash = 7;
    for (let i = 0; i < bytes.length; i += 61) hash = (hash * 31 + bytes[i]) % 10007;
    const chance = hash / 10007, { offload_rate } = this.#bundle.operating_points.find(one => one.name === this.#point).expected;
    const isHard = mark === "H" || mark === "L" || (mark !== "E" && chance < Math.max(offload_rate, 0.15));
    const asks = this.#mode === "cloud" || (this.#mode === "policy" && isHard);
    const device_ms = performance.now() - began;
    const own = this.#answer(id, isHard ? 0.24 + 0.2 * chance : 0.72 + 0.27 * chance, hash, { site: "device", network: "efficientnet-lite0", reason: "confident", device_ms });
    const at = over => ({ ...own, ...over, total_ms: performance.now() - began });
    if (!asks) return at({});
    if (this.#circuit === "open") return at({ reason: "fallback:circuit-open" });
    const called = performance.now();
    try {
      const headers = { "content-type": "application/grpc-web+proto", ...(this.#token && { authorization: `Bearer ${this.#token}` }) };
      const response = await fetch(this.#cloud + CALL, { method: "POST", headers, body: bytes, signal: AbortSignal.timeout(this.#deadline - device_ms) });
      const status = response.headers.get("grpc-status"), cloud_ms = Number(response.headers.get("x-cloud-ms"));
      if (status === "16") this.#heard({ kind: "unauthenticated" });
      if (status !== "0") return at({ reason: "fallback:rejected", bytes_sent: bytes.length });
      this.#failures = 0;
      const link_ms = Math.max(performance.now() - called - cloud_ms, 0);
      this.#link = { round_trip_ms: link_ms, uplink: null, at_peer_ms: cloud_ms, failed: 0 };
      const reply = this.#answer(id, 0.8 + 0.19 * chance, hash + 1, { site: "cloud", network: "efficientnet-lite2", reason: "offloaded", device_ms, encode_ms: 0.2, link_ms, cloud_ms, bytes_sent: bytes.length, encoding: "original" });
      if (mark !== "L") return { ...reply, total_ms: performance.now() - began };
      setTimeout(() => this.#heard({ ...reply, kind: "correction", final: true, total_ms: performance.now() - began }), 2000);
      return at({ reason: "fallback:deadline", final: false, bytes_sent: bytes.length });
    } catch (error) {
      this.#failures += 1;
      this.#openUntil = performance.now() + OPEN_MS;
      return at({ reason: error.name === "TimeoutError" ? "fallback:deadline" : "fallback:unreachable", bytes_sent: 0 });
    }
  }

  #answer(id, confidence, hash, over) {
    const label = i => this.#labels[(hash + 131 * i) % this.#labels.length];
    const top5 = [0, 1, 2, 3, 4].map(i => ({ class_id: (hash + 131 * i) % 1000, label: label(i), confidence: i ? ((1 - confidence) * 0.6) / 2 ** i : confidence }));
    return { kind: "answer", final: true, id, at: new Date().toISOString(), input: "page", image: id, ...top5[0], top5, exit: null, encode_ms: null, link_ms: null, cloud_ms: null, bytes_sent: 0, encoding: null, transport: null, ...over };
  }

  state() {
    const points = this.#bundle.operating_points.map(({ name, expected: { seconds, ...rest } }) => ({ name, ms: seconds * 1000, ...rest }));
    const { name, ...expected } = points.find(point => point.name === this.#point), { reference } = this.#bundle;
    return {
      version: "0.1.0", cascade: this.#bundle.cascade, mode: this.#mode === "policy" ? "policy" : `${this.#mode}-only`, deadline_ms: this.#deadline,
      policy: { goal: name, operating_point: name, mixed_with: null, expected, operating_points: points, reference: { node: reference.node, accuracy: reference.accuracy, ms: reference.seconds * 1000 } },
      peers: [{ site: "cloud", circuit: this.#circuit, link: this.#link }],
    };
  }

  free() {}
}
