// What cloud-service serves to the page of the agent in the browser, for its tests: the page, the device's files, tokens, and
// a cloud that answers as it is told. By HTTP on loopback, which browsers trust as they do HTTPS.
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const WWW = path.join(here, "../../crates/web-agent/www"), MODELS = path.join(here, "../../models");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png", ".webmanifest": "application/manifest+json", ".wasm": "application/wasm", ".json": "application/json" };
const HEADERS = {
  "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "permissions-policy": "camera=(self), microphone=(), geolocation=()",
};
/** In place of these, where the page is not isolated. */
const SHARED = { "cross-origin-opener-policy": "unsafe-none", "cross-origin-embedder-policy": "unsafe-none" };
const sha256 = bytes => crypto.createHash("sha256").update(bytes).digest("hex");

/** The files of a device whose network is noise: nothing here runs it. */
function deviceFiles() {
  const noise = Buffer.alloc(1 << 20);
  for (let i = 0, seed = 1; i < noise.length; i++) noise[i] = (seed = (seed * 1103515245 + 12345) >>> 0) >>> 16;
  const files = new Map(["cascades/lite0-lite2.toml", "efficientnet-lite0/model.toml", "imagenet-labels.txt", "policies/lite0-lite2.json"].map(name => [name, fs.readFileSync(path.join(MODELS, name))]));
  return files.set("efficientnet-lite0/efficientnet-lite0.onnx", noise);
}

/** Starts it. What is answered follows `server.says`; `server.calls` has each request's method and path. */
export async function serve() {
  const files = deviceFiles(), calls = [];
  const byDigest = new Map([...files].map(([name, bytes]) => [sha256(bytes), { name, bytes }]));
  const says = {
    /** How the cloud answers images: `ok`, `unauthenticated`, `gone` (the connection ends) or `silent`. */
    cloud: "ok",
    cloudMs: 8,
    /** Status of a call for a token, and how long one holds. */
    tokens: 200,
    tokenSeconds: 600,
    /** Files that come with a wrong byte, and how many times. */
    corrupt: new Map(),
    /** Milliseconds that a file of the device takes. */
    fileMs: 0,
    /** Appended to a file of the page, by its path: another version. */
    newer: new Map(),
    /** Paths that are not there. */
    missing: new Set(),
    /** Whether the page is isolated from other origins. */
    isIsolated: true,
    /** Another origin that the page may ask. */
    mayAsk: "",
  };
  const known = new Set();
  const description = { cascade: { name: "lite0-lite2", path: "cascades/lite0-lite2.toml" }, policy: { path: "policies/lite0-lite2.json" }, goal: null, deadline_ms: 3000,
    files: [...files].map(([name, bytes]) => ({ path: name, sha256: sha256(bytes), bytes: bytes.length })) };

  function asset(name) {
    if (says.missing.has(name)) return null;
    const file = name === "/" ? "index.html" : name.slice(1);
    const at = file.startsWith("pkg/") ? path.join(here, "mock", file.slice(4)) : path.join(WWW, file);
    if (file === "pkg/outpost_web_agent_bg.wasm") return Buffer.from([0, 97, 115, 109, 1, 0, 0, 0]);
    if (path.relative(file.startsWith("pkg/") ? here : WWW, at).startsWith("..") || !fs.existsSync(at)) return null;
    return Buffer.concat([fs.readFileSync(at), Buffer.from(says.newer.get(name) ?? "")]);
  }

  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    calls.push(`${request.method} ${pathname}`);
    const answer = (status, body, headers = {}) => response.writeHead(status, { ...HEADERS, ...(!says.isIsolated && SHARED), "content-security-policy": HEADERS["content-security-policy"].replace("connect-src 'self'", `connect-src 'self'${says.mayAsk}`), ...headers }).end(body);
    if (pathname === "/page/agent.json") return answer(200, JSON.stringify(description), { "content-type": "application/json", "cache-control": "no-cache" });
    if (pathname.startsWith("/page/files/")) {
      const file = byDigest.get(pathname.slice(12));
      if (!file) return answer(404, "no such file");
      const times = says.corrupt.get(file.name) ?? 0;
      says.corrupt.set(file.name, times - 1);
      const bytes = times > 0 ? Buffer.concat([file.bytes.subarray(0, -1), Buffer.from([file.bytes.at(-1) ^ 1])]) : file.bytes;
      setTimeout(() => answer(200, bytes, { "content-type": "application/octet-stream", "cache-control": "public, max-age=31536000, immutable" }), says.fileMs);
      return undefined;
    }
    if (pathname === "/page/token" && request.method === "POST") {
      if (says.tokens !== 200) return answer(says.tokens, "too many tokens are out", { "retry-after": "2" });
      const token = crypto.randomUUID();
      known.add(token);
      return answer(200, JSON.stringify({ token, expires_in_seconds: says.tokenSeconds }), { "content-type": "application/json", "cache-control": "no-store" });
    }
    if (pathname === "/inference.GRPCInferenceService/ModelInfer") {
      if (says.cloud === "gone") return request.socket.destroy();
      if (says.cloud === "silent") return undefined;
      const isKnown = says.cloud === "ok" && known.has(request.headers.authorization?.slice(7));
      request.resume().on("end", () => setTimeout(() => answer(200, "", { "content-type": "application/grpc-web+proto", "grpc-status": isKnown ? "0" : "16", "x-cloud-ms": String(says.cloudMs) }), says.cloudMs));
      return undefined;
    }
    const body = request.method === "GET" ? asset(pathname) : null;
    if (!body) return answer(404, `there is no ${pathname}`);
    const etag = `"${sha256(Buffer.concat([body, Buffer.from(says.mayAsk)])).slice(0, 16)}"`, headers = { "content-type": TYPES[pathname === "/" ? ".html" : path.extname(pathname)], "cache-control": "no-cache", etag };
    return request.headers["if-none-match"] === etag ? answer(304, "", headers) : answer(200, body, headers);
  });
  await new Promise(done => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://localhost:${server.address().port}/`,
    says, calls,
    /** Tokens that were given out hold no longer. */
    forgetTokens: () => known.clear(),
    close: () => { server.closeAllConnections(); server.close(); },
  };
}
