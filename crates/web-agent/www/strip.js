// The last pictures, each with its answer, which a press shows again.

import { at, make, ms, percent } from "./format.js";
import { side, who } from "./answer.js";

/** Pictures that are kept. */
const KEPT = 24;
const WIDTH = 112, HEIGHT = 84;

const items = [];
let choose = () => {};

/** Has `chosen(item)` called where one is pressed: an object with `id`, `name` and `answer`. */
export function listen(chosen) {
  choose = chosen;
  at("strip").onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -KEPT, End: KEPT }[event.key];
    const now = items.findIndex(item => item.button === document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    focus(items[Math.min(Math.max(now + step, 0), items.length - 1)]);
    document.activeElement.scrollIntoView({ inline: "nearest", block: "nearest" });
  };
}

/** One of them is in the order of the keyboard, the others are reached by arrows. */
function focus(item) {
  for (const other of items) other.button.tabIndex = other === item ? 0 : -1;
  item.button.focus();
}

/** Draws `source`, an image, a canvas or a bitmap, into a small canvas that covers it. */
function draw(canvas, source) {
  const context = canvas.getContext("2d");
  const scale = Math.max(WIDTH * 2 / source.width, HEIGHT * 2 / source.height);
  const width = source.width * scale, height = source.height * scale;
  context.imageSmoothingEnabled = source.width >= 128;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, WIDTH - width / 2, HEIGHT - height / 2, width, height);
}

/** A picture to go into the strip once it is answered: what is drawn here is what was asked about. */
export function keep(source) {
  // The canvas of the one that makes way is used again, so that a camera makes no rubbish.
  const canvas = items.length >= KEPT ? items.pop().release() : Object.assign(document.createElement("canvas"), { width: WIDTH * 2, height: HEIGHT * 2 });
  if (source) draw(canvas, source);
  return canvas;
}

/** Puts an answered picture first. */
export function add(item, canvas) {
  at("none").hidden = true;
  const button = make("button", { type: "button" }, canvas, make("span", { class: "is" }), make("span", { class: "of" }));
  const entry = { ...item, button, row: make("li", {}, button) };
  entry.release = () => { entry.row.remove(); canvas.remove(); return canvas; };
  button.onclick = () => choose(entry);
  button.tabIndex = items.some(other => other.button.tabIndex === 0) ? -1 : 0;
  items.unshift(entry);
  tell(entry);
  at("strip").prepend(entry.row);
  while (items.length > KEPT) items.pop().release();
  if (!items.some(other => other.button.tabIndex === 0)) items[0].button.tabIndex = 0;
  return entry;
}

function tell({ button, name, answer, error }) {
  const [is, of] = button.querySelectorAll("span");
  button.className = answer ? side(answer) : "bad";
  is.textContent = answer ? answer.label : "no answer";
  of.textContent = answer ? `${percent(answer.confidence)} · ${ms(answer.total_ms)}` : name;
  const label = answer ? `${answer.label}, ${percent(answer.confidence)} sure, by ${who(answer)}, in ${ms(answer.total_ms)}. Show its answer again.` : `${name}: ${error}`;
  button.setAttribute("aria-label", label);
  button.title = name;
}

/** What came later about a picture that is in the strip; its entry, or undefined. */
export function correct(event) {
  const entry = items.find(item => item.id === event.id);
  if (!entry?.answer) return undefined;
  entry.answer = { ...entry.answer, ...event };
  tell(entry);
  return entry;
}

/** Marks the one whose answer is shown. */
export function mark(entry) {
  for (const item of items) item === entry ? item.button.setAttribute("aria-current", "true") : item.button.removeAttribute("aria-current");
}
