// The live feed: server-sent events, kept alive. It knows three states: `open`, `quiet` (the
// server is there, as far as we know, and says nothing) and `closed`.

const QUIET_MS = 2500; // a line comes every second at least
const GIVEN_UP_MS = 8000;
const HIDDEN_MS = 60000; // a page that nobody looks at lets go of its connection

export class Feed {
  constructor(take, state) {
    this.take = take;
    this.state = state;
    this.heard = performance.now();
    this.delay = 500;
    this.timers = {};
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#watch(), 250);
    this.connect();
  }

  connect() {
    clearTimeout(this.timers.retry);
    this.source?.close();
    this.heard = performance.now();
    this.source = new EventSource("events");
    this.source.onmessage = (event) => {
      this.heard = performance.now();
      this.delay = 500;
      this.state("open");
      this.take(JSON.parse(event.data));
    };
    this.source.onerror = () => this.#lost();
  }

  #lost() {
    this.state("closed");
    // Chromium retries a dropped connection by itself, but not a refused one.
    this.source?.close();
    this.source = null;
    clearTimeout(this.timers.retry);
    this.timers.retry = setTimeout(() => this.#retry(), this.delay);
    this.delay = Math.min(this.delay * 1.6, 4000);
  }

  async #retry() {
    // EventSource does not tell why it failed; a page whose token is no longer good asks again.
    const answer = await fetch("recent", { cache: "no-store" }).catch(() => null);
    if (answer?.status === 401) location.reload();
    else if (answer === null) this.#lost();
    else this.connect();
  }

  #watch() {
    if (!this.source) return;
    const quiet = performance.now() - this.heard;
    if (quiet > GIVEN_UP_MS) this.connect();
    else if (quiet > QUIET_MS) this.state("quiet");
  }

  #visible() {
    clearTimeout(this.timers.hidden);
    if (document.hidden) {
      this.timers.hidden = setTimeout(() => {
        this.source?.close();
        this.source = null;
        clearTimeout(this.timers.retry);
      }, HIDDEN_MS);
    } else if (!this.source) this.connect();
  }
}
