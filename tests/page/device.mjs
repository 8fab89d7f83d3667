// The device's page in a browser, as tests/integration/page.rs starts it:
//
//     node device.mjs URL TOKEN PICTURE SCREENSHOTS CONFIGURATION
//
// CHROMIUM names the browser. Ends with an error where the page does not do what it should.
import assert from "node:assert/strict";
import fs from "node:fs";
import { chromium } from "playwright-core";

const [url, token, picture, screenshots, configuration] = process.argv.slice(2);
const SCREENS = [["wide", 1440, 900], ["narrow", 390, 844]];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
  ],
});

/// A page on a screen, which fails the test where a script fails or anything is loaded from elsewhere.
async function open(address, { width = 1440, height = 900, colorScheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.on("pageerror", error => { throw error; });
  page.on("request", request => {
    const from = new URL(request.url());
    if (!["data:", "blob:"].includes(from.protocol)) assert.equal(from.origin, new URL(url).origin, `loaded ${from}`);
  });
  await page.goto(address);
  return page;
}
const says = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: 20000 });
const ask = async page => {
  await page.setInputFiles("#file", picture);
  await page.locator("#answer .label").waitFor({ timeout: 20000 });
  return page.locator("#answer").innerText();
};

// Without its token the page asks for it, and shows nothing.
{
  const page = await open(url);
  await says(page, "#live", "token needed");
  await page.fill("#token input", token);
  await page.click("#token button");
  await says(page, "#live", "live");
  assert.equal(await page.locator("#token").isVisible(), false);
  await page.context().close();
}

const page = await open(`${url}/#token=${token}`);
await says(page, "#live", "live");
assert.equal(new URL(page.url()).hash, "", "the token stays in the address");
await says(page, "#peers", "cloud reached");
await says(page, "#peers .pill", "battery");

// A picture: the device alone, then the cloud alone, and the reasons.
await page.locator("#modes input[value=device-only]").check();
await page.waitForFunction(() => state.mode === "device-only");
let answer = await ask(page);
assert.match(answer, /sure, by the device/);
assert.match(answer, /it was sure enough/);
assert.match(answer, /nothing sent/);
await page.locator("#modes input[value=cloud-only]").check();
await page.waitForFunction(() => state.mode === "cloud-only");
await page.setInputFiles("#file", picture);
await says(page, "#answer .who", "by the cloud");
answer = await page.locator("#answer").innerText();
assert.match(answer, /asked over HTTP\/[23]/);
assert.match(answer, /\d B sent/);

// The handle moves the operating point, by keyboard too.
const points = await page.locator("#handle").getAttribute("max");
await page.locator("#handle").focus();
await page.keyboard.press("Home");
await page.waitForFunction(() => state.mode === "policy");
const fastest = await page.evaluate(() => state.policy.operating_point);
await page.keyboard.press("End");
await page.waitForFunction(before => state.policy.operating_point !== before, fastest);
assert.equal(await page.locator("#handle").inputValue(), points);
assert.equal(await page.locator("#curve .point:not(.now)").count(), Number(points) + 1);
assert.equal(await page.locator("#curve .point.now").count(), 1);

// Nothing that is no image gets an answer, and the page says why.
await page.setInputFiles("#file", { name: "notes.jpg", mimeType: "image/jpeg", buffer: Buffer.from("no image") });
await says(page, "#answer .error", "neither JPEG");

// Drop a picture.
await page.evaluate(async () => {
  const made = new OffscreenCanvas(64, 64);
  made.getContext("2d").fillRect(0, 0, 64, 64);
  const transfer = new DataTransfer();
  transfer.items.add(new File([await made.convertToBlob()], "dropped.png", { type: "image/png" }));
  document.getElementById("stage").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
});
await says(page, "#latest .name", "dropped.png");

// The camera: frame after frame, until it is stopped.
await page.click("#camera");
await says(page, "#latest .name", "camera");
const heard = await page.evaluate(() => last);
await page.waitForFunction(before => last !== before, heard);
await page.click("#camera");
await says(page, "#camera", "Use the camera");
assert.equal(await page.evaluate(() => stream), null);

// A configuration that is refused, and one that is in use.
{
  const written = fs.readFileSync(configuration, "utf8");
  assert.equal(await page.locator("#reload").isVisible(), false);
  fs.writeFileSync(configuration, written.replace("deadline_ms = 20000", "deadline_ms = 0"));
  await says(page, "#reload .error", "`deadline_ms` is 0");
  await says(page, "#reload", "stays in use");
  fs.writeFileSync(configuration, written.replace("deadline_ms = 20000", "deadline_ms = 20001\nmax_in_flight = 9"));
  await says(page, "#reload", "deadline_ms changed");
  await says(page, "#reload", "Waits for a restart: max_in_flight");
  assert.match(await page.locator("#reload").innerText(), new RegExp(`Read again .*${new Date().getFullYear()}`));
  assert.equal(await page.locator("#reload .error").count(), 0);
}

// The charts and the list have what came.
await page.waitForFunction(() => document.querySelectorAll("#charts .chart").length === 4);
assert.ok(await page.locator("#latest tr").count() > 3);
await page.context().close();

// On every screen the page fits, and is kept to be looked at.
for (const [name, width, height] of SCREENS)
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(`${url}/#token=${token}`, { width, height, colorScheme });
    await says(page, "#live", "live");
    await ask(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= width, `the page is ${wide} pixels wide on a screen of ${width}`);
    await page.screenshot({ path: `${screenshots}/${name}-${colorScheme}.png`, fullPage: true });
    await page.context().close();
  }
await browser.close();
console.log("the page does what it should");
