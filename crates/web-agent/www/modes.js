// The three ways to decide, each with what it took so far, so that a person feels the difference.

import { at, bytes, capital, device, make, median, ms } from "./format.js";

const MODES = [["device", `${capital(device)} only`], ["policy", "Policy"], ["cloud", "Cloud only"]];
/** Answers of each mode that its figures are of. */
const LATEST = 50;

const taken = new Map(MODES.map(([mode]) => [mode, []]));

/** Makes the switch; `choose(mode)` hears of another one. */
export function build(choose) {
  at("modes").replaceChildren(...MODES.map(([value, name]) => {
    const input = make("input", { type: "radio", name: "mode", value, "aria-describedby": `took-${value}` });
    input.onchange = () => choose(value);
    return make("label", {}, input, make("span", {}, make("b", {}, name), make("small", { id: `took-${value}` }, "not tried yet")));
  }));
}

/** Marks the mode that decides now. */
export function mark(mode) {
  for (const input of at("modes").querySelectorAll("input")) input.checked = input.value === mode;
}

/** Counts an answer to its mode. */
export function count(answer) {
  const list = taken.get(answer.mode);
  list.push({ ms: answer.total_ms, bytes: answer.bytes_sent });
  if (list.length > LATEST) list.shift();
  const sent = list.reduce((sum, one) => sum + one.bytes, 0) / list.length;
  at(`took-${answer.mode}`).textContent = `${ms(median(list.map(one => one.ms)))} · ${bytes(sent)}`;
}
