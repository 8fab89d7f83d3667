// The device's page in a browser, as tests/integration/page.rs starts it:
//
//     node device.mjs URL TOKEN PICTURE SCREENSHOTS CONFIGURATION
//
// browser.mjs says where the browser is. Ends with an error where the page does not do what it should.
import assert from "node:assert/strict";
import fs from "node:fs";
import { CAMERAS, launch, open as openIn, pale, PATIENCE, PHONE, says, WIDE } from "./browser.mjs";

const [url, token, picture, screenshots, configuration] = process.argv.slice(2);
const SCREENS = [["wide", WIDE, {}], ["narrow", PHONE, { deviceScaleFactor: 2 }]];
const browser = await launch(CAMERAS.given, ["--disable-quic", "--disable-component-update", "--disable-sync"]);

/** A page on a screen; closing it fails the test where the console had errors or anything was loaded from elsewhere. */
const open = (options = {}, address = `${url}/#token=${token}`) => openIn(browser, address, options);
async function live(options) {
  const opened = await open(options);
  await says(opened.page, "#live", "live");
  return opened;
}
/** Asks about the picture, and gives the text of its answer. */
async function ask(page) {
  const before = await page.evaluate(() => shown?.id);
  await page.setInputFiles("#file", picture);
  await page.waitForFunction(before => shown && shown.id !== before, before);
  return page.locator("#answer").innerText();
}
async function mode(page, name) {
  await page.locator(`#modes input[value=${name}]`).check();
  await page.waitForFunction(name => state.mode === name, name);
}
const chart = (page, name) => page.locator(`#charts [data-chart=${name}]`);

/** Where the time of the answer went, by part, as its key says it; the bar has the same parts, as long as they took. */
async function times(page) {
  const texts = await page.locator("#answer .key span").allInnerTexts();
  const told = Object.fromEntries(texts.flatMap(text => { const [, part, time] = /^(\w+) ([\d.]+) ms$/.exec(text) ?? []; return part ? [[part, Number(time)]] : []; }));
  const bar = await page.locator("#answer > .bar").evaluate(bar => [...bar.children].map(part => [part.className, part.getBoundingClientRect().width / bar.clientWidth]));
  const { total, ...parts } = told;
  assert.deepEqual(bar.map(([part]) => part), Object.keys(parts));
  const sum = Object.values(parts).reduce((sum, time) => sum + time, 0);
  assert.ok(Math.abs(sum - total) <= 2 + total / 20, `${JSON.stringify(parts)} are not ${total} ms`);
  for (const [part, share] of bar) assert.ok(Math.abs(share - parts[part] / sum) < 0.05, `${part} is ${share} of the bar, and took ${parts[part]} of ${sum} ms`);
  return told;
}

// Without its token the page asks for it, and shows nothing.
{
  const { page, close } = await open({}, url);
  await says(page, "#live", "token needed");
  await page.fill("#token input", token);
  await page.click("#token button");
  await says(page, "#live", "live");
  assert.equal(await page.locator("#token").isVisible(), false);
  await close();
}

const { page, close } = await live();
assert.equal(new URL(page.url()).hash, "", "the token stays in the address");
await says(page, "#peers", "cloud reached");
await says(page, "#peers .pill", "battery");

// A picture: the device alone, then the cloud alone, the reasons, and where the time went.
await mode(page, "device-only");
await says(page, "#peers", "cloud not asked");
let answer = await ask(page);
assert.match(answer, /sure, by the device/);
assert.match(answer, /in this mode the device answers everything by itself/);
assert.doesNotMatch(answer, /sure enough/);
assert.match(answer, /nothing sent/);
let told = await times(page);
assert.ok(told.device > 0 && !("cloud" in told), JSON.stringify(told));
await mode(page, "cloud-only");
await says(page, "#peers", "cloud reached");
answer = await ask(page);
assert.match(answer, /sure, by the cloud/);
assert.match(answer, /in this mode the cloud has the last word, and was asked over HTTP\/[23]/);
assert.match(answer, /\d k?B sent/);
told = await times(page);
assert.ok(told.cloud > 0 && told.link >= 0 && !(told.rest > 20 + told.total / 4), JSON.stringify(told));

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
assert.match(await ask(page), /: (it was sure enough|the device was not sure, and asked over HTTP)/);

// What is said of other answers: every cause of a fallback has its words, which are true in each mode.
{
  const words = [...fs.readFileSync(new URL("../../crates/cascade/src/walk.rs", import.meta.url), "utf8").matchAll(/Self::\w+ => "([a-z-]+)"/g)].map(([, word]) => word);
  assert.ok(words.length > 10);
  const said = await page.evaluate(words => Object.fromEntries(words.map(word => [word, ["policy", "device-only", "cloud-only"].map(mode => why({ reason: `fallback:${word}`, final: true }, mode))])), words);
  assert.deepEqual(words.filter(word => said[word][1] === word.replaceAll("-", " ")), [], "causes without words");
  for (const [policy, device, cloud] of Object.values(said)) {
    assert.match(policy, /^the device was not sure, but /);
    assert.doesNotMatch(device, /not sure|last word/);
    assert.match(cloud, /^in this mode the cloud has the last word, but /);
  }
  assert.equal(said.private[0], "the device was not sure, but what it shows is not to leave the device");
  assert.match(await page.evaluate(() => why({ reason: "fallback:deadline", final: false }, "policy")), /did not answer by the deadline; the cloud may still answer$/);
  // A turn that was waited for is told from a millisecond on, and time that is nobody's is not hidden.
  const event = { id: "x", label: "ship", confidence: 0.5, site: "device", network: "x", exit: null, reason: "fallback:deadline", final: true, device_ms: 20, encode_ms: null, link_ms: null, cloud_ms: null, total_ms: 134, bytes_sent: 0, encoding: null, top5: [] };
  const show = async (wait_ms, more) => { await page.evaluate(event => answer(event, "policy"), { ...event, wait_ms, ...more }); return times(page); };
  assert.deepEqual(await show(14), { wait: 14, device: 20, rest: 100, total: 134 });
  assert.deepEqual(await show(0.4), { device: 20, rest: 114, total: 134 });
  assert.deepEqual(await show(undefined), { device: 20, rest: 114, total: 134 });
  assert.deepEqual(await show(undefined, { device_ms: 0.5, total_ms: 0.5 }), { device: 0.5, total: 0.5 }, "less than a millisecond fills the bar, too");
}

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
await mode(page, "cloud-only");
await page.click("#camera");
await says(page, "#latest .name", "camera");
const heard = await page.evaluate(() => last);
await page.waitForFunction(before => last !== before, heard);
await page.click("#camera");
await says(page, "#camera", "Use the camera");
assert.equal(await page.evaluate(() => stream), null);
await mode(page, "policy");

// Pictures that come while another is asked about, with calls that last until the test ends them and answers named after their pictures.
/** A page whose calls wait: `asked` has the names of the pictures that came, `answered()` gives the oldest its answer. */
async function held(options) {
  const asked = [], waiting = [];
  const opened = await live({ ...options, prepare: context => context.route("**/v1/classify", async route => {
    const name = /filename="([^"]*)"/.exec(route.request().postDataBuffer()?.toString("latin1"))?.[1];
    if (!name) return route.continue();  // of a file that is gone
    asked.push(name);
    await new Promise(done => waiting.push(done));
    const top5 = [1, 2, 3, 4, 5].map(one => ({ label: `${name} ${one}`, confidence: 0.2 }));
    await route.fulfill({ json: { id: `${name} ${asked.length}`, label: name, confidence: 1, site: "device", network: "x", exit: null, reason: "confident", final: true, device_ms: 1, total_ms: 1, bytes_sent: 0, encoding: null, top5 } }).catch(() => {});  // the page is gone
  }) });
  const until = async is => { for (const end = Date.now() + PATIENCE; !is(); await new Promise(done => setTimeout(done, 20))) assert.ok(Date.now() < end, `asked about ${asked}`); };
  const { page } = opened, text = () => page.locator("#answer").innerText();
  return {
    ...opened, asked, text,
    came: count => until(() => asked.length >= count),
    answered: async () => { await until(() => waiting.length); await Promise.all([page.waitForResponse("**/v1/classify"), waiting.shift()()]); },
    choose: name => page.setInputFiles("#file", { name, mimeType: "image/jpeg", buffer: fs.readFileSync(picture) }),
    drop: (files, target = "#stage") => page.evaluate(async ([files, target]) => {
      const made = new OffscreenCanvas(64, 64), transfer = new DataTransfer();
      made.getContext("2d").fillRect(0, 0, 64, 64);
      for (const [name, type] of files) transfer.items.add(new File([await made.convertToBlob()], name, { type }));
      if (!files.length) transfer.setData("text/plain", "words");
      document.querySelector(target).dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }, [files, target]),
    shows: async part => { for (const one of ["hint", "picture", "video"]) assert.equal(await page.locator(`#${one}`).isVisible(), one === part, `${one} is shown in place of ${part}`); },
    end: async () => { await page.unrouteAll({ behavior: "ignoreErrors" }); await opened.close(); },
  };
}
// A picture that is chosen while another is asked about waits, and has its own answer beside it; of those that wait, the newest.
{
  const { page, asked, text, came, answered, choose, shows, end } = await held({ screen: PHONE });
  await choose("one");
  assert.match(await text(), /asking…/);
  await answered();
  await says(page, "#answer .label", "one");
  const below = () => page.locator("[aria-label='The last minutes']").evaluate(one => one.getBoundingClientRect().top);
  const before = await below();
  await choose("two");
  await came(2);
  for (const name of ["three", "four"]) await choose(name);
  await page.evaluate(id => heard(`id: ${last}\ndata: ${JSON.stringify({ kind: "correction", id, at: new Date(), image: "one", label: "late", site: "cloud", network: "x", confidence: 1, reason: "offloaded", total_ms: 1, bytes_sent: 1, top5: [] })}`), "one 1");
  assert.equal(await text(), "Answer\n\nasking…", "an answer is of another picture");
  assert.equal(await below(), before, "what is below moves while it is asked");
  await answered();
  await came(3);
  assert.equal(await text(), "Answer\n\nasking…", "an answer is of another picture");
  await answered();
  await says(page, "#answer .label", "four");
  assert.equal(await below(), before);
  assert.deepEqual(asked, ["one", "two", "four"]);
  await shows("picture");
  await end();
}
// A picture goes before the camera's frames, and ends them; the camera waits for a picture. Where it stops, its last frame stays with its answer.
{
  const { page, asked, text, came, answered, choose, shows, end } = await held();
  await page.click("#camera");
  await came(1);
  await shows("video");
  await choose("one");
  await says(page, "#camera", "Use the camera");
  await shows("picture");
  await answered();
  await came(2);
  assert.match(await text(), /asking…/, "the frame's answer is beside the picture");
  await answered();
  await says(page, "#answer .label", "one");
  await choose("two");
  await came(3);
  await choose("three");
  await page.click("#camera");
  await says(page, "#camera", "Stop the camera");
  await page.locator("#video").waitFor();
  await shows("video");
  for (const count of [4, 5]) {
    await answered();
    await came(count);
    assert.match(await text(), /asking…/, "a picture's answer is beside the camera");
  }
  await answered();
  await says(page, "#answer .label", "camera");
  await came(6);
  await page.click("#camera");
  await shows("picture");
  await says(page, "#answer .label", "camera");
  assert.deepEqual(asked, ["camera", "one", "two", "three", "camera", "camera"]);
  await answered();
  await page.waitForFunction(() => shown.id === "camera 6");
  // One that is stopped before its first frame leaves nothing that asks on.
  await choose("four");
  await page.click("#camera");
  await says(page, "#camera", "Stop the camera");
  await page.click("#camera");
  await shows("hint");
  assert.match(await text(), /Nothing was asked/);
  await end();
}
// A camera that is unplugged is stopped, and that is said.
{
  const { page, came, answered, asked, end } = await held();
  await page.click("#camera");
  await came(1);
  await page.evaluate(() => stream.getTracks()[0].dispatchEvent(new Event("ended")));
  await says(page, "#note.error", "The camera gave up");
  await says(page, "#camera", "Use the camera");
  assert.equal(await page.evaluate(() => stream), null);
  await answered();
  await says(page, "#answer .label", "camera");
  await page.waitForTimeout(500);
  assert.equal(asked.length, 1, "frames are asked about after the end");
  assert.deepEqual(await pale(page), []);
  await page.click("#camera");
  await came(2);
  assert.equal(await page.locator("#note").isVisible(), false);
  await end();
}
// However often its button is pressed while the browser asks whether it may: one camera, and none once a picture was chosen.
{
  const before = () => {
    const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.cameras = [];
    window.prompts = [];
    navigator.mediaDevices.getUserMedia = async what => { await new Promise(done => prompts.push(done)); const one = await get(what); cameras.push(one); return one; };
  };
  const { page, choose, came, end } = await held({ before });
  const allow = () => page.evaluate(() => prompts.splice(0).forEach(allow => allow()));
  const running = () => page.evaluate(() => cameras.flatMap(one => one.getTracks()).filter(track => track.readyState === "live").length);
  await page.click("#camera");
  await page.click("#camera");
  assert.equal(await page.locator("#camera").getAttribute("aria-busy"), "true");
  await allow();
  await says(page, "#camera", "Stop the camera");
  await came(1);
  assert.equal(await page.evaluate(() => cameras.length), 1);
  await page.click("#camera");
  assert.equal(await running(), 0, "a camera is never stopped");
  await page.click("#camera");
  await choose("one");
  await allow();
  await page.waitForFunction(() => cameras.length === 2);
  await page.waitForTimeout(100);
  assert.equal(await running(), 0, "a camera runs that nobody waits for");
  assert.equal(await page.locator("#camera").innerText(), "Use the camera");
  await end();
}
// Several files at once, something that is no picture, and a file that is gone are told; a file may fall anywhere on the page.
{
  const { page, asked, text, came, answered, choose, drop, shows, end } = await held();
  await drop([["notes.txt", "text/plain"]]);
  await says(page, "#note.error", "notes.txt is no picture");
  await shows("hint");
  await drop([]);
  await says(page, "#note.error", "That is no picture");
  await drop([["notes.txt", "text/plain"], ["one", "image/png"], ["two", "image/png"]], "#answer");
  await says(page, "#note:not(.error)", "of 3 files one was taken");
  await answered();
  await says(page, "#answer .label", "one");
  await drop([["notes.txt", "text/plain"]]);
  await says(page, "#note.error", "notes.txt is no picture");
  assert.match(await text(), /^Answer\n+one\n/, "the answer of what is shown is lost");
  assert.deepEqual(await pale(page), []);
  await choose("three");
  await came(2);
  assert.equal(await page.locator("#note").isVisible(), false);
  const gone = `${screenshots}/gone.jpg`;
  fs.copyFileSync(picture, gone);
  await page.setInputFiles("#file", gone);
  fs.rmSync(gone);
  await answered();
  await says(page, "#answer .error", "gone.jpg cannot be read");
  assert.deepEqual(asked, ["one", "three"]);
  await end();
}

// A configuration that is refused, and one that is in use.
{
  const written = fs.readFileSync(configuration, "utf8");
  const often = await page.evaluate(() => setInterval(refresh, 200));
  assert.equal(await page.locator("#reload").isVisible(), false);
  fs.writeFileSync(configuration, written.replace("deadline_ms = 20000", "deadline_ms = 0"));
  await says(page, "#reload .error", "`deadline_ms` is 0");
  await says(page, "#reload", "stays in use");
  fs.writeFileSync(configuration, written.replace("deadline_ms = 20000", "deadline_ms = 20001\nmax_in_flight = 9"));
  await says(page, "#reload", "deadline_ms changed");
  await says(page, "#reload", "Waits for a restart: max_in_flight");
  assert.match(await page.locator("#reload").innerText(), new RegExp(`Read again .*${new Date().getFullYear()}`));
  assert.equal(await page.locator("#reload .error").count(), 0);
  await page.evaluate(often => clearInterval(often), often);
}

// The charts and the list have what came: of what was answered, and of the link.
{
  await says(page, "#charts [data-chart=circuit]", "0 % failed");
  const names = ["answered", "sent", "latency", "bytes", "round-trip", "uplink", "at-peer", "circuit"];
  assert.deepEqual(await page.locator("#charts .chart").evaluateAll(all => all.map(one => one.dataset.chart)), names);
  const drawn = await page.locator("#charts .chart").evaluateAll(all => all.map(one => [one.dataset.chart, one.querySelector("b").innerText, one.querySelectorAll("polyline, rect").length, one.innerHTML]));
  for (const [name, value, marks, html] of drawn) {
    assert.doesNotMatch(html, /NaN|undefined|Infinity/, name);
    // Sizes may differ too little to tell it.
    if (name === "uplink" && value === "–") assert.match(html, /too little to tell/);
    else assert.ok(value !== "–" && value !== "0 B" && marks > 0, `${name}: ${value}, ${marks} drawn`);
  }
  assert.match(await chart(page, "latency").innerText(), /^[\d.]+ \/ [\d.]+ ms\nuntil the answer device cloud/);
  for (const part of ["polyline.s-device", "polyline.s-cloud"]) assert.ok(await chart(page, "latency").locator(part).count() > 0, part);
  assert.match(await chart(page, "circuit").innerText(), /^closed\ncircuit to the cloud, 0 % failed/);
  assert.equal(await chart(page, "circuit").locator("svg").getAttribute("aria-label"), "circuit to the cloud: closed");
  // The mode in which nobody was asked, and before and after it.
  for (const part of ["s-closed", "s-unasked"]) assert.ok(await chart(page, "circuit").locator(`.${part}`).count() > 0, part);
  assert.equal(await chart(page, "circuit").locator(".s-away, .s-trying").count(), 0);
  assert.match(await page.locator("#details").innerText(), /on the wire to the cloud since the start/);
  assert.ok(await page.locator("#latest tr").count() > 3);
  assert.equal(await page.locator("#peers [title], #charts [title], #details [title]").count(), 0, "a finger does not reach titles");
  // Neither many events nor those of a clock that was set fill the page's memory.
  const [most, kept, after] = await page.evaluate(() => {
    const say = ms => heard(`id: ${last}\ndata: ${JSON.stringify({ kind: "answer", id: "x", at: new Date(time() * 1000 + ms).toISOString(), site: "device", image: "x", label: "x", confidence: 1, total_ms: 1, bytes_sent: 0 })}`);
    for (let i = 0; i < MANY + 100; i++) say(3600_000);
    const kept = events.length;
    draw();
    return [MANY, kept, events.length];
  });
  assert.equal(kept, most);
  assert.equal(after, 0);
}
await close();

// A device whose clock is minutes off has its charts.
await Promise.all([-10, 10].map(async minutes => {
  const { page, close } = await live({ before: `{ const now = Date.now; Date.now = () => now() - ${minutes * 60000}; }` });
  await ask(page);
  await page.waitForFunction(() => document.querySelector("[data-chart=answered] rect") && document.querySelector("[data-chart=latency] polyline") && document.querySelector("[data-chart=circuit] rect"));
  const ahead = await page.evaluate(() => ahead);
  assert.ok(Math.abs(ahead - minutes * 60000) < 5000, `the device is ahead by ${ahead} ms`);
  await close();
}));

// A state with all there may be, on a phone: each is there to be read, by a finger too.
{
  const more = async context => context.route("**/v1/state", async route => {
    const response = await route.fetch(), state = await response.json(), [peer] = state.peers;
    const endpoint = (url, more) => ({ url, in_use: false, presence: "up", circuit: "closed", link: null, ping_ms: 4.2, answered: 7, failed: 1, wire: peer.wire, ...more });
    Object.assign(peer, {
      circuit: "half-open", in_use: "https://one.example:8443", failovers: 1,
      link: { round_trip_ms: 12, uplink: 1.5e6, at_peer_ms: 150, queue_ms: 30, failed: 0.25 },
      budgets: [{ name: "offloads_per_hour", most: 1000, left: 612.4 }, { name: "power: joules_per_hour", most: 360, left: 20 }, { name: "bytes_per_day", most: 5e7, left: 3.1e6 }],
      endpoints: [endpoint("https://one.example:8443", { in_use: true }), endpoint("https://a-name-that-is-longer-than-a-phone-is-wide.example.org:8443", { presence: "down" }), endpoint("https://three.example:8443", { presence: "unknown", ping_ms: null })],
    });
    Object.assign(state, { waiting: 3, audit: { share: 0.1, audits: 40, agreement: 0.93, interval: [0.88, 0.97], expected: 0.95, drift_alarm: false } });
    await route.fulfill({ response, json: state });
  });
  const { page, close } = await live({ screen: PHONE, colorScheme: "dark", deviceScaleFactor: 2, prepare: more });
  await says(page, "#peers", "cloud trying at one.example:8443 · 162 ms");
  assert.match(await chart(page, "at-peer").innerText(), /^150 ms\nin the cloud queued 30 ms/);
  assert.equal(await chart(page, "at-peer").locator("polyline").count(), 2);
  assert.match(await chart(page, "uplink").innerText(), /^1.5 MB\/s/);
  assert.match(await chart(page, "circuit").innerText(), /^trying\ncircuit to the cloud, 25 % failed/);
  assert.ok(await chart(page, "circuit").locator(".s-trying").count() > 0);
  const details = (await page.locator("#details").innerText()).replace(/\s+/g, " ");
  for (const said of ["612 left of 1,000: offloads per hour", "20 J left of 360 J: power: joules per hour", "3.1 MB left of 50.0 MB: bytes per day", "93.0 % agree of 40 answers", "88.0 % to 97.0 %, expected 95.0 %", "3 waiting", "1 change to another endpoint", "one.example:8443 in use 7 answered, 1 not 4.2 ms", "three.example:8443 not asked yet"])
    assert.ok(details.includes(said), `${said} is not in ${details}`);
  const bars = await page.locator("#details .bar").evaluateAll(all => all.map(bar => bar.firstChild.getBoundingClientRect().width / bar.clientWidth));
  assert.deepEqual(bars.map(share => share.toFixed(2)), ["0.61", "0.06", "0.06"]);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
  assert.deepEqual(await pale(page), []);
  await page.screenshot({ path: `${screenshots}/narrow-all.png`, fullPage: true });
  await close();
}

// On every screen the page fits, can be read and touched, and is kept to be looked at.
for (const [name, screen, more] of SCREENS)
  for (const colorScheme of ["light", "dark"]) {
    const { page, close } = await live({ screen, colorScheme, ...more });
    if (screen === PHONE) {
      for (const mode of ["device-only", "policy"]) {
        await page.locator(`#modes label:has([value=${mode}])`).tap();
        await page.waitForFunction(mode => state.mode === mode && document.querySelector("#modes input:checked").value === mode, mode);
      }
      const chooser = page.waitForEvent("filechooser");
      await page.locator("label.button").tap();
      await (await chooser).setFiles(picture);
      await page.locator("#answer .label").waitFor();
    } else await ask(page);
    await page.locator("[data-chart=latency] polyline").first().waitFor({ state: "attached" });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), screen.width, "the page is not as wide as the screen");
    const columns = await page.locator("#charts .chart").evaluateAll(all => new Set(all.map(one => Math.round(one.getBoundingClientRect().left))).size);
    assert.equal(columns, screen === PHONE ? 2 : 4);
    assert.deepEqual(await pale(page), []);
    await page.screenshot({ path: `${screenshots}/${name}-${colorScheme}.png`, fullPage: true });
    await close();
  }
await browser.close();
console.log("the page does what it should");
