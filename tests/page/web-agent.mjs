// The agent in the browser, whole: its page and program as scripts/build-web makes them, in Chromium, with the real
// cloud-service; served by that, and by a device.
//
//     OUTPOST_PLAYWRIGHT=target/page OUTPOST_CHROMIUM=/usr/bin/chromium OUTPOST_WEB=target/web \
//     OUTPOST_CLOUD_SERVICE=target/release/cloud-service OUTPOST_EDGE_AGENT=target/release/edge-agent \
//     node --test tests/page/web-agent.mjs
//
// SCREENSHOTS names a folder that gets pictures of it; FRAMES is how many of the camera's are answered before memory is looked
// at again. web-agent-page.mjs tests what can go wrong with the page, with a stand-in for the program.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ask, atEnd, CAMERAS, launch, open, pale, PHONE, photo, ready, says, silent, told, WIDE } from "./browser.mjs";

const { OUTPOST_WEB: web, OUTPOST_CLOUD_SERVICE: program, OUTPOST_EDGE_AGENT: device, SCREENSHOTS: screenshots } = process.env;
const FRAMES = Number(process.env.FRAMES ?? 400);
const models = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../models");
const cifar = name => path.join(models, "samples/cifar10", name);
const AIRPLANE = cifar("test-airplane-0059.jpg");
const CIFAR = { cascade: "cifar10-alexnet-resnet", cloud: "cifar10-resnet" }, PHOTOS = { cascade: "lite0-lite2", cloud: "efficientnet-lite2" };
/** With a network as small as they come, and a threshold in place of a policy. */
const SMALL = { ...PHOTOS, cascade: "squeezenet-lite2" };
/** A photo that the device answers with either. */
const EASY = 7;

const missing = !web || !program || !device || !fs.existsSync(path.join(web, "pkg/outpost_web_agent_bg.wasm"));
if (missing) console.log("SKIPPED: no program of the page: run scripts/build-web, and set OUTPOST_WEB, OUTPOST_CLOUD_SERVICE and OUTPOST_EDGE_AGENT");
const options = { skip: missing && "no program of the page" };

let folder, browser, trusted;
const started = new Set();
before(async () => {
  if (missing) return;
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "outpost-"));
  const made = spawnSync(program, ["development-certificates", "--out", folder], { encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  // Service workers come over a connection that the browser trusts, or not at all.
  const key = new crypto.X509Certificate(fs.readFileSync(path.join(folder, "server.pem"))).publicKey.export({ type: "spki", format: "der" });
  trusted = `--ignore-certificate-errors-spki-list=${crypto.createHash("sha256").update(key).digest("base64")}`;
  browser = await launch(CAMERAS.given, ["--enable-blink-features=ForceEagerMeasureMemory", trusted]);
});
after(async () => {
  await browser?.close();
  for (const child of started) child.kill("SIGKILL");
  if (folder) fs.rmSync(folder, { recursive: true });
});

const text = value => JSON.stringify(value);
/** What cloud-service and edge-agent both have in their configuration. */
function files(cascade) {
  const policy = path.resolve(models, `policies/${cascade}.json`);
  return `cascade = ${text(path.resolve(models, `cascades/${cascade}.toml`))}\n${fs.existsSync(policy) ? `policy = ${text(policy)}\n` : ""}deadline_ms = 10000\n`;
}

/** Starts cloud-service with the page, and further fields of [page] and of [grpc_web]. */
async function start({ cascade, cloud }, { port = 0, page = "", web: others = "" } = {}) {
  return run(program, "serve", `cloud-service-${cascade}`, `address = "127.0.0.1:${port}"\nmodels = ${text(path.resolve(models))}\nnetworks = [${text(cloud)}]
[tls]\ncertificate = "server.pem"\nkey = "server.key"
[page]\nfolder = ${text(path.resolve(web))}\n${files(cascade)}${page}\n[grpc_web]\n${others}\n`);
}

/** Starts edge-agent, which serves the page at a port and has it ask a service. */
async function startDevice({ cascade }, port, service) {
  const started = await run(device, "run", "edge-agent", `models = ${text(path.resolve(models))}\n${files(cascade)}
[cloud]\nurl = ${text(service.url)}\ncertificate_authority = "ca.pem"
[api]\naddress = "127.0.0.1:0"\ncertificate = "server.pem"\nkey = "server.key"
[page]\naddress = "127.0.0.1:${port}"\nfolder = ${text(path.resolve(web))}\n`);
  return { ...started, url: `https://localhost:${port}/` };
}

/** Starts a program by a configuration; the port is the one that it names first. */
async function run(program, command, name, configuration) {
  const config = path.join(folder, `${name}.toml`);
  fs.writeFileSync(config, configuration);
  const child = spawn(program, [command, "--config", config], { stdio: ["ignore", "pipe", "pipe"] });
  started.add(child);
  let said = "";
  child.stderr.on("data", part => (said += part));
  const address = await new Promise((done, failed) => {
    let line = "";
    child.stdout.on("data", part => {
      line += part;
      const found = /:\/\/[\d.]+:(\d+)\s/.exec(line);
      if (found) done(Number(found[1]));
    });
    child.on("exit", () => failed(new Error(`${name} did not start: ${line}${said}`)));
  });
  const ended = new Promise(done => child.once("exit", done));
  return { port: address, url: `https://localhost:${address}/`, end: () => {
    child.kill("SIGKILL");
    started.delete(child);
    return ended;
  } };
}

/** A port that nobody listens at. */
async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise(done => server.once("listening", done));
  const { port } = server.address();
  await new Promise(done => server.close(done));
  return port;
}

async function page(test, service, options = {}) {
  const opened = await open(browser, service.url, options);
  atEnd(test, opened.close);
  if (options.isReady ?? true) await ready(opened.page);
  return opened.page;
}
const mode = (page, value) => page.locator(`#modes input[value=${value}]`).check();
/** The class of the answer that is shown. */
const label = async page => (await page.locator("#said .label").innerText()).trim();
const took = page => page.evaluate(() => Math.round(performance.getEntriesByName("first-answer")[0].startTime));

test("the device answers alone, the cloud where it is asked, and the policy decides between them", options, async test => {
  const service = await start(CIFAR);
  atEnd(test, service.end);
  const shown = await page(test, service);
  await mode(shown, "device");
  let said = await ask(shown, AIRPLANE);
  assert.match(said, /This computer[\s\S]*In this mode nothing is sent[\s\S]*nothing sent[\s\S]*cifar10-alexnet/);
  assert.equal(await label(shown), "airplane");
  await mode(shown, "cloud");
  said = await ask(shown, AIRPLANE);
  assert.match(said, /The cloud[\s\S]*the cloud is asked about every picture/);
  assert.equal(await label(shown), "airplane");
  assert.match(said, /\d (k?B) sent/);
  assert.match(said, /cifar10-resnet/);
  assert.match(said, /the link \d[\s\S]*the cloud \d/);
  await mode(shown, "policy");
  const images = fs.readdirSync(cifar("")).filter(name => name.endsWith(".jpg")).sort().slice(0, 20).map(cifar);
  await shown.locator("#handle").focus();
  await shown.keyboard.press("Home");
  await ask(shown, images);
  const sides = await shown.evaluate(() => [...document.querySelectorAll("#strip button")].slice(0, 20).map(one => one.className));
  assert.ok(sides.includes("device"), "the policy sends everything");
  assert.equal(await shown.locator("#notices .notice").count(), 0);
});

test("with the network off the device answers, and the page opens; with it on the cloud is asked again", options, async test => {
  const service = await start(CIFAR);
  atEnd(test, service.end);
  const shown = await page(test, service);
  await mode(shown, "cloud");
  await ask(shown, AIRPLANE);
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await shown.context().setOffline(true);
  assert.match(await ask(shown, AIRPLANE), /This computer[\s\S]*The cloud should have answered/);
  await shown.reload();
  await ready(shown);
  await told(shown, "last-known");
  assert.match(await ask(shown, AIRPLANE), /This computer/);
  await shown.context().setOffline(false);
  await says(shown, "#here", "ready");
  for (let i = 0; i < 30 && !/^The cloud/.test(await ask(shown, AIRPLANE).catch(() => "")); i++) await shown.waitForTimeout(500);
  assert.match(await ask(shown, AIRPLANE), /The cloud/);
});

test("a cloud that is killed between frames of the camera is told of, and asked again once it is back", options, async test => {
  const first = await start(CIFAR);
  atEnd(test, first.end);
  const shown = await page(test, first);
  await mode(shown, "cloud");
  await shown.click("#camera");
  await says(shown, "#said .by .pill", "The cloud");
  await first.end();
  await told(shown, "cloud-gone");
  await says(shown, "#said .by .pill", "This computer");
  // The tokens of the one before are not those of the next.
  const next = await start(CIFAR, { port: first.port });
  atEnd(test, next.end);
  await shown.locator("#said .by .pill", { hasText: "The cloud" }).waitFor();
  await silent(shown, "cloud-gone");
});

test("a page that a device serves asks the cloud, which lets it, and none else", options, async test => {
  const port = await freePort();
  const service = await start(CIFAR, { web: `origins = ["https://localhost:${port}"]` });
  atEnd(test, service.end);
  const local = await startDevice(CIFAR, port, service);
  atEnd(test, local.end);
  const also = [new URL(service.url).origin];
  const shown = await page(test, local, { also });
  await mode(shown, "device");
  assert.match(await ask(shown, AIRPLANE), /This computer[\s\S]*cifar10-alexnet/);
  await mode(shown, "cloud");
  const said = await ask(shown, AIRPLANE);
  assert.match(said, /The cloud[\s\S]*cifar10-resnet/);
  assert.equal(await label(shown), "airplane");
  // Which HTTP brought it can be read across origins, too.
  assert.match(await ask(shown, AIRPLANE), /HTTP\/[23]/);
  assert.equal(await shown.locator("#notices .notice").count(), 0);
  // The device goes, and the page stays.
  await shown.evaluate(() => navigator.serviceWorker.ready);
  await local.end();
  await shown.reload();
  await ready(shown);
  assert.match(await told(shown, "last-known"), /What served this page is away/);
  assert.match(await ask(shown, AIRPLANE), /The cloud/);
  await silent(shown, "last-known");
  // One that the cloud does not know of has the phone's answers.
  const other = await startDevice(CIFAR, await freePort(), service);
  atEnd(test, other.end);
  const stranger = await open(browser, other.url, { also });
  await ready(stranger.page);
  await mode(stranger.page, "cloud");
  assert.match(await ask(stranger.page, AIRPLANE), /This computer/);
  assert.match(await told(stranger.page, "cloud-gone"), new RegExp(`pages of ${other.url.slice(0, -1)} call`));
  // The browser says so in its console, which is no fault of the page.
  await stranger.context.close();
});

test("over HTTP/3 the page is opened, and asks", options, async test => {
  const service = await start(CIFAR, { port: await freePort() });
  atEnd(test, service.end);
  // By itself a browser changes to it only for authorities that come with it. "localhost" would be tried by its IPv6 address alone.
  const host = `127.0.0.1:${service.port}`;
  const browser = await launch(CAMERAS.given, [trusted, `--origin-to-force-quic-on=${host}`]);
  atEnd(test, () => browser.close());
  const opened = await open(browser, `https://${host}/`);
  await ready(opened.page);
  assert.equal(await opened.page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol), "h3");
  await mode(opened.page, "cloud");
  await ask(opened.page, AIRPLANE);
  assert.match(await ask(opened.page, AIRPLANE), /The cloud[\s\S]*HTTP\/3/);
  await opened.close();
});

/** A page in other surroundings: with so many cores, without what isolates it from other origins, or in a browser without
 * Atomics.waitAsync. */
const elsewhere = ({ cores = null, isIsolated = true, waits = true }) => ({
  prepare: context => context.route(url => ["/", "/wait.js"].includes(url.pathname), async route => {
    // The page is fetched once more to be kept, when the service may be gone.
    const response = await route.fetch().catch(() => null);
    if (!response) return route.abort().catch(() => {});
    const headers = response.headers();
    if (!isIsolated) for (const name of ["opener", "embedder"]) delete headers[`cross-origin-${name}-policy`];
    let body = await response.text();
    if (new URL(route.request().url()).pathname === "/wait.js") {
      if (!waits) body = `delete Atomics.waitAsync;\n${body}`;
      if (cores) body += `\nObject.defineProperty(navigator, "hardwareConcurrency", { value: ${cores} });`;
    }
    return route.fulfill({ response, headers, body }).catch(() => {});
  }),
});
const isBuiltWithThreads = !missing && fs.readFileSync(path.join(web, "pkg/outpost_web_agent.js"), "utf8").includes("share_work");

test("threads share the work where the page is isolated; where it is not, one does it alone, with the same answer", options, async test => {
  const service = await start(CIFAR);
  atEnd(test, service.end);
  const alone = /runs the network;/, shared = isBuiltWithThreads ? /on up to 3 threads/ : alone;
  const said = [];
  for (const [surroundings, threads] of [[{}, shared], [{ waits: false }, shared], [{ isIsolated: false }, alone], [{ cores: 2 }, alone]]) {
    const shown = await page(test, service, elsewhere({ cores: 4, ...surroundings }));
    assert.match(await shown.locator("#loaded").innerText(), threads);
    assert.equal(await shown.evaluate(() => crossOriginIsolated), surroundings.isIsolated ?? true);
    await mode(shown, "device");
    said.push(/[\d.]+ % sure/.exec(await ask(shown, AIRPLANE))[0]);
    await mode(shown, "cloud");
    assert.match(await ask(shown, AIRPLANE), /The cloud/);
  }
  assert.deepEqual(said, said.map(() => said[0]));
});

test("photos: how long the network takes on the threads there are, and on one", options, async test => {
  const service = await start(PHOTOS);
  atEnd(test, service.end);
  const pages = [];
  const cores = Math.max(os.availableParallelism(), 3);
  for (const surroundings of [{ cores }, { isIsolated: false }]) {
    const shown = await page(test, service, elsewhere(surroundings));
    await mode(shown, "device");
    pages.push({ shown, took: [] });
  }
  // In turns, as the machine may have other things to do.
  for (let i = 0; i < 24; i++)
    for (const { shown, took } of pages) took.push(Number(/this computer ([\d.]+)/.exec(await ask(shown, photo(i)))[1]));
  const [shared, alone] = pages.map(({ took }) => took.toSorted((a, b) => a - b)[took.length >> 1]);
  console.log(`the network takes ${shared} ms on up to ${Math.min(cores - 1, 4)} threads, and ${alone} ms on one`);
  assert.ok(shared > 0 && alone > 0);
});

test("tokens are renewed before they expire", options, async test => {
  const service = await start(CIFAR, { page: "token_seconds = 3" });
  atEnd(test, service.end);
  const shown = await page(test, service);
  await mode(shown, "cloud");
  for (let i = 0; i < 4; i++) {
    assert.match(await ask(shown, AIRPLANE), /The cloud/);
    await shown.waitForTimeout(2000);
  }
  assert.equal(await shown.locator("#notices .notice").count(), 0);
});

test("what is no image, and one that is cut off, have their message", options, async test => {
  const service = await start(CIFAR);
  atEnd(test, service.end);
  const shown = await page(test, service);
  await shown.setInputFiles("#file", { name: "half.jpg", mimeType: "image/jpeg", buffer: fs.readFileSync(AIRPLANE).subarray(0, 60) });
  assert.match(await told(shown, "not-an-image"), /half\.jpg is no picture/);
  await ask(shown, AIRPLANE);
  assert.equal(await label(shown), "airplane");
});

for (const photos of [SMALL, PHOTOS])
  test(`photos: the first answer with ${photos.cascade}, from the network and from what is kept`, options, async test => {
    const service = await start(photos);
    atEnd(test, service.end);
    const shown = await page(test, service, { isReady: false });
    await shown.setInputFiles("#file", photo(EASY));
    await shown.locator("#strip li").first().waitFor();
    const cold = await took(shown);
    await shown.evaluate(() => navigator.serviceWorker.ready);
    // The browser goes on writing what it is to keep.
    await shown.waitForTimeout(1000);
    await shown.reload();
    await shown.setInputFiles("#file", photo(EASY));
    await shown.locator("#strip li").first().waitFor();
    console.log(`${photos.cascade}: the first answer after ${cold} ms, and after ${await took(shown)} ms with what is kept`);
    assert.match(await shown.locator("#said").innerText(), /This computer/);
    assert.match(await shown.locator("#loaded").innerText(), /kept from before/);
  });

test("photos, on every screen, to be looked at", { ...options, skip: options.skip || (!screenshots && "no folder for screenshots") }, async test => {
  const service = await start(PHOTOS);
  atEnd(test, service.end);
  for (const [name, screen] of [["narrow", PHONE], ["wide", WIDE]])
    for (const colorScheme of ["light", "dark"]) {
      const shown = await page(test, service, { screen, colorScheme });
      for (const value of ["device", "cloud", "policy"]) {
        await mode(shown, value);
        await ask(shown, [3, 14, 25, 36].map(i => photo(i)));
      }
      await shown.waitForTimeout(1100);
      assert.deepEqual(await pale(shown), []);
      await shown.screenshot({ path: path.join(screenshots, `web-agent-real-${name}-${colorScheme}.png`) });
      await shown.screenshot({ path: path.join(screenshots, `web-agent-real-${name}-${colorScheme}-full.png`), fullPage: true });
    }
});

test("memory does not grow with the camera's frames, the program's included", options, async test => {
  const service = await start(CIFAR);
  atEnd(test, service.end);
  const shown = await page(test, service, { screen: { width: 320, height: 480 } });
  assert.ok(await shown.evaluate(() => crossOriginIsolated), "the page is not isolated from other origins");
  await mode(shown, "device");
  await shown.evaluate(async () => {
    Object.assign((await import("/camera.js")).pace, { everyMs: 0, side: 160 });
    globalThis.frames = 0;
    new MutationObserver(changes => { for (const change of changes) globalThis.frames += change.addedNodes.length; }).observe(document.getElementById("strip"), { childList: true });
  });
  await shown.click("#camera");
  const session = await shown.context().newCDPSession(shown);
  await session.send("HeapProfiler.enable");
  const measure = async after => {
    await shown.waitForFunction(after => globalThis.frames >= after, after, { timeout: 500000, polling: 250 });
    await session.send("HeapProfiler.collectGarbage");
    // With the worker's, its WebAssembly included.
    return shown.evaluate(async () => (await performance.measureUserAgentSpecificMemory()).bytes / 1e6);
  };
  const first = await measure(FRAMES / 4), last = await measure(FRAMES);
  console.log(`after ${FRAMES / 4} frames ${first.toFixed(2)} MB, after ${FRAMES} ${last.toFixed(2)} MB`);
  assert.ok(last - first < 4, `memory grew by ${(last - first).toFixed(2)} MB`);
});
