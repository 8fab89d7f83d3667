// What the last two minutes took: time by who answered, the share that was sent, the bytes, and which step took the time.

import { at, bytes, capital, here, make, median, ms, percent, styled } from "./format.js";
import { side, steps } from "./answer.js";

/** Seconds that are drawn, seconds that a column stands for, and answers that are kept at most. */
const WINDOW = 120, COLUMN = 5, MOST = 2000;
const WIDTH = 240, HEIGHT = 64;
const COLUMNS = WINDOW / COLUMN;
const PARTS = [["device", here], ["encode", "encoding"], ["link", "the link"], ["cloud", "the cloud"]];

/** Newest last. */
const answers = [];
const charts = {};

/** Counts an answer. */
export function count(answer) {
  answers.push({ time: performance.now() / 1000, side: side(answer), ms: answer.total_ms, bytes: answer.bytes_sent, steps: Object.fromEntries(steps(answer)) });
  if (answers.length > MOST) answers.shift();
}

/** Makes them, empty. */
export function build() {
  const chart = (key, title, ...drawn) => {
    const value = make("b", {}, "–"), most = make("span", { class: "most", "aria-hidden": "true" });
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      make("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, "vector-effect": "non-scaling-stroke" }), ...Object.values(drawn[0]));
    charts[key] = { title, value, most, svg, ...drawn[0] };
    return make("figure", { class: "chart", id: `chart-${key}` }, make("figcaption", {}, value, make("span", {}, title)), make("div", { class: "plot" }, most, svg));
  };
  const path = name => make("path", { class: name, "vector-effect": "non-scaling-stroke" });
  at("charts").replaceChildren(
    chart("time", `until the answer: ${here}, the cloud`, { device: path("dots device"), cloud: path("dots cloud") }),
    chart("share", "of the pictures were sent", { area: path("area cloud"), line: path("line cloud") }),
    chart("bytes", "sent in these two minutes", { columns: path("columns cloud") }),
    make("figure", { class: "chart", id: "chart-steps" }, make("figcaption", {}, (charts.steps = { value: make("b", {}, "–") }).value, make("span", {}, "a picture, and which step took it")),
      (charts.steps.rows = make("div", { class: "rows" }))));
  draw();
}

/** Draws them as of now. */
export function draw() {
  const now = performance.now() / 1000;
  while (answers.length && answers[0].time < now - WINDOW) answers.shift();
  const x = time => ((time - now + WINDOW) / WINDOW) * WIDTH;
  const of = which => answers.filter(one => one.side === which);
  const [mine, theirs] = [of("device"), of("cloud")];
  drawTime(mine, theirs, x);

  const columns = Array.from({ length: COLUMNS }, () => []);
  for (const one of answers) columns[Math.min(Math.floor((one.time - now + WINDOW) / COLUMN), COLUMNS - 1)].push(one);
  drawShare(columns);
  drawBytes(columns);
  drawSteps(mine, theirs);
}

function told(chart, value, most = "") {
  if (chart.value.textContent !== value) chart.value.textContent = value;
  if (chart.most && chart.most.textContent !== most) chart.most.textContent = most;
  chart.svg?.setAttribute("aria-label", `${value} ${chart.title}`);
}

function drawTime(mine, theirs, x) {
  const most = Math.max(...answers.map(one => one.ms), 1);
  const dots = list => list.map(one => `M${x(one.time).toFixed(1)} ${(HEIGHT - 4 - ((HEIGHT - 10) * one.ms) / most).toFixed(1)}h0`).join("");
  charts.time.device.setAttribute("d", dots(mine));
  charts.time.cloud.setAttribute("d", dots(theirs));
  const middle = list => ms(median(list.map(one => one.ms)));
  told(charts.time, answers.length ? `${middle(mine)} / ${middle(theirs)}` : "–", answers.length ? ms(most) : "");
  if (answers.length) charts.time.value.replaceChildren(make("span", { class: "device" }, middle(mine)), " / ", make("span", { class: "cloud" }, middle(theirs)));
}

function drawShare(columns) {
  const isSent = one => one.bytes > 0;
  const share = list => list.filter(isSent).length / list.length;
  const y = value => (HEIGHT - 3 - (HEIGHT - 8) * value).toFixed(1);
  const width = WIDTH / COLUMNS;
  let line = "", area = "";
  // A line each for the columns that follow each other; one alone is a short step.
  for (let i = 0; i < COLUMNS; i++) {
    if (!columns[i].length) continue;
    const [left, right, height] = [i * width, (i + 1) * width, y(share(columns[i]))];
    line += `${i && columns[i - 1].length ? "L" : "M"}${left} ${height}H${right}`;
    area += `M${left} ${HEIGHT - 1}V${height}H${right}V${HEIGHT - 1}Z`;
  }
  charts.share.line.setAttribute("d", line);
  charts.share.area.setAttribute("d", area);
  told(charts.share, answers.length ? percent(share(answers)) : "–", answers.length ? percent(1) : "");
}

function drawBytes(columns) {
  const sums = columns.map(list => list.reduce((sum, one) => sum + one.bytes, 0)), most = Math.max(...sums);
  const width = WIDTH / COLUMNS;
  charts.bytes.columns.setAttribute("d", sums.map((sum, i) => (sum ? `M${i * width + 1} ${HEIGHT - 1}v${(-(HEIGHT - 8) * sum) / most}h${width - 2}V${HEIGHT - 1}Z` : "")).join(""));
  told(charts.bytes, bytes(sums.reduce((sum, one) => sum + one, 0)), most ? bytes(most) : "");
}

function drawSteps(mine, theirs) {
  const mean = (list, f) => list.reduce((sum, one) => sum + f(one), 0) / list.length;
  const lists = [[here, mine], ["the cloud", theirs]].filter(([, list]) => list.length);
  told(charts.steps, answers.length ? ms(mean(answers, one => one.ms)) : "–");
  const slowest = Math.max(...lists.map(([, list]) => mean(list, one => one.ms)));
  const row = ([name, list]) => {
    const total = mean(list, one => one.ms);
    const parts = PARTS.map(([part, word]) => [part, word, mean(list, one => one.steps[part] ?? 0)]).filter(([, , time]) => time > 0);
    const words = parts.map(([, word, time]) => `${word} ${ms(time)}`).join(", ");
    const bar = make("span", { class: "bar", role: "img", "aria-label": `Answered by ${name}: ${words}`, title: words },
      ...parts.map(([part, , time]) => styled(make("i", { class: part }), { flex: String(time) })));
    return [make("span", {}, capital(name)), make("span", { class: "room" }, styled(bar, { width: `${(100 * total) / slowest}%` })), make("span", { class: "ms" }, ms(total))];
  };
  charts.steps.rows.replaceChildren(...lists.flatMap(row));
}
