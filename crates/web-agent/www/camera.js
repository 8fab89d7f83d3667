// The live camera: one frame after the other, each once the one before is answered. The newest frame wins: those that the
// camera shows in the meantime are never taken.

/** How often at most a frame is taken, the longest side it is shrunk to, and the quality of its JPEG. */
export const pace = { everyMs: 200, side: 640, quality: 0.85 };
/** A pause while the camera has shown nothing yet. */
const WAIT_MS = 50;

const sleep = milliseconds => new Promise(done => setTimeout(done, milliseconds));

export class Camera {
  #video;
  #heard;
  #stream = null;
  #canvas = null;

  /** `heard` has `frame(bytes, canvas)`, awaited before the next; `changed(isOn)`; `problem(code, details)`; `waited(seconds)`. */
  constructor(video, heard) {
    this.#video = video;
    this.#heard = heard;
  }

  get isOn() {
    return this.#stream !== null;
  }

  async start() {
    if (this.isOn) return;
    if (!navigator.mediaDevices?.getUserMedia) return this.#heard.problem("camera-insecure");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false });
    } catch (error) {
      const code = { NotAllowedError: "camera-refused", SecurityError: "camera-refused", NotFoundError: "no-camera", NotReadableError: "camera-busy" }[error.name];
      return this.#heard.problem(code ?? "camera-failed", { error: error.message });
    }
    if (this.isOn) return stream.getTracks().forEach(track => track.stop());
    this.#stream = stream;
    for (const track of stream.getTracks())
      track.onended = () => {
        if (this.#stream !== stream) return;
        this.stop();
        this.#heard.problem("camera-ended");
      };
    this.#video.srcObject = stream;
    this.#heard.changed(true);
    try { await this.#video.play(); } catch { /* Stopped before the first frame came. */ }
    this.#run(stream);
  }

  stop() {
    if (!this.isOn) return;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
    this.#heard.changed(false);
  }

  async #run(stream) {
    while (this.#stream === stream) {
      const began = performance.now();
      if (document.hidden) {
        await new Promise(done => document.addEventListener("visibilitychange", done, { once: true }));
        if (!document.hidden && this.#stream === stream) this.#heard.waited((performance.now() - began) / 1000);
        continue;
      }
      if (!this.#video.videoWidth) {
        await sleep(WAIT_MS);
        continue;
      }
      const bytes = await this.#take();
      if (bytes && this.#stream === stream) await this.#heard.frame(bytes, this.#canvas);
      await sleep(Math.max(0, pace.everyMs - (performance.now() - began)));
    }
  }

  /** What the camera shows, as a JPEG. */
  async #take() {
    const { videoWidth, videoHeight } = this.#video;
    const shrink = Math.min(1, pace.side / Math.max(videoWidth, videoHeight));
    const width = Math.round(videoWidth * shrink), height = Math.round(videoHeight * shrink);
    if (!this.#canvas) this.#canvas = typeof OffscreenCanvas === "function" ? new OffscreenCanvas(width, height) : document.createElement("canvas");
    const canvas = this.#canvas;
    // A phone that is turned changes the sides. Setting them clears the canvas, so only then.
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(this.#video, 0, 0, width, height);
    const blob = canvas.convertToBlob
      ? await canvas.convertToBlob({ type: "image/jpeg", quality: pace.quality })
      : await new Promise(done => canvas.toBlob(done, "image/jpeg", pace.quality));
    return blob && new Uint8Array(await blob.arrayBuffer());
  }
}
