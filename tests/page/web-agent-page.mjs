// The page of the agent in the browser, in Chromium, with a stand-in for its program (mock/) and for the cloud (server.mjs):
//
//     OUTPOST_PLAYWRIGHT=target/page OUTPOST_CHROMIUM=/usr/bin/chromium node --test tests/page/web-agent-page.mjs
//
// SCREENSHOTS names a folder that gets pictures of it. web-agent.mjs tests it with the real ones.
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ask, atEnd, CAMERAS, launch, open, pale, PATIENCE, PHONE, photo, ready, says, silent, told, WIDE } from "./browser.mjs";
import { serve } from "./server.mjs";

const WWW = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../crates/web-agent/www");
/** Frames whose memory is looked at. */
const FRAMES = Number(process.env.FRAMES ?? 2000);

let browser, server;
before(async () => { browser = await launch(); });
after(() => browser.close());
beforeEach(async test => {
  server = await serve();
  atEnd(test, () => server.close());
});

/** The page, ready; closed, and its console looked at, when `test` ends. */
async function page(test, options = {}) {
  const opened = await open(options.browser ?? browser, server.url, options);
  atEnd(test, opened.close);
  if (options.isReady ?? true) await ready(opened.page);
  return opened.page;
}
/** Has the agent's thread find so many cores. */
const hasCores = count => server.says.newer.set("/wait.js", `\nObject.defineProperty(navigator, "hardwareConcurrency", { value: ${count} });`);
const mode = (page, value) => page.locator(`#modes input[value=${value}]`).check();
const state = page => page.evaluate(async () => {
  const running = document.querySelector("#curve .now title").textContent.split(":")[0];
  return { mode: document.querySelector("#modes input:checked").value, running };
});

test("an easy picture is answered here and nothing of it is sent; a hard one is answered by the cloud", async test => {
  const shown = await page(test);
  let said = await ask(shown, photo(0, "E"));
  assert.match(said, /This computer/);
  assert.match(said, /\d+ % sure/);
  assert.match(said, /It was sure enough: nothing was sent/);
  assert.match(said, /this computer \d/);
  assert.doesNotMatch(said, /the cloud \d/);
  assert.equal(server.calls.filter(call => call.includes("ModelInfer")).length, 0);
  said = await ask(shown, photo(1, "H"));
  assert.match(said, /The cloud/);
  assert.match(said, /This computer was not sure enough, and asked the cloud/);
  assert.match(said, /\d kB sent/);
  assert.match(said, /the link \d[\s\S]*the cloud \d/);
  assert.equal(server.calls.filter(call => call.includes("ModelInfer")).length, 1);
  assert.equal(await shown.locator("#said .top li").count(), 5);
  // The browser tells it a moment after a call.
  assert.match(await ask(shown, photo(2, "H")), /asked the cloud over HTTP\/1\.1/);
});

test("a person feels the difference between the three ways to decide", async test => {
  const shown = await page(test);
  await mode(shown, "device");
  assert.match(await ask(shown, photo(1, "H")), /This computer[\s\S]*In this mode nothing is sent/);
  await mode(shown, "cloud");
  assert.match(await ask(shown, photo(0, "E")), /The cloud[\s\S]*In this mode the cloud is asked about every picture/);
  await mode(shown, "policy");
  await ask(shown, photo(0, "E"));
  for (const [value, took] of [["device", /^[\d.]+ ms · 0 B$/], ["cloud", /^[\d.]+ ms · \d+\.\d kB$/], ["policy", /^[\d.]+ ms · 0 B$/]])
    assert.match((await shown.locator(`#took-${value}`).innerText()).replaceAll("\u00a0", " "), took);
  // What was chosen is kept.
  await mode(shown, "device");
  await shown.reload();
  await ready(shown);
  assert.equal((await state(shown)).mode, "device");
  assert.match(await ask(shown, photo(1, "H")), /In this mode nothing is sent/);
});

test("what is chosen and shown while the network is fetched counts", async test => {
  server.says.fileMs = 1500;
  const shown = await page(test, { isReady: false });
  await says(shown, "#fetched", "Fetching the network");
  await mode(shown, "device");
  await shown.setInputFiles("#file", photo(1, "H"));
  await says(shown, "#said", "In this mode nothing is sent");
  assert.equal((await state(shown)).mode, "device");
  assert.equal(server.calls.filter(call => call === "POST /page/token").length, 0, "a device that sends nothing has a token");
  await mode(shown, "cloud");
  assert.match(await ask(shown, photo(1, "E")), /The cloud/);
});

test("the handle moves the operating point, by keyboard and by pointer, and makes the policy decide", async test => {
  const shown = await page(test);
  await mode(shown, "cloud");
  await says(shown, "#frontier.pale", "");
  const last = await shown.locator("#handle").getAttribute("max");
  assert.equal(await shown.locator("#curve .point:not(.now)").count(), Number(last) + 1);
  await shown.locator("#handle").focus();
  await shown.keyboard.press("Home");
  await shown.waitForFunction(() => document.querySelector("#curve .now title").textContent.startsWith("p04"));
  assert.equal((await state(shown)).mode, "policy");
  assert.match(await shown.locator("#handle").getAttribute("aria-valuetext"), /^p04: 87\.2.% right, 38.ms, 1.% sent$/);
  const box = await shown.locator("#curve").boundingBox();
  await shown.mouse.move(box.x + 60, box.y + 60);
  await shown.mouse.down();
  await shown.mouse.move(box.x + box.width - 20, box.y + 20, { steps: 4 });
  await shown.mouse.up();
  await shown.waitForFunction(() => document.querySelector("#curve .now title").textContent.startsWith("p00"));
  await says(shown, "#expected", "p00");
  await shown.reload();
  await ready(shown);
  await shown.waitForFunction(() => document.querySelector("#curve .now title").textContent.startsWith("p00"));
});

test("the camera: frame after frame; the cloud goes and comes back between them", async test => {
  const shown = await page(test);
  await mode(shown, "cloud");
  await shown.click("#camera");
  await says(shown, "#said .by .pill", "The cloud");
  await says(shown, "#pace", "a second");
  server.says.cloud = "gone";
  assert.match(await told(shown, "cloud-gone"), /The cloud does not answer[\s\S]*Until it is back, this computer answers by itself/);
  await says(shown, "#said .by .pill", "This computer");
  await says(shown, "#cloud", /cloud away|trying the cloud/);
  server.says.cloud = "ok";
  await says(shown, "#said .by .pill", "The cloud");
  await silent(shown, "cloud-gone");
  await shown.click("#camera");
  await says(shown, "#camera", "Use the camera");
  assert.equal(await shown.evaluate(() => document.getElementById("video").srcObject), null);
  const count = () => server.calls.filter(call => call.includes("ModelInfer")).length;
  await shown.waitForTimeout(1000);
  const before = count();
  await shown.waitForTimeout(1000);
  assert.equal(count(), before, "frames are taken after the camera was stopped");
});

test("with the network off this device answers, and says why; with it on the cloud is asked again", async test => {
  const shown = await page(test);
  await ask(shown, photo(1, "H"));
  await shown.context().setOffline(true);
  await says(shown, "#cloud", "off line");
  const said = await ask(shown, photo(2, "H"));
  assert.match(said, /This computer[\s\S]*The cloud should have answered. No connection could be made/);
  assert.match(await ask(shown, photo(3, "E")), /It was sure enough/);
  await shown.context().setOffline(false);
  assert.match(await ask(shown, photo(4, "H")), /The cloud/);
  await silent(shown, "cloud-gone");
});

test("a cloud that says nothing is given up at the deadline", async test => {
  const shown = await page(test);
  server.says.cloud = "silent";
  assert.match(await ask(shown, photo(1, "H")), /This computer[\s\S]*It did not answer by the deadline/);
  assert.match(await told(shown, "cloud-gone"), /by the deadline/);
});

test("a late answer of the cloud corrects the one that is shown", async test => {
  const shown = await page(test);
  assert.match(await ask(shown, photo(1, "L")), /It did not answer by the deadline; it still may/);
  await says(shown, "#said", "corrected");
  assert.match(await shown.locator("#said").innerText(), /The cloud answered later, and corrects this computer/);
  assert.equal(await shown.locator("#strip button.cloud").count(), 1);
});

test("a token that the cloud no longer takes is replaced by another", async test => {
  const shown = await page(test);
  assert.match(await ask(shown, photo(1, "H")), /The cloud/);
  server.forgetTokens();
  assert.match(await ask(shown, photo(2, "H")), /This computer[\s\S]*It refused the request/);
  await silent(shown, "token-expired");
  assert.match(await ask(shown, photo(3, "H")), /asked the cloud/);
});

test("a token is renewed before it expires", async test => {
  server.says.tokenSeconds = 1.5;
  await page(test);
  const count = () => server.calls.filter(call => call === "POST /page/token").length;
  for (let i = 0; count() < 3 && i < PATIENCE / 100; i++) await new Promise(done => setTimeout(done, 100));
  assert.ok(count() >= 3, `${count()} tokens were fetched`);
});

test("where the cloud gives no token the page says so, answers, and has one as soon as it can", async test => {
  server.says.tokens = 429;
  const shown = await page(test);
  assert.match(await told(shown, "token-refused"), /gives this page no token[\s\S]*429: too many tokens are out[\s\S]*this computer answers by itself/);
  assert.match(await ask(shown, photo(1, "H")), /This computer/);
  server.says.tokens = 200;
  await silent(shown, "token-refused");
  assert.match(await ask(shown, photo(2, "H")), /asked the cloud/);
});

test("no camera, and one that is refused, each have their message, and pictures are answered", async test => {
  for (const [camera, code, words] of [["none", "no-camera", /no camera here/], ["refused", "camera-refused", /was refused[\s\S]*Allow it/]]) {
    const other = await launch(CAMERAS[camera]);
    atEnd(test, () => other.close());
    const shown = await page(test, { browser: other });
    await shown.click("#camera");
    assert.match(await told(shown, code), words);
    assert.match(await shown.locator("#camera").innerText(), /Use the camera/);
    assert.match(await ask(shown, photo(0, "E")), /This computer/);
  }
});

test("a camera that another program has, one that is unplugged and a page without HTTPS have their messages", async test => {
  const busy = await page(test, { before: () => (navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("in use", "NotReadableError"); }) });
  await busy.click("#camera");
  assert.match(await told(busy, "camera-busy"), /Another program has it/);
  const gone = await page(test);
  await gone.click("#camera");
  await says(gone, "#strip", "%");
  await gone.evaluate(() => document.getElementById("video").srcObject.getTracks()[0].dispatchEvent(new Event("ended")));
  assert.match(await told(gone, "camera-ended"), /unplugged/);
  await says(gone, "#camera", "Use the camera");
  const plain = await page(test, { before: () => Object.defineProperty(navigator, "mediaDevices", { value: undefined }) });
  await plain.click("#camera");
  assert.match(await told(plain, "camera-insecure"), /HTTPS alone/);
});

test("in the background the camera takes no pictures, and the page says so", async test => {
  const shown = await page(test);
  const isHidden = value => shown.evaluate(value => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, value);
  await mode(shown, "cloud");
  await shown.click("#camera");
  await says(shown, "#said .by .pill", "The cloud");
  await isHidden(true);
  await shown.waitForTimeout(1500);
  const count = () => server.calls.filter(call => call.includes("ModelInfer")).length;
  const before = count();
  await shown.waitForTimeout(1500);
  assert.equal(count(), before, "frames are taken in the background");
  await isHidden(false);
  assert.match(await told(shown, "background"), /No picture was taken for \d+ seconds/);
  for (let i = 0; count() === before && i < PATIENCE / 50; i++) await shown.waitForTimeout(50);
  assert.ok(count() > before, "the camera does not go on");
});

test("a browser without SIMD, and one without WebAssembly, say that they cannot answer", async test => {
  for (const [code, before] of [["no-simd", () => (WebAssembly.validate = () => false)], ["no-wasm", () => delete globalThis.WebAssembly]]) {
    const shown = await page(test, { before, isReady: false });
    assert.match(await told(shown, code), /cannot run the network[\s\S]*neither by this computer nor by the cloud[\s\S]*Chrome/);
    assert.ok(await shown.locator("#camera").isDisabled());
    assert.ok(await shown.locator("#file").isDisabled());
    assert.equal(await shown.locator("#here").innerText(), "cannot answer");
  }
});

test("what is no picture, is damaged or too large has its message, and the next picture its answer", async test => {
  const shown = await page(test);
  await shown.setInputFiles("#file", { name: "notes.jpg", mimeType: "image/jpeg", buffer: Buffer.from("no image") });
  assert.match(await told(shown, "not-an-image"), /notes\.jpg is no picture/);
  await shown.setInputFiles("#file", { name: "half.jpg", mimeType: "image/jpeg", buffer: photo(0).buffer.subarray(0, 100) });
  await says(shown, "#notices", "half.jpg is no picture");
  assert.match(await told(shown, "not-an-image"), /ends before its pixels/);
  await shown.setInputFiles("#file", { name: "empty.png", mimeType: "image/png", buffer: Buffer.alloc(0) });
  await says(shown, "#notices", "empty.png is no picture");
  const huge = path.join(os.tmpdir(), `outpost-${process.pid}-huge.jpg`);
  atEnd(test, () => fs.rmSync(huge));
  fs.writeFileSync(huge, "");
  fs.truncateSync(huge, 40e6);
  await shown.setInputFiles("#file", huge);
  assert.match((await told(shown, "too-large")).replaceAll("\u00a0", " "), /huge\.jpg is too large\s+It has 40\.0 MB, and a picture may have 33\.6 MB/);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
  await silent(shown, "too-large");
});

test("a picture that only the browser reads goes to the network as a JPEG", async test => {
  const shown = await page(test);
  await ask(shown, photo(1, "U"));
  assert.equal(await shown.locator("#said .name").innerText(), photo(1).name);
  const gif = await shown.evaluate(() => "R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=");
  await ask(shown, { name: "dot.gif", mimeType: "image/gif", buffer: Buffer.from(gif, "base64") });
  assert.equal(await shown.locator("#said .name").innerText(), "dot.gif");
  assert.equal(await shown.locator("#notices .notice").count(), 0);
});

test("pictures can be dropped and pasted", async test => {
  const shown = await page(test);
  const give = kind => shown.evaluate(async kind => {
    const made = new OffscreenCanvas(64, 64);
    made.getContext("2d").fillRect(0, 0, 64, 64);
    const transfer = new DataTransfer();
    transfer.items.add(new File([await made.convertToBlob()], `${kind}.png`, { type: "image/png" }));
    if (kind === "drop") document.getElementById("stage").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    else dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
  }, kind);
  for (const kind of ["drop", "paste"]) {
    await give(kind);
    await says(shown, "#said .name", `${kind}.png`);
  }
});

test("a full store is told of, and the network runs all the same", async test => {
  const prepare = async (context, page) => {
    const session = await context.newCDPSession(page);
    await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(server.url).origin, quotaSize: 1000 });
  };
  const shown = await page(test, { prepare });
  assert.match(await told(shown, "cache-full"), /store is full[\s\S]*fetched again next time/);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
});

test("a file with a wrong digest is fetched once more; where it is wrong again, it is not used", async test => {
  const model = "efficientnet-lite0/efficientnet-lite0.onnx";
  server.says.corrupt.set(model, 1);
  const shown = await page(test);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
  assert.equal(await shown.locator("#notices .notice").count(), 0);
  // What lies in the cache is not trusted either.
  await shown.evaluate(async () => {
    const cache = await caches.open("outpost-files");
    for (const request of await cache.keys()) if (request.url.includes("/page/files/")) await cache.put(request, new Response("rubbish"));
  });
  await shown.reload();
  await ready(shown);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);

  server.says.corrupt.set(model, 2);
  const other = await page(test, { isReady: false });
  assert.match(await told(other, "wrong-digest"), /efficientnet-lite0\.onnx does not have its digest[\s\S]*It is not used/);
  assert.equal(await other.locator("#here").innerText(), "cannot answer");
  assert.ok(!(await other.evaluate(async () => (await (await caches.open("outpost-files")).keys()).some(request => request.url.includes("deebd2d2")))));
  await other.locator("#notices [data-code=wrong-digest] button", { hasText: "Try again" }).click();
  await ready(other);
  assert.match(await ask(other, photo(0, "E")), /This computer/);
});

test("a network that crashes is started again, and one picture that crashes it twice has no answer", async test => {
  const shown = await page(test);
  await ask(shown, photo(0, "E"));
  await shown.setInputFiles("#file", photo(1, "T"));
  assert.match(await told(shown, "no-answer"), /crashed twice over it/);
  await told(shown, "crashed");
  await ready(shown);
  assert.match(await ask(shown, photo(2, "E")), /This computer/);
});

test("threads share the work, and one that crashes is told of by itself, as the others wait for it", async test => {
  hasCores(3);
  const shown = await page(test);
  assert.match(await shown.locator("#loaded").innerText(), /runs the network on up to 2 threads/);
  await shown.setInputFiles("#file", photo(1, "W"));
  assert.match(await told(shown, "no-answer"), /crashed twice over it[\s\S]*by a helper/);
  await told(shown, "crashed");
  await ready(shown);
  assert.match(await ask(shown, photo(2, "E")), /This computer/);
});

test("a page that is not isolated from other origins has one thread", async test => {
  server.says.isIsolated = false;
  hasCores(9);
  const shown = await page(test);
  assert.doesNotMatch(await shown.locator("#loaded").innerText(), /threads/);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
});

test("a helper that does not come is not missed", async test => {
  hasCores(9);
  server.says.newer.set("/helper.js", "\nself.onmessage = null;");
  const shown = await page(test);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
  assert.equal(await shown.locator("#notices .notice").count(), 0);
});

test("a browser that shares memory for isolated pages alone names what is missing", async test => {
  server.says.isIsolated = false;
  // The program's first act is to make its memory.
  server.says.newer.set("/pkg/outpost_web_agent.js", "\nthrow new TypeError('shared memory is not enabled');");
  server.says.newer.set("/wait.js", "\nWebAssembly.Memory = class { constructor() { throw new TypeError('shared memory is not enabled'); } };");
  const shown = await page(test, { isReady: false });
  assert.match(await told(shown, "not-isolated"), /cross-origin-embedder-policy[\s\S]*shared memory is not enabled/);
});

test("a thread that cannot be loaded is told of and tried again", async test => {
  server.says.missing.add("/worker.js");
  const shown = await page(test, { isReady: false });
  await told(shown, "no-program");
  server.says.missing.clear();
  await shown.locator("#notices button", { hasText: "Try again" }).click();
  await ready(shown);
  assert.match(await ask(shown, photo(0, "E")), /This computer/);
});

test("the program is compiled beside its thread, and by it where that fails", async test => {
  // Without what keeps the page, which would fetch it too.
  const answered = async () => assert.match(await ask(await page(test, { serviceWorkers: "block" }), photo(0, "E")), /This computer/);
  const fetched = () => server.calls.filter(call => call === "GET /pkg/outpost_web_agent_bg.wasm").length;
  await answered();
  assert.equal(fetched(), 1);
  server.says.missing.add("/pkg/outpost_web_agent_bg.wasm");
  await answered();
  assert.equal(fetched(), 3);
});

test("a service without the program, or out of reach, is told of and tried again", async test => {
  server.says.missing.add("/pkg/outpost_web_agent.js");
  const shown = await page(test, { isReady: false });
  assert.match(await told(shown, "no-program"), /scripts\/build-web/);
  server.says.missing.clear();
  await shown.locator("#notices button", { hasText: "Try again" }).click();
  await ready(shown);
  await silent(shown, "no-program");
});

test("off line the page opens by its service worker, and answers", async test => {
  const shown = await page(test);
  await ask(shown, photo(0, "E"));
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await shown.context().setOffline(true);
  server.close();
  await shown.reload();
  await ready(shown);
  assert.match(await told(shown, "last-known"), /Off line/);
  assert.match(await ask(shown, photo(0, "E")), /This computer[\s\S]*It was sure enough/);
  assert.match(await ask(shown, photo(1, "H")), /This computer[\s\S]*The cloud should have answered/);
  assert.match(await shown.locator("#loaded").innerText(), /kept from before/);
});

test("what is kept is the page, whole, and the device's files: no token, no call, nothing more", async test => {
  const shown = await page(test);
  await ask(shown, photo(1, "H"));
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await shown.reload();
  await ready(shown);
  await ask(shown, photo(1, "H"));
  const kept = await shown.evaluate(async () => Promise.all((await caches.keys()).map(async name => [name, (await (await caches.open(name)).keys()).map(one => new URL(one.url).pathname)])));
  const pages = kept.filter(([name]) => name.startsWith("outpost-page-"));
  assert.equal(pages.length, 1);
  const assets = fs.readdirSync(WWW).filter(name => name !== "index.html" && name !== "sw.js").map(name => `/${name}`);
  assert.deepEqual(pages[0][1].sort(), [...assets, "/", "/whole", "/pkg/outpost_web_agent.js", "/pkg/outpost_web_agent_bg.wasm"].sort());
  const files = kept.find(([name]) => name === "outpost-files")[1];
  assert.equal(files.length, 6);
  assert.ok(files.every(name => name === "/page/agent.json" || /^\/page\/files\/[0-9a-f]{64}$/.test(name)), files.join());
});

test("a newer page is told of, and comes as a whole at the next load", async test => {
  const shown = await page(test);
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await shown.reload();
  await ready(shown);
  server.says.newer.set("/messages.js", "\nexport const newer = true;\n").set("/style.css", "\n#about { --newer: yes; }\n");
  await shown.reload();
  assert.match(await told(shown, "update"), /newer version/);
  const isNewer = () => shown.evaluate(async () => [(await import("/messages.js")).newer ?? false, getComputedStyle(document.getElementById("about")).getPropertyValue("--newer") === "yes"]);
  assert.deepEqual(await isNewer(), [false, false]);
  await shown.locator("#notices button", { hasText: "Load it" }).click();
  await shown.waitForFunction(() => getComputedStyle(document.getElementById("about")).getPropertyValue("--newer") === "yes");
  await ready(shown);
  assert.deepEqual(await isNewer(), [true, true]);
  assert.equal(await shown.evaluate(async () => (await caches.keys()).filter(name => name.startsWith("outpost-page-")).length), 1);
});

test("a page that may ask another cloud is a newer one", async test => {
  const shown = await page(test);
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await shown.reload();
  await ready(shown);
  const policy = () => shown.evaluate(async () => (await fetch("/")).headers.get("content-security-policy"));
  assert.match(await policy(), /connect-src 'self';/);
  server.says.mayAsk = " https://cloud.example:1";
  await shown.reload();
  await told(shown, "update");
  await shown.locator("#notices button", { hasText: "Load it" }).click();
  await ready(shown);
  assert.match(await policy(), /connect-src 'self' https:\/\/cloud\.example:1/);
});

test("the page can be installed", async test => {
  const shown = await page(test);
  await shown.evaluate(() => navigator.serviceWorker.ready);
  const session = await shown.context().newCDPSession(shown);
  const { errors } = await session.send("Page.getAppManifest");
  assert.deepEqual(errors, []);
  const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
  // Playwright's contexts are those of private windows.
  assert.deepEqual(installabilityErrors.map(error => error.errorId).filter(id => id !== "in-incognito"), []);
});

test("where the browser would install the page, a button has it do so", async test => {
  const shown = await page(test);
  assert.equal(await shown.locator("#install").isVisible(), false);
  await shown.evaluate(() => dispatchEvent(Object.assign(new Event("beforeinstallprompt", { cancelable: true }), { prompt: async () => (globalThis.asked = true) })));
  await shown.click("#install");
  await shown.waitForFunction(() => globalThis.asked && document.getElementById("install").hidden);
});

test("all of it can be done by keyboard", async test => {
  const shown = await page(test);
  await ask(shown, [photo(0, "E"), photo(1, "H"), photo(2, "E")]);
  await shown.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  const reached = [];
  for (let i = 0; i < 12; i++) {
    await shown.keyboard.press("Tab");
    const at = await shown.evaluate(() => {
      const { activeElement: one } = document;
      // A control that cannot be seen shows its focus at its label.
      const seen = [one, one.nextElementSibling, one.parentElement].some(element => element && getComputedStyle(element).outlineStyle !== "none" && parseFloat(getComputedStyle(element).outlineWidth) >= 2);
      return { id: one.id || one.name || one.closest("[id]")?.id, seen, isBody: one === document.body };
    });
    if (at.isBody) break;
    assert.ok(at.seen, `${at.id} does not show that it has the focus`);
    reached.push(at.id);
  }
  for (const id of ["camera", "file", "mode", "strip", "handle"]) assert.ok(reached.includes(id), `${id} is not reached: ${reached}`);
  await shown.locator("#modes input:checked").focus();
  await shown.keyboard.press("ArrowLeft");
  await shown.waitForFunction(() => document.querySelector("#modes input:checked").value === "device");
  await shown.locator("#strip button[tabindex='0']").focus();
  await shown.keyboard.press("ArrowRight");
  await shown.keyboard.press("ArrowRight");
  await shown.keyboard.press("Enter");
  await says(shown, "#said .name", photo(0).name);
  await shown.locator("#camera").focus();
  await shown.keyboard.press("Enter");
  await says(shown, "#camera", "Stop the camera");
  await shown.keyboard.press("Enter");
  await says(shown, "#camera", "Use the camera");
});

test("a screen reader is told answers and messages, not every frame, and every control has a name", async test => {
  const shown = await page(test);
  await ask(shown, photo(1, "H"));
  assert.match((await shown.locator("#spoken").textContent()).replaceAll("\u00a0", " "), /^[\w ,'-]+, \d+ % sure, by the cloud\. This computer was not sure enough/);
  const session = await shown.context().newCDPSession(shown);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const controls = nodes.filter(node => !node.ignored && ["button", "radio", "slider", "checkbox", "textbox", "image", "progressbar", "radiogroup", "region"].includes(node.role?.value));
  assert.ok(controls.length > 12);
  for (const { role, name } of controls) assert.ok(name?.value, `a ${role.value} has no name`);
  await shown.evaluate(() => {
    globalThis.spoken = 0;
    new MutationObserver(() => (globalThis.spoken += 1)).observe(document.getElementById("spoken"), { childList: true, characterData: true, subtree: true });
  });
  await shown.click("#camera");
  await shown.waitForTimeout(4000);
  const spoken = await shown.evaluate(() => globalThis.spoken);
  assert.ok(spoken >= 1 && spoken <= 3, `spoken ${spoken} times in 4 seconds`);
  assert.deepEqual(await shown.evaluate(() => [...document.querySelectorAll("[aria-live], [role=status], [role=alert]")].map(one => one.id)), ["notices", "spoken"]);
});

test("every module of the page is fetched at once, and a screen of 320 pixels is wide enough", async test => {
  const shown = await page(test, { screen: { width: 320, height: 640 } });
  await ask(shown, photo(1, "H"));
  assert.ok(await shown.evaluate(() => document.documentElement.scrollWidth) <= 320);
  const listed = [...fs.readFileSync(path.join(WWW, "index.html"), "utf8").matchAll(/modulepreload" href="([\w.]+)"/g)].map(([, name]) => name);
  const loaded = await shown.evaluate(() => performance.getEntriesByType("resource").map(one => new URL(one.name).pathname.slice(1)).filter(name => name.endsWith(".js")));
  assert.deepEqual(loaded.filter(name => !["app.js", "worker.js", "files.js", "token.js", "wait.js", "sw.js"].includes(name)).sort(), listed.sort());
});

test("on every screen it fits, can be read, and is kept to be looked at", async test => {
  for (const [name, screen] of [["narrow", PHONE], ["wide", WIDE]])
    for (const colorScheme of ["light", "dark"]) {
      const shown = await page(test, { screen, colorScheme });
      assert.deepEqual(await pale(shown), []);
      await ask(shown, [photo(3, "E"), photo(6, "H"), photo(9, "E"), photo(12, "E"), photo(15, "H"), photo(18, "E")]);
      await shown.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no image") });
      await told(shown, "not-an-image");
      assert.deepEqual(await pale(shown), []);
      await shown.locator("#notices .close").click();
      const wide = await shown.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= screen.width, `the page is ${wide} pixels wide on a screen of ${screen.width}`);
      const cut = await shown.evaluate(() => [...document.querySelectorAll("button, .button, .segments b, h1, h2, .pill")].filter(one => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline").map(one => one.textContent.trim()));
      assert.deepEqual(cut, [], "text does not fit");
      if (screen === PHONE) {
        const low = await shown.evaluate(() => [...document.querySelectorAll("button:not(.close), .button, .segments label, #handle")].filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 32).map(one => one.id || one.textContent));
        assert.deepEqual(low, [], "too small for a finger");
      }
      if (process.env.SCREENSHOTS) {
        await shown.waitForTimeout(1100);
        await shown.screenshot({ path: path.join(process.env.SCREENSHOTS, `web-agent-${name}-${colorScheme}.png`) });
        await shown.screenshot({ path: path.join(process.env.SCREENSHOTS, `web-agent-${name}-${colorScheme}-full.png`), fullPage: true });
      }
    }
});

test("the page's memory does not grow with the camera's frames", async test => {
  // Small, as it is drawn without a graphics card.
  const shown = await page(test, { screen: { width: 320, height: 480 } });
  const session = await shown.context().newCDPSession(shown);
  await session.send("HeapProfiler.enable");
  await session.send("Performance.enable");
  await shown.evaluate(async () => { Object.assign((await import("/camera.js")).pace, { everyMs: 0, side: 160 }); });
  await shown.click("#camera");
  await shown.evaluate(() => {
    globalThis.frames = 0;
    new MutationObserver(changes => { for (const change of changes) globalThis.frames += change.addedNodes.length; }).observe(document.getElementById("strip"), { childList: true });
  });
  const measure = async after => {
    await shown.waitForFunction(after => globalThis.frames >= after, after, { timeout: 900000, polling: 250 });
    await session.send("HeapProfiler.collectGarbage");
    const { metrics } = await session.send("Performance.getMetrics");
    return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  };
  // What is kept, of answers and of the last pictures, is full by then.
  const first = await measure(FRAMES / 4), last = await measure(FRAMES);
  const grown = (last.JSHeapUsedSize - first.JSHeapUsedSize) / 1e6;
  console.log(`after ${FRAMES / 4} frames ${(first.JSHeapUsedSize / 1e6).toFixed(2)} MB and ${first.Nodes} nodes, after ${FRAMES} ${(last.JSHeapUsedSize / 1e6).toFixed(2)} MB and ${last.Nodes} nodes`);
  assert.ok(grown < 1, `the heap grew by ${grown} MB`);
  assert.ok(last.Nodes - first.Nodes < 500, `there are ${last.Nodes - first.Nodes} more nodes`);
});
