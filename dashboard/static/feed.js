// The live feed: server-sent events with reconnection. States: `open`, `quiet` (connected, but
// nothing received for 2.5 s) and `closed`.

const QUIET_MS = 2500; // the server sends at least one line a second
const RECONNECT_MS = 8000; // without a line
const HIDDEN_MS = 60000; // a hidden page closes its connection after this time

export class Feed {
  constructor(onMessage, onState) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.received = performance.now();
    this.delay = 500;
    this.timers = {};
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#check(), 250);
    this.connect();
  }

  connect() {
    clearTimeout(this.timers.retry);
    this.source?.close();
    this.received = performance.now();
    this.source = new EventSource("events");
    this.source.onmessage = (event) => {
      this.received = performance.now();
      this.delay = 500;
      this.onState("open");
      this.onMessage(JSON.parse(event.data));
    };
    this.source.onerror = () => this.#closed();
  }

  #closed() {
    this.onState("closed");
    // Chromium reconnects after a dropped connection, but not after a refused one.
    this.source?.close();
    this.source = null;
    clearTimeout(this.timers.retry);
    this.timers.retry = setTimeout(() => this.#retry(), this.delay);
    this.delay = Math.min(this.delay * 1.6, 4000);
  }

  async #retry() {
    // EventSource does not give the cause. If the token is no longer valid, the form must appear.
    const response = await fetch("recent", { cache: "no-store" }).catch(() => null);
    if (response?.status === 401) location.reload();
    else if (response === null) this.#closed();
    else this.connect();
  }

  #check() {
    if (!this.source) return;
    const quiet = performance.now() - this.received;
    if (quiet > RECONNECT_MS) this.connect();
    else if (quiet > QUIET_MS) this.onState("quiet");
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
