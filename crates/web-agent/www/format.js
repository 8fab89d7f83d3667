// Elements, and numbers as people read them.

export const at = id => document.getElementById(id);

const SVG = new Set(["svg", "g", "path", "polyline", "line", "circle", "rect", "text", "title"]);

/** An element with its attributes and children; absent children are left out. */
export function make(name, attributes = {}, ...children) {
  const made = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter(child => child != null && child !== false && child !== ""));
  return made;
}

/** Sets what the page's policy does not let an attribute say. */
export function styled(element, styles) {
  for (const [key, value] of Object.entries(styles)) element.style.setProperty(key, value);
  return element;
}

export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)}\u00a0%`;
export const ms = value =>
  value == null ? "–"
  : value >= 10_000 ? `${(value / 1000).toFixed(1)}\u00a0s`
  : `${value < 10 ? value.toFixed(1) : value.toFixed(0)}\u00a0ms`;
export const bytes = value =>
  value >= 1e6 ? `${(value / 1e6).toFixed(1)}\u00a0MB`
  : value >= 1e3 ? `${(value / 1e3).toFixed(1)}\u00a0kB`
  : `${value.toFixed(0)}\u00a0B`;

/** What a person calls the device that shows this page. */
export const device = (() => {
  if (!matchMedia("(pointer: coarse)").matches) return "computer";
  return Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet";
})();
export const here = `this ${device}`;
export const capital = text => text[0].toUpperCase() + text.slice(1);

/** The middle one of `values`; null where there is none. */
export function median(values) {
  return values.length ? [...values].sort((a, b) => a - b)[values.length >> 1] : null;
}

/** A name that later ones are greater than: a UUID of version 7. */
export function uuid() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  const now = Date.now().toString(16).padStart(12, "0");
  random[6] = (random[6] & 0x0f) | 0x70;
  random[8] = (random[8] & 0x3f) | 0x80;
  const hex = now + [...random.subarray(6)].map(byte => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
