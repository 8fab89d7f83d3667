// The short-lived token that the cloud takes images of this page with.

const PATH = "/page/token";
const FIRST_PAUSE_SECONDS = 2, LONGEST_PAUSE_SECONDS = 60;

export class Token {
  #host;
  #until = 0;
  #pause = FIRST_PAUSE_SECONDS;
  #timer = null;
  #running = null;

  /** `host` has `cloud()`, the origin that issues them; `give(text)`, which gets each token; `tell(code, details)`, which hears
   * what goes wrong, and null once it is well again; and `isWanted()`: whether images are to be sent at all. */
  constructor(host) {
    this.#host = host;
  }

  /** Whether there is one that holds for now. */
  get isValid() {
    return performance.now() < this.#until;
  }

  /** Has one, and has it renewed, as long as it is wanted. */
  keep() {
    if (!this.isValid && this.#host.isWanted()) this.renew();
  }

  /** Another token, now; whoever asks while one is fetched waits for that. */
  renew() {
    return (this.#running ??= this.#fetch().finally(() => (this.#running = null)));
  }

  /** Has one at hand for the next image: waits for it no longer than `patienceMs`. */
  async ready(patienceMs) {
    if (this.isValid) return;
    await Promise.race([this.renew(), new Promise(done => setTimeout(done, patienceMs))]);
  }

  async #fetch() {
    clearTimeout(this.#timer);
    try {
      const response = await fetch(`${this.#host.cloud()}${PATH}`, { method: "POST", cache: "no-store" });
      if (!response.ok) {
        const said = (await response.text()).trim().slice(0, 200) || response.statusText;
        const asked = Number(response.headers.get("retry-after"));
        throw Object.assign(new Error(`${response.status}: ${said}`), { isRefusal: true, asked: asked > 0 ? asked : null });
      }
      const { token, expires_in_seconds: seconds } = await response.json();
      this.#until = performance.now() + seconds * 1000;
      this.#pause = FIRST_PAUSE_SECONDS;
      this.#host.give(token);
      this.#host.tell(null);
      // Well before it expires, so that no image meets an expired one.
      this.#later(Math.max(seconds * 0.8, 1));
    } catch (error) {
      const again = error.asked ?? this.#pause;
      this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_SECONDS);
      // A cloud that is away is told of by the images that ask it.
      if (error.isRefusal) this.#host.tell("token-refused", { error: error.message, again });
      this.#later(again);
    }
  }

  #later(seconds) {
    this.#timer = setTimeout(() => this.#host.isWanted() && this.renew(), seconds * 1000);
  }
}
