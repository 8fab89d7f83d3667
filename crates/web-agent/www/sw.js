// Keeps the page, so that it opens without a network. Its files are kept in whole sets: those of one version together. A page
// is served from the newest set, and what is newer than that is fetched behind it for the next time. The device's files are
// kept by the page itself (files.js); tokens and calls of the cloud are never looked at here.
"use strict";

const PREFIX = "outpost-page-";
/** Written into a set once all of it is there. */
const WHOLE = "/whole";
const ASSETS = [
  "/", "/style.css", "/manifest.webmanifest", "/icon.svg", "/icon-192.png", "/icon-512.png", "/icon-maskable-512.png",
  "/agent.js", "/answer.js", "/app.js", "/camera.js", "/charts.js", "/files.js", "/format.js", "/frontier.js", "/helper.js",
  "/messages.js", "/modes.js", "/notices.js", "/offline.js", "/pictures.js", "/strip.js", "/support.js", "/thread.js", "/token.js",
  "/wait.js", "/worker.js",
  "/pkg/outpost_web_agent.js", "/pkg/outpost_web_agent_bg.wasm",
];

/** The set that the page now open is served from, and its files. */
let serving = null, cache = null;

self.addEventListener("install", event => event.waitUntil(collect().then(() => self.skipWaiting())));
self.addEventListener("activate", event => event.waitUntil(self.clients.claim()));
self.addEventListener("message", event => {
  if (event.data === "look") event.waitUntil(look(event.source));
});
self.addEventListener("fetch", event => {
  const { request } = event, { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== self.location.origin) return;
  const isPage = request.mode === "navigate" && pathname === "/";
  if (isPage || ASSETS.includes(pathname) || pathname.startsWith("/pkg/")) event.respondWith(serve(request, pathname, isPage));
});

async function serve(request, pathname, isPage) {
  if (isPage || !serving) {
    const [newest, ...older] = await sets();
    serving = newest ?? null;
    cache = serving && (await caches.open(serving));
    await Promise.all(older.map(name => caches.delete(name)));
  }
  const kept = await cache?.match(pathname);
  if (kept) return kept;
  const response = await fetch(request);
  // What the set's list does not name, pieces of the program, is kept as it comes.
  if (cache && response.ok && pathname.startsWith("/pkg/")) await cache.put(pathname, response.clone()).catch(() => {});
  return response;
}

/** The names of the sets that are whole, the newest first. */
async function sets() {
  const whole = [];
  for (const name of (await caches.keys()).filter(name => name.startsWith(PREFIX)))
    if (await (await caches.open(name)).match(WHOLE)) whole.unshift(name);
  return whole;
}

/** Fetches what the page consists of; the name of its set. It costs little where nothing changed, as the browser then only asks. */
async function collect() {
  const responses = await Promise.all(ASSETS.map(async asset => {
    const response = await fetch(asset, { cache: "no-cache" });
    if (!response.ok) throw new Error(`${asset}: ${response.status} ${response.statusText}`);
    return [asset, response, await response.clone().arrayBuffer()];
  }));
  // What the page may do is told beside it, and can change without it.
  const policy = responses[0][1].headers.get("content-security-policy") ?? "";
  const digests = await Promise.all([new TextEncoder().encode(policy), ...responses.map(([, , bytes]) => bytes)].map(bytes => crypto.subtle.digest("SHA-256", bytes)));
  const all = new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob(digests).arrayBuffer()));
  const name = PREFIX + [...all.subarray(0, 12)].map(byte => byte.toString(16).padStart(2, "0")).join("");
  if ((await sets())[0] === name) return name;
  try {
    await caches.delete(name);
    const cache = await caches.open(name);
    for (const [asset, response] of responses) await cache.put(asset, response);
    await cache.put(WHOLE, new Response("whole"));
  } catch (error) {
    await caches.delete(name);
    throw error;
  }
  return name;
}

/** Looks for a newer page, and tells `client` where there is one. */
async function look(client) {
  const before = serving ?? (await sets())[0];
  try {
    if ((await collect()) !== before && before) client.postMessage("update");
  } catch (error) {
    // Off line nothing newer can be had, and what is kept serves on.
    if (error.name === "QuotaExceededError") client.postMessage({ notKept: "The browser’s store is full." });
  }
}
