// The page: what a person does goes to the agent, what the agent says is shown. It runs in worker.js.

import { Agent } from "./agent.js";
import * as answers from "./answer.js";
import { Camera } from "./camera.js";
import * as charts from "./charts.js";
import { at, bytes, capital, here, ms, percent, uuid } from "./format.js";
import * as frontier from "./frontier.js";
import { cause, isGone } from "./messages.js";
import * as modes from "./modes.js";
import { clear, notice } from "./notices.js";
import { Refused, asJpeg, listen as listenForPictures, read } from "./pictures.js";
import { keepPage, offerInstall } from "./offline.js";
import { lacks } from "./support.js";
import * as strip from "./strip.js";

const STATE_EVERY_MS = 3000, CHARTS_EVERY_MS = 1000;
/** The side of a picture that is drawn with its pixels to be seen. */
const SMALL = 128;

const kept = name => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* Chosen again next time. */ } };

/** The last state that the agent told, and what the person chose. */
let state = null;
let chosen = { mode: kept("mode") ?? "policy", point: kept("point") };
/** This page's origin, where the cloud has another and must let it call. */
let asker = null;
/** Why nothing can be answered: the code of a message. */
let broken = lacks();
/** The entry of the strip whose answer is shown, and whether new answers take its place. */
let shown = null;

const agent = new Agent(heard, () => chosen);
const camera = new Camera(at("video"), { frame, changed: cameraChanged, problem: (code, details) => notice(code, details), waited: seconds => notice("background", { seconds }) });

// What the agent tells.
function heard(message) {
  switch (message.kind) {
    case "progress": return answers.loading(message);
    case "notice": return notice(message.code, message.details);
    case "token": return clear("token-expired", "token-refused");
    case "event": return later(message.event);
    case "state": return showState(message.state);
    case "failed": return fail(message.code, message.details);
    case "ready": return ready(message);
  }
}

function ready({ state: now, cloud, threads, took }) {
  broken = null;
  asker = cloud === location.origin ? null : location.origin;
  clear("unreachable", "no-program", "not-isolated", "agent-refused", "wrong-digest", "crashed-often");
  showState(now);
  const from = took.cached === took.bytes ? `${bytes(took.bytes)} kept from before` : took.cached ? `${bytes(took.bytes - took.cached)} fetched, ${bytes(took.cached)} kept from before` : `${bytes(took.bytes)} fetched`;
  at("loaded").textContent = `Ready after ${ms(took.ms)}: ${from}. ${capital(here)} runs the network${threads > 1 ? ` on up to ${threads} threads` : ""}; pictures are sent only where this page says so.`;
  if (!shown) answers.welcome(true);
  keepPage();
}

function fail(code, details) {
  broken = code;
  camera.stop();
  const again = code === "unreachable" || code === "no-program" || code === "not-isolated" || code === "wrong-digest";
  notice(code, details, again ? { text: "Try again", do: start } : code === "crashed-often" ? { text: "Load again", do: () => location.reload() } : null);
  pill("here", "cannot answer", "bad");
  answers.say("No answer can be had", "The message above says why.");
}

function start() {
  clear("unreachable", "no-program", "not-isolated", "wrong-digest", "agent-refused");
  broken = null;
  pill("here", "starting", "");
  answers.welcome(false);
  agent.start();
}

function pill(id, text, kind, title = "") {
  const element = at(id);
  element.hidden = !text;
  if (element.textContent !== text) element.textContent = text;
  element.className = `pill ${kind}`;
  element.title = title;
}

function showState(now) {
  state = now;
  at("about").textContent = [now.cascade, now.version].filter(Boolean).join(" · ");
  const mode = (now.mode ?? chosen.mode).replace("-only", "");
  modes.mark(mode);
  pill("here", "ready", "good");
  const cloud = now.peers?.find(peer => peer.site === "cloud") ?? now.peers?.[0];
  if (!navigator.onLine) pill("cloud", "off line", "");
  else if (cloud) {
    const [word, kind] = { closed: ["cloud", "good"], open: ["cloud away", "bad"], "half-open": ["trying the cloud", ""] }[cloud.circuit] ?? ["", ""];
    const { link } = cloud;
    const title = link ? `a round trip of ${ms(link.round_trip_ms)}, ${link.uplink ? `${bytes(link.uplink)} a second, ` : ""}${ms(link.at_peer_ms)} there, ${percent(link.failed)} failed` : "nothing sent in the last minute";
    // Nothing is known of a cloud that was never asked.
    pill("cloud", cloud.circuit === "closed" && !link ? "" : `${word}${link && cloud.circuit === "closed" ? ` · ${ms(link.round_trip_ms + link.at_peer_ms)}` : ""}`, kind, title);
  }
  frontier.show(now.policy, mode === "policy");
}

/** What the network's decoder leaves to others: the browser may read it, and make a smaller one. */
const isLeft = error => /not supported|pixels, over the limit/.test(error.message);

// Pictures and frames. `again()` makes another image of what the network does not read.
async function ask(image, name, thumbnail, again = null) {
  const id = uuid();
  try {
    const answer = await agent.classify(id, image).catch(async error => {
      if (!again || !isLeft(error)) throw error;
      return agent.classify(id, await again());
    });
    const entry = strip.add({ id, name, answer }, thumbnail);
    charts.count(answer);
    modes.count(answer);
    tellOfCloud(answer);
    if (!performance.getEntriesByName("first-answer").length) performance.mark("first-answer");
    return entry;
  } catch (error) {
    strip.add({ id, name, error: error.message }, thumbnail);
    throw error;
  }
}

/** Shows an entry's answer. */
function show(entry) {
  shown = entry;
  strip.mark(entry);
  if (entry.answer) answers.show(entry.answer, entry.name);
  else answers.say("No answer", entry.error);
}

function tellOfCloud(answer) {
  if (isGone(answer)) notice("cloud-gone", { cause: cause(answer), asker });
  else if (answer.reason === "offloaded" || answer.mode === "device") clear("cloud-gone", "token-expired");
  if (answer.reason === "offloaded") clear("last-known");
}

/** A correction or confirmation of an answer that was given. */
function later(event) {
  if (event.kind !== "correction" && event.kind !== "confirmation") return;
  const entry = strip.correct(event);
  if (entry && entry === shown) show(entry);
}

async function frame(image, canvas) {
  if (broken) return;
  const thumbnail = strip.keep(canvas);
  const began = performance.now();
  try {
    const entry = await ask(image, "camera", thumbnail);
    show(entry);
    clear("no-answer");
    at("pace").textContent = `${Math.min(1000 / Math.max(performance.now() - began, 1), 5).toFixed(1)} a second`;
  } catch (error) { notice("no-answer", { name: "a frame of the camera", error: error.message }); }
}

let asking = Promise.resolve();
/** Asks about files, one after the other. */
function take(files) {
  if (broken) return;
  camera.stop();
  clear("not-an-image", "too-large", "no-answer");
  for (const file of files) asking = asking.then(() => picture(file));
}

async function picture(file) {
  const name = file.name || "picture";
  try {
    const image = await read(file);
    const preview = await createImageBitmap(file).catch(() => null);
    const thumbnail = strip.keep(preview);
    preview?.close();
    display(file);
    show(await ask(image, name, thumbnail, () => asJpeg(file, name)));
  } catch (error) {
    if (error instanceof Refused) notice(error.code, error.details);
    else if (/not an image|neither|decod|corrupt|truncat|format/i.test(error.message)) notice("not-an-image", { name, error: `${capital(error.message.replace(/\.?$/, "."))}` });
    else notice("no-answer", { name, error: error.message });
  }
}

function display(file) {
  const image = at("picture");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.onload = () => image.classList.toggle("small", image.naturalWidth < SMALL);
  image.hidden = false;
  at("hint").hidden = true;
}

function cameraChanged(isOn) {
  at("video").hidden = at("pace").hidden = !isOn;
  at("pace").textContent = "starting";
  at("picture").hidden = isOn || !at("picture").src;
  at("hint").hidden = isOn || !at("picture").hidden;
  at("camera").querySelector("span").textContent = isOn ? "Stop the camera" : "Use the camera";
  at("camera").classList.toggle("on", isOn);
  if (isOn) clear("no-camera", "camera-refused", "camera-busy", "camera-failed", "camera-ended", "background");
}

// What a person chooses.
function choose(mode) {
  chosen.mode = mode;
  keep("mode", mode);
  modes.mark(mode);
  if (mode === "device") clear("cloud-gone", "token-expired", "token-refused");
  agent.change({ mode });
}
function move(point) {
  chosen = { mode: "policy", point };
  keep("mode", "policy");
  keep("point", point);
  agent.change(chosen);
}

offerInstall(at("install"));
modes.build(choose);
modes.mark(chosen.mode);
charts.build();
frontier.listen(move);
strip.listen(entry => {
  camera.stop();
  show(entry);
});
listenForPictures(at("file"), at("stage"), take);
at("camera").onclick = () => (camera.isOn ? camera.stop() : broken || camera.start());
addEventListener("resize", () => state && showState(state));
for (const name of ["online", "offline"])
  addEventListener(name, () => {
    if (name === "online") clear("last-known");
    if (broken === "unreachable" && name === "online") start();
    else if (state) showState(state);
  });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  agent.awake();
  charts.draw();
});
setInterval(() => document.hidden || charts.draw(), CHARTS_EVERY_MS);
setInterval(() => document.hidden || !state || agent.look(), STATE_EVERY_MS);

if (broken) {
  for (const control of [at("camera"), at("file"), ...at("modes").querySelectorAll("input")]) control.disabled = true;
  fail(broken, {});
} else start();
