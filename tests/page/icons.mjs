// Makes the icons of the page from its icon.svg:
//
//     OUTPOST_PLAYWRIGHT=target/page OUTPOST_CHROMIUM=/usr/bin/chromium node tests/page/icons.mjs
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const { chromium } = createRequire(`${path.resolve(process.env.OUTPOST_PLAYWRIGHT)}/`)("playwright-core");
const www = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../crates/web-agent/www");
const svg = fs.readFileSync(path.join(www, "icon.svg"), "utf8");
// Systems cut a maskable icon to their shape: its ground goes to the edge, and what it shows keeps to the middle.
const inner = svg.replace(/<\/?svg[^>]*>|<rect[^>]*>/g, "");
const maskable = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="#14181e"/><g transform="translate(9.6 9.6) scale(.7)">${inner}</g></svg>`;
const browser = await chromium.launch({ executablePath: process.env.OUTPOST_CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
for (const [name, size, source] of [["icon-192", 192, svg], ["icon-512", 512, svg], ["icon-maskable-512", 512, maskable]]) {
  const page = await browser.newPage({ viewport: { width: size, height: size } });
  await page.setContent(`<style>body { margin: 0 } svg { display: block; width: ${size}px }</style>${source}`);
  await page.screenshot({ path: path.join(www, `${name}.png`), omitBackground: true });
}
await browser.close();
