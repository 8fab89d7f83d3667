// What a person should know, in cards above the picture: each code once, the latest word of it.

import { at, make } from "./format.js";
import { MESSAGES } from "./messages.js";

const shown = new Map();

/** Shows what `code` means; `action` is a button's text and what it does. Other words replace those of the same code. */
export function notice(code, details = {}, action = null) {
  const [tone, title, text] = MESSAGES[code](details);
  const close = make("button", { type: "button", class: "close", "aria-label": `Close: ${title}` }, "×");
  close.onclick = () => {
    // The focus goes on to what is next, not away.
    (card.nextElementSibling?.querySelector("button") ?? at("camera")).focus();
    clear(code);
  };
  const body = make("p", {}, make("b", {}, title), make("span", {}, text.trim()));
  const card = make("div", { class: `notice ${tone}`, "data-code": code }, make("i", { "aria-hidden": "true" }), body);
  if (action) {
    const button = make("button", { type: "button" }, action.text);
    button.onclick = action.do;
    card.append(button);
  }
  card.append(close);
  const before = shown.get(code);
  // The same words again would be read out again.
  if (before?.querySelector("p").textContent === body.textContent) return;
  if (before) before.replaceWith(card);
  else at("notices").append(card);
  shown.set(code, card);
}

/** Takes back what was said. */
export function clear(...codes) {
  for (const code of codes) {
    shown.get(code)?.remove();
    shown.delete(code);
  }
}
