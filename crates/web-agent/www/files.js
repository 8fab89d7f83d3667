// The device's files in the browser: fetched by digest, kept in the Cache API. They are checked by the agent, before use.

/** What the cache is called. Its keys are the addresses that the files come from. */
const CACHE = "outpost-files";
const DESCRIPTION = "/page/agent.json";
const addressOf = file => `/page/files/${file.sha256}`;
/** A description takes longer than this on links so slow that the one that was known last serves better. */
const PATIENCE_MS = 3000;

/** What a person is told, by its code in messages.js. */
export class Trouble extends Error {
  constructor(code, details = {}) {
    super(details.error ?? code);
    this.code = code;
    this.details = details;
  }
}

export class Files {
  #cache = null;
  #tell;
  #progress;

  /** `tell(code, details)` hears what goes wrong and is survived; `progress(done, total, cached)` counts bytes. */
  constructor(tell, progress) {
    this.#tell = tell;
    this.#progress = progress;
  }

  async open() {
    try { this.#cache = await caches.open(CACHE); } catch (error) { this.#tell("cache-missing", { error: String(error?.message ?? error) }); }
  }

  /** The text of agent.json: the service's, or where that is away, the one that was known last. */
  async description() {
    const known = await this.#cache?.match(DESCRIPTION);
    try {
      const response = await fetch(DESCRIPTION, { cache: "no-cache", signal: known ? AbortSignal.timeout(PATIENCE_MS) : undefined });
      if (!response.ok) throw new Error(`${DESCRIPTION}: ${response.status} ${response.statusText} ${(await response.text()).slice(0, 200)}`);
      const text = await response.text();
      await this.#keep(DESCRIPTION, new Response(text, { headers: { "content-type": "application/json" } }));
      return text;
    } catch (error) {
      if (!known) throw new Trouble("unreachable", { error: error.message });
      this.#tell("last-known", { isOnLine: navigator.onLine });
      return known.text();
    }
  }

  /** The bytes of each of `files`, by path. */
  async load(files) {
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    const count = { done: 0, total, cached: 0 };
    const all = await Promise.all(files.map(async file => [file.path, await this.#one(file, count)]));
    await this.#forgetOthers(files);
    return { files: new Map(all), count };
  }

  /** Fetches those once more that are not what they should be; the paths of them, and of those that still are not. */
  async repair(files, bytes) {
    const wrong = await this.#wrong(files, bytes);
    for (const file of wrong) {
      await this.#cache?.delete(addressOf(file));
      bytes.set(file.path, await this.#fetch(file, { done: 0, total: file.bytes, cached: 0 }, "reload"));
    }
    const still = await this.#wrong(wrong, bytes);
    for (const file of still) await this.#cache?.delete(addressOf(file));
    return { wrong: wrong.map(file => file.path), still: still.map(file => file.path) };
  }

  async #wrong(files, bytes) {
    const found = [];
    for (const file of files) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes.get(file.path)));
      if ([...digest].map(byte => byte.toString(16).padStart(2, "0")).join("") !== file.sha256) found.push(file);
    }
    return found;
  }

  async #one(file, count) {
    const kept = await this.#cache?.match(addressOf(file));
    if (!kept) return this.#fetch(file, count, "default");
    const bytes = new Uint8Array(await kept.arrayBuffer());
    count.done += bytes.length;
    count.cached += bytes.length;
    this.#progress(count);
    return bytes;
  }

  async #fetch(file, count, cache) {
    let response;
    try { response = await fetch(addressOf(file), { cache }); } catch (error) { throw new Trouble("unreachable", { error: `${file.path}: ${error.message}` }); }
    if (!response.ok) throw new Trouble("unreachable", { error: `${file.path}: ${response.status} ${response.statusText}` });
    const parts = [];
    const reader = response.body.getReader();
    try {
      for (let part; !(part = await reader.read()).done; ) {
        parts.push(part.value);
        count.done += part.value.length;
        this.#progress(count);
      }
    } catch (error) { throw new Trouble("unreachable", { error: `${file.path}: ${error.message}` }); }
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    await this.#keep(addressOf(file), new Response(bytes));
    return bytes;
  }

  /** Keeps a response; where there is no room, the page goes on without. */
  async #keep(address, response) {
    try { await this.#cache?.put(address, response); } catch (error) {
      if (error.name === "QuotaExceededError") this.#tell("cache-full", {});
      else this.#tell("cache-missing", { error: error.message });
    }
  }

  /** Files of former descriptions make room. */
  async #forgetOthers(files) {
    const wanted = new Set([DESCRIPTION, ...files.map(addressOf)]);
    for (const request of (await this.#cache?.keys()) ?? [])
      if (!wanted.has(new URL(request.url).pathname)) await this.#cache.delete(request);
  }
}
