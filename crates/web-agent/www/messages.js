// Every word about what went wrong and why who answered. Nothing here touches the page.

import { bytes, here, ms } from "./format.js";

/** Largest picture that is taken, in bytes: the limit of the network's decoder. */
export const LARGEST = 32 << 20;

const NEEDS = "Chrome and Edge from 91 on, Firefox from 114 and Safari from 16.4 have what it takes.";

/** What is said on the page, by its code: how grave it is, a title, and what it means or what to do. */
export const MESSAGES = {
  "no-camera": () => ["bad", "There is no camera here", "Choose, drop or paste a picture instead."],
  "camera-refused": () => ["bad", "The camera was refused", "Allow it for this page in the browser’s settings, beside the address, and press the button again. Pictures work without it."],
  "camera-busy": () => ["bad", "The camera is in use", "Another program has it: close that, and press the button again."],
  "camera-insecure": () => ["bad", "A browser gives its camera to pages over HTTPS alone", "Open this page by its https:// address. Pictures work without the camera."],
  "camera-ended": () => ["bad", "The camera gave up", "It was unplugged, or taken by another program. Press the button to use it again."],
  "camera-failed": ({ error }) => ["bad", "The camera cannot be used", error],
  background: ({ seconds }) => ["info", "The camera waited in the background", `No picture was taken for ${seconds < 1.5 ? "a second" : `${Math.round(seconds)} seconds`}, while another tab or program was in front.`],
  "no-wasm": () => ["bad", "This browser cannot run the network", `It has no WebAssembly, so nothing can be answered here: neither by ${here} nor by the cloud, which is asked by the same program. ${NEEDS}`],
  "no-simd": () => ["bad", "This browser cannot run the network", `Its WebAssembly lacks SIMD, so nothing can be answered here: neither by ${here} nor by the cloud, which is asked by the same program. ${NEEDS}`],
  "no-program": ({ error }) => ["bad", "The program of this page cannot be had", `The service was built without it (scripts/build-web makes it), or this browser is too old for it. ${NEEDS} ${error}`],
  "not-isolated": ({ error }) => ["bad", "This browser runs the network only for pages that are isolated from others", `What is between this page and its service takes away the headers for that: cross-origin-opener-policy and cross-origin-embedder-policy. ${error}`],
  unreachable: ({ error }) => ["bad", "The network could not be fetched", `It was never fetched before, and the service cannot be reached. Once you are on line it is tried again. ${error}`],
  "wrong-digest": ({ path }) => ["bad", "What was fetched is not what it should be", `${path} does not have its digest, and neither does what came when it was fetched once more. It is not used. Tell whoever runs the service.`],
  "agent-refused": ({ error }) => ["bad", "The network cannot be used", error],
  crashed: ({ error }) => ["warn", "The network crashed and was started again", `The picture was asked about once more. ${error}`],
  "crashed-often": ({ error }) => ["bad", "The network crashes again and again", `Load the page again. ${error}`],
  "cache-full": () => ["warn", "The browser’s store is full", `The network runs, but is not kept: it is fetched again next time, and off line nothing can be answered. Free some room on ${here} and load the page again.`],
  "cache-missing": ({ error }) => ["warn", "The browser keeps nothing for this page", `The network runs, but is fetched again next time: private windows and some settings do that. ${error}`],
  "last-known": ({ isOnLine }) => ["info", isOnLine ? "What served this page is away" : "Off line", `The network that was fetched last is used.${isOnLine ? "" : ` ${here[0].toUpperCase()}${here.slice(1)} answers by itself.`}`],
  "cloud-gone": ({ cause, asker }) => ["warn", "The cloud does not answer", `${CAUSES[cause] ?? "It gave no answer"}${cause === "unreachable" && asker ? `, or it does not let pages of ${asker} call: its configuration names those in grpc_web.origins` : ""}. Until it is back, ${here} answers by itself.`],
  "token-expired": () => ["warn", "The cloud no longer takes this page’s token", `Another is fetched. Until then ${here} answers by itself.`],
  "token-refused": ({ error, again }) => ["warn", "The cloud gives this page no token", `${error}. Tried again in ${ms(again * 1000).replace(/\.0/, "")}; until then ${here} answers by itself.`],
  "not-an-image": ({ name, error }) => ["bad", `${name} is no picture`, `${error} JPEG, PNG and WebP are, and whatever this browser can show.`],
  "too-large": ({ name, size }) => ["bad", `${name} is too large`, `It has ${bytes(size)}, and a picture may have ${bytes(LARGEST)}. Choose a smaller one.`],
  "no-answer": ({ name, error }) => ["bad", `No answer for ${name}`, error],
  "not-changed": ({ error }) => ["warn", "Nothing was changed", error],
  "not-kept": ({ error }) => ["info", "This page is not kept", `Without the network it will not open. ${error}`],
  update: () => ["info", "There is a newer version of this page", "Load it to use it."],
};

/** Why an offload gave nothing, by the word after `fallback:`. */
const CAUSES = {
  "no-cloud": "No cloud is known to this page",
  "circuit-open": "It failed several times in a row, and is not asked for a moment",
  deadline: "It did not answer by the deadline",
  unreachable: "No connection could be made",
  certificate: "Its certificate was refused",
  "connection-lost": "The connection broke",
  unavailable: "It is there, and cannot serve now",
  overloaded: "It has too much to do",
  rejected: "It refused the request",
  "bad-reply": "What it said makes no sense",
  unusable: "It cannot use the picture",
  unsendable: "The picture is larger than a message may be",
  budget: "As much was sent already as may be",
  private: "What the picture shows is not to leave the device",
  "network-failed": "A further network here failed",
};

/** Causes that speak of the cloud or the way there, and not of the picture. */
const GONE = new Set(["circuit-open", "deadline", "unreachable", "certificate", "connection-lost", "unavailable", "overloaded"]);

/** The word after `fallback:`; null where the reason is another. */
export const cause = answer => (answer.reason.startsWith("fallback:") ? answer.reason.slice(9) : null);
/** Whether the cloud, or the way there, is at fault. */
export const isGone = answer => GONE.has(cause(answer));

const PROTOCOLS = { h3: "HTTP/3", h2: "HTTP/2", "http/1.1": "HTTP/1.1" };

/** Why who answered, in a sentence. */
export function why(answer) {
  const over = PROTOCOLS[answer.transport] ? ` over ${PROTOCOLS[answer.transport]}` : "";
  if (answer.kind === "correction") return `The cloud answered later, and corrects ${here}.`;
  if (answer.reason === "offloaded") return answer.mode === "cloud" ? `In this mode the cloud is asked about every picture${over}.` : `${here[0].toUpperCase()}${here.slice(1)} was not sure enough, and asked the cloud${over}.`;
  if (answer.reason === "confident") return answer.mode === "device" ? "In this mode nothing is sent." : "It was sure enough: nothing was sent.";
  const told = CAUSES[cause(answer)] ?? cause(answer)?.replaceAll("-", " ") ?? answer.reason;
  return `The cloud should have answered. ${told}${answer.final === false ? "; it still may" : ""}.`;
}
