// The answer, large: what it is, how sure, who said it and why, and where the time and the bytes went.

import { at, bytes, capital, device, here, make, ms, percent, styled } from "./format.js";
import { why } from "./messages.js";

/** A screen reader is told at most this often, as a camera has several answers a second. */
const SPOKEN_EVERY_MS = 3000;
let spoken = { text: "", at: -SPOKEN_EVERY_MS };

const GLYPHS = {
  computer: "M4 5.5h16v10H4zM2 18.5h20",
  phone: "M8 2.5h8a1.5 1.5 0 0 1 1.5 1.5v16a1.5 1.5 0 0 1-1.5 1.5H8A1.5 1.5 0 0 1 6.5 20V4A1.5 1.5 0 0 1 8 2.5zM10.5 18.5h3",
  tablet: "M5 2.5h14A1.5 1.5 0 0 1 20.5 4v16a1.5 1.5 0 0 1-1.5 1.5H5A1.5 1.5 0 0 1 3.5 20V4A1.5 1.5 0 0 1 5 2.5zM10.5 18.5h3",
  cloud: "M7 18.5a4.5 4.5 0 0 1-.5-8.97A6 6 0 0 1 18 9.8a4.4 4.4 0 0 1-.5 8.7z",
};
const glyph = name => make("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, make("path", { d: GLYPHS[name] }));

/** Who answered: the device, or one further on. */
export const who = answer => (answer.site === "device" ? here : answer.site === "fog" ? "the fog" : "the cloud");
/** The two colours. */
export const side = answer => (answer.site === "device" ? "device" : "cloud");

/** The steps that took time, in their order. */
export const steps = answer =>
  [["device", answer.device_ms], ["encode", answer.encoding === "original" ? null : answer.encode_ms], ["link", answer.link_ms], ["cloud", answer.cloud_ms]].filter(([, time]) => time != null);
const NAMES = { device: here, encode: "encoding", link: "the link", cloud: "the cloud" };

function way(answer) {
  const isSent = answer.bytes_sent > 0;
  const word = isSent ? `${bytes(answer.bytes_sent)} sent${answer.encoding && answer.encoding !== "original" ? ` as ${answer.encoding}` : ""}` : "nothing sent";
  return make("div", { class: `way ${isSent ? "sent" : "kept"} ${side(answer)}`, role: "img", "aria-label": word },
    make("span", { class: "end device" }, glyph(device)), make("span", { class: "line" }, make("b", {}, word)), make("span", { class: "end cloud" }, glyph("cloud")));
}

function bar(parts, name) {
  return make("div", { class: "bar", role: "img", "aria-label": name },
    ...parts.map(([part, time]) => styled(make("i", { class: part }), { flex: String(Math.max(time, 0)) })));
}

/** Shows an answer; `name` is the picture's. */
export function show(answer, name) {
  const parts = steps(answer);
  const told = parts.map(([part, time]) => `${NAMES[part]} ${ms(time)}`).join(", ");
  at("loading").hidden = true;
  at("said").replaceChildren(
    make("div", { class: `by ${side(answer)}` }, make("span", { class: "pill" }, capital(who(answer))), make("span", { class: "soft name" }, name), answer.kind === "correction" && make("span", { class: "pill corrected" }, "corrected"), make("b", { class: "time" }, ms(answer.total_ms))),
    make("p", { class: "label" }, answer.label),
    make("p", { class: `sure ${side(answer)}` }, make("b", {}, percent(answer.confidence)), " sure"),
    make("p", { class: "why" }, why(answer)),
    way(answer),
    bar(parts, `Where the time went: ${told}`),
    make("p", { class: "key" }, ...parts.map(([part, time]) => make("span", {}, make("i", { class: part }), `${NAMES[part]} `, make("b", {}, ms(time))))),
    make("ul", { class: "top", "aria-label": "The most probable classes" }, ...(answer.top5 ?? []).map(one =>
      make("li", {}, make("span", { class: "of", title: one.label }, one.label), make("span", { class: "bar", "aria-hidden": "true" }, styled(make("i", { class: side(answer) }), { width: `${one.confidence * 100}%` })), make("span", {}, percent(one.confidence, one.confidence < 0.01 ? 1 : 0))))),
    make("p", { class: "soft network" }, `${answer.network}${answer.exit ? ` at ${answer.exit}` : ""}`));
  speak(`${answer.label}, ${percent(answer.confidence)} sure, by ${who(answer)}. ${why(answer)}`, `${answer.label} ${answer.site}`);
}

/** Has a screen reader say it, unless it said the like a moment ago. */
function speak(text, gist) {
  const now = performance.now();
  if (gist === spoken.text || now - spoken.at < SPOKEN_EVERY_MS) {
    if (spoken.later || gist === spoken.text) return;
    // The last word of a burst is said, too.
    spoken.later = setTimeout(() => { spoken.later = null; speak(latest.text, latest.gist); }, SPOKEN_EVERY_MS);
    latest = { text, gist };
    return;
  }
  Object.assign(spoken, { text: gist, at: now });
  at("spoken").textContent = text;
}
let latest = null;

/** Words before the first answer: what the three ways to decide are. */
export function welcome(isReady) {
  at("loading").hidden = isReady;
  at("said").replaceChildren(
    isReady ? make("p", { class: "label none" }, "Nothing asked yet") : "",
    make("p", { class: "soft" }, "Show a picture, and feel the difference between three ways to decide:"),
    make("dl", { class: "ways" },
    make("dt", { class: "device" }, `${capital(device)} only`), make("dd", {}, "Soonest, and nothing is sent. Works off line."),
    make("dt", {}, "Policy"), make("dd", {}, `${capital(here)} answers where it is sure. A learned policy sends only the hard pictures.`),
    make("dt", { class: "cloud" }, "Cloud only"), make("dd", {}, "Every picture goes to a larger network: most often right, and slowest.")));
}

/** Words in place of an answer. */
export function say(title, text) {
  at("loading").hidden = true;
  at("said").replaceChildren(make("p", { class: "label none" }, title), make("p", { class: "soft" }, text));
}

/** How much of the network is here. */
export function loading({ done, total, cached }) {
  const isKept = cached === total;
  at("progress").value = total ? done / total : 0;
  at("fetched").textContent = isKept ? "The network is here, and starts …" : `Fetching the network, once: ${bytes(done)} of ${bytes(total)}`;
}
