// Chromium for the tests of the agent in the browser, and what they all look at.
//
// OUTPOST_PLAYWRIGHT names the folder with the packages of package.json, OUTPOST_CHROMIUM the browser.
import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const { chromium } = createRequire(`${path.resolve(process.env.OUTPOST_PLAYWRIGHT)}/`)("playwright-core");
const samples = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../models/samples");

/** Longer than anything takes, on a machine that is busy. */
export const PATIENCE = 120_000;
export const PHONE = { width: 390, height: 844 }, WIDE = { width: 1440, height: 900 };
const QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
/** What a browser has of cameras: a fake one that it gives, one that it refuses, or none. */
export const CAMERAS = {
  given: ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
  refused: ["--use-fake-device-for-media-stream", "--deny-permission-prompts"],
  none: [],
};

export const launch = (camera = CAMERAS.given, more = []) => chromium.launch({ executablePath: process.env.OUTPOST_CHROMIUM, args: [...QUIET, ...camera, ...more] });

/** By test: what is to be done once it is over. */
const endings = new WeakMap();
/** Does something once `test` is over: what was begun last ends first, as a page complains of a server that goes before it. */
export function atEnd(test, end) {
  if (!endings.has(test)) {
    const ends = [];
    endings.set(test, ends);
    test.after(async () => {
      const failures = [];
      for (const end of ends.reverse()) try { await end(); } catch (error) { failures.push(error); }
      if (failures.length) throw failures[0];
    });
  }
  endings.get(test).push(end);
}

/** A page on a screen, which may ask its origin and those of `also`. `errors` has what its scripts and the console complain of; only
 * failed calls are not in it, nor that service workers are blocked where a test blocks them. */
export async function open(browser, url, { screen = WIDE, colorScheme = "light", before, prepare, isPhone = screen === PHONE, also = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: screen, colorScheme, isMobile: isPhone, hasTouch: isPhone, ignoreHTTPSErrors: true, ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  const isExpected = text => text.startsWith("Failed to load resource") || (options.serviceWorkers === "block" && text.startsWith("Service Worker registration blocked"));
  page.on("pageerror", error => errors.push(String(error)));
  page.on("console", said => ["error", "warning"].includes(said.type()) && !isExpected(said.text()) && errors.push(said.text()));
  page.on("request", request => {
    const from = new URL(request.url());
    if (!["data:", "blob:"].includes(from.protocol) && ![new URL(url).origin, ...also].includes(from.origin)) errors.push(`loaded ${from}`);
  });
  if (before) await page.addInitScript(before);
  await prepare?.(context, page);
  await page.goto(url);
  return { page, context, errors, close: async () => {
    await context.close();
    assert.deepEqual(errors, [], "the console has errors");
  } };
}

export const says = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: PATIENCE });
export const ready = page => says(page, "#here", "ready");
export const silent = (page, code) => page.locator(`#notices [data-code="${code}"]`).waitFor({ state: "detached", timeout: PATIENCE });
/** Waits for a message, and gives its text. */
export async function told(page, code) {
  const notice = page.locator(`#notices [data-code="${code}"]`);
  await notice.waitFor({ timeout: PATIENCE });
  return notice.innerText();
}

const photos = fs.readdirSync(path.join(samples, "photos")).filter(name => name.endsWith(".jpg")).sort();
/** A photo as a file, with `more` behind its end. */
export const photo = (i = 0, more = "") => ({ name: photos[i % photos.length], mimeType: "image/jpeg", buffer: Buffer.concat([fs.readFileSync(path.join(samples, "photos", photos[i % photos.length])), Buffer.from(more)]) });

/** Gives files to the page, and waits until the strip has one more for each; the text of the answer that is shown then. */
export async function ask(page, files) {
  const had = await page.locator("#strip li").count();
  await page.setInputFiles("#file", files);
  await page.waitForFunction(least => document.querySelectorAll("#strip li").length >= least, had + [files].flat().length, { timeout: PATIENCE });
  return (await page.locator("#said").innerText()).replaceAll("\u00a0", " ");
}

/** Text whose contrast with what is behind it is less than WCAG's AA asks for: 4.5, or 3 where it is large. */
export const pale = page => page.evaluate(() => {
  const parse = color => (color.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a > 0.6) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!own || !box.width || box.width < 2 || element.closest("noscript, :disabled, .hidden")) continue;
    const style = getComputedStyle(element), color = parse(element instanceof SVGElement ? style.fill : style.color);
    const [one, two] = [light(color), light(ground(element.parentElement && element instanceof SVGElement ? element.closest("svg").parentElement : element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05), size = parseFloat(style.fontSize), isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${element.tagName}.${element.className.baseVal ?? element.className} "${element.textContent.trim().slice(0, 30)}": ${ratio.toFixed(2)}`);
  }
  return found;
});
