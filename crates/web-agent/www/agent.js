// The page's side of the agent: its worker, the images it was asked about, and another worker where one crashed.

import { take } from "./thread.js";

/** Crashes after which no other worker is started. */
const CRASHES = 3;

export class Agent {
  #heard;
  #worker = null;
  #isHere = false;
  #isReady = false;
  #crashes = 0;
  /** By id: what was asked, and who waits for it. */
  #asked = new Map();

  /** `heard(message)` gets all that is no answer; `choices()` what the person chose last. */
  constructor(heard, choices) {
    this.#heard = heard;
    this.choices = choices;
  }

  /** Starts the worker, or starts it anew. */
  start() {
    this.#worker?.terminate();
    this.#worker?.helpers.close();
    this.#isHere = this.#isReady = false;
    const worker = (this.#worker = take());
    worker.onmessage = worker.helpers.onmessage = ({ data }) => worker === this.#worker && this.#said(data);
    worker.onerror = event => {
      event.preventDefault();
      if (worker !== this.#worker) return;
      const error = event.message || "worker.js cannot be loaded.";
      if (this.#isHere) this.#crashed(error);
      else this.#said({ kind: "failed", code: "no-program", details: { error } });
    };
    worker.postMessage({ kind: "start", ...this.choices() });
  }

  /** What the agent says about an image: JPEG, PNG or WebP. Images wait until there is an agent. */
  classify(id, bytes) {
    return new Promise((done, failed) => {
      this.#asked.set(id, { bytes, done, failed, tries: 0 });
      if (this.#isReady) this.#send(id);
    });
  }

  /** Another mode or operating point; the state that follows is heard. */
  change(what) { this.#worker.postMessage({ kind: "change", ...what }); }
  /** Has the state told. */
  look() { this.#worker.postMessage({ kind: "look" }); }
  /** Tells that the page is in front again, where timers may have slept. */
  awake() { this.#worker?.postMessage({ kind: "awake" }); }

  #send(id) {
    const asked = this.#asked.get(id);
    asked.tries += 1;
    this.#worker.postMessage({ kind: "classify", id, bytes: asked.bytes });
  }

  #said(message) {
    this.#isHere = true;
    const asked = this.#asked.get(message.id);
    switch (message.kind) {
      case "here": return;
      case "answer": this.#asked.delete(message.id); return asked?.done(message.answer);
      case "no-answer": this.#asked.delete(message.id); return asked?.failed(new Error(message.error));
      case "crashed": return this.#crashed(message.error);
      case "failed": this.#giveUp(message.details.error ?? "There is no network to ask."); break;
      case "ready":
        this.#isReady = true;
        for (const id of this.#asked.keys()) this.#send(id);
    }
    this.#heard(message);
  }

  #crashed(error) {
    this.#crashes += 1;
    for (const [id, asked] of this.#asked)
      if (asked.tries > 1) {
        this.#asked.delete(id);
        asked.failed(new Error(`The network crashed twice over it. ${error}`));
      }
    if (this.#crashes > CRASHES) {
      this.#worker.terminate();
      this.#worker.helpers.close();
      this.#isReady = false;
      this.#giveUp(error);
      return this.#heard({ kind: "failed", code: "crashed-often", details: { error } });
    }
    this.#heard({ kind: "notice", code: "crashed", details: { error } });
    this.start();
  }

  #giveUp(error) {
    for (const asked of this.#asked.values()) asked.failed(new Error(error));
    this.#asked.clear();
  }
}
