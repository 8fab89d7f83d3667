// The policy's frontier: what each operating point is expected to cost and to get right, which one runs, and a handle to
// move it.

import { at, bytes, make, ms, percent } from "./format.js";

const HEIGHT = 200, PAD = { l: 46, r: 16, t: 18, b: 26 };

let move = () => {};
/** What is drawn: `policy` of the state, its points from the soonest to the most accurate, and the scales. */
let drawn = null;

/** Has `choose(name)` called with another operating point. */
export function listen(choose) {
  move = choose;
  const svg = at("curve"), handle = at("handle");
  const nearest = event => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const away = one => Math.hypot(drawn.x(one.ms) - px, (drawn.y(one.accuracy) - py) / 2);
    return drawn.points.reduce((best, one, i) => (away(one) < away(drawn.points[best]) ? i : best), 0);
  };
  const preview = i => {
    handle.value = i;
    figures(drawn.points[i]);
    tell(drawn.points[i].name);
    for (const [j, dot] of drawn.dots.entries()) dot.classList.toggle("aimed", i === j);
  };
  handle.oninput = () => preview(Number(handle.value));
  handle.onchange = () => move(drawn.points[handle.value].name);
  svg.onpointerdown = event => {
    if (event.button) return;
    svg.setPointerCapture(event.pointerId);
    preview(nearest(event));
  };
  svg.onpointermove = event => svg.hasPointerCapture(event.pointerId) && preview(nearest(event));
  svg.onpointerup = event => svg.hasPointerCapture(event.pointerId) && move(drawn.points[nearest(event)].name);
  svg.onpointercancel = () => drawn && show(drawn.policy, drawn.decides);
}

/** Draws the frontier; it is pale where the policy does not decide. */
export function show(policy, decides) {
  at("frontier").hidden = !policy;
  if (!policy || at("curve").matches(":active") || at("handle").matches(":active")) return;
  const width = Math.max(at("curve").clientWidth || at("frontier").clientWidth - 34, 240);
  const key = JSON.stringify([policy, decides, width]);
  if (drawn?.key === key) return;
  const mixed = policy.mixed_with;
  // A promised point is one of the others again.
  const isOwn = one => one.name !== "promised" || one.name === policy.operating_point || one.name === mixed?.operating_point;
  const points = policy.operating_points.filter(isOwn).sort((a, b) => a.ms - b.ms || a.accuracy - b.accuracy);
  const { reference } = policy;
  const xs = [...points, reference].map(one => one.ms), ys = [...points, reference].map(one => one.accuracy);
  const most = Math.max(...xs) * 1.04, low = Math.min(...ys), high = Math.max(...ys), span = Math.max(high - low, 1e-6);
  const x = value => PAD.l + (value / most) * (width - PAD.l - PAD.r);
  const y = value => PAD.t + ((high - value) / span) * (HEIGHT - PAD.t - PAD.b - 10);
  const running = { ...policy.expected, name: mixed ? `${policy.operating_point}, ${mixed.operating_point} for ${percent(mixed.share)}` : policy.operating_point };
  const dots = points.map(one => make("circle", { class: "point", cx: x(one.ms), cy: y(one.accuracy), r: 5.5 }, make("title", {}, `${one.name}: ${words(one)}`)));
  drawn = { key, policy, decides, points, dots, x, y };

  const svg = at("curve");
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("aria-label", `Expected accuracy against mean time. Running: ${running.name}, ${words(running)}.`);
  const line = points.map(one => `${x(one.ms)},${y(one.accuracy)}`).join(" ");
  const floor = HEIGHT - PAD.b;
  svg.replaceChildren(
    make("line", { class: "axis", x1: PAD.l, x2: width - PAD.r, y1: floor, y2: floor }),
    make("line", { class: "reference", x1: PAD.l, x2: width - PAD.r, y1: y(reference.accuracy), y2: y(reference.accuracy) }),
    make("circle", { class: "alone", cx: x(reference.ms), cy: y(reference.accuracy), r: 4 }, make("title", {}, `the cloud alone: ${percent(reference.accuracy, 1)}, ${ms(reference.ms)}`)),
    make("text", { class: "cloud", x: PAD.l + 4, y: y(reference.accuracy) - 6 }, "the cloud alone"),
    make("text", { x: 0, y: y(high) + 4 }, percent(high, 1)), make("text", { x: 0, y: y(low) + 4 }, percent(low, 1)),
    make("text", { x: PAD.l, y: HEIGHT - 8 }, "0\u00a0ms"), make("text", { x: width - PAD.r, y: HEIGHT - 8, "text-anchor": "end" }, ms(most)),
    make("text", { x: (width + PAD.l - PAD.r) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "mean time a picture, expected"),
    make("polyline", { class: "curve", points: line }), ...dots,
    make("circle", { class: "point now", cx: x(running.ms), cy: y(running.accuracy), r: 8 }, make("title", {}, `${running.name}: ${words(running)}`)));
  const handle = at("handle");
  handle.max = points.length - 1;
  handle.value = points.findIndex(one => one.name === policy.operating_point);
  tell(running.name);
  figures(running);
  at("frontier").classList.toggle("pale", !decides);
}

const words = one => `${percent(one.accuracy, 1)} right, ${ms(one.ms)}, ${percent(one.offload_rate)} sent`;

function tell(name) {
  const one = drawn.points[at("handle").value];
  at("handle").setAttribute("aria-valuetext", `${name}: ${words(one)}`);
}

function figures(one) {
  const goal = drawn.policy.goal, name = /[=]/.test(goal ?? "") ? `for ${goal}` : "operating point";
  at("expected").replaceChildren(...[[percent(one.accuracy, 1), "right"], [ms(one.ms), "a picture"], [percent(one.offload_rate), "sent"], [bytes(one.bytes), "sent a picture"], [one.name, name]]
    .map(([value, word]) => make("div", {}, make("b", {}, value), make("span", {}, word))));
}
