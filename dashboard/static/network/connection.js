// One event stream of the server. It connects again by itself and continues where it was.

import { address, ask } from "./api.js";

const KINDS = ["state", "result", "utterance", "info", "health", "status", "gap"];
const RECONNECT_MS = 8000; // without an event: the server sends at least one a second
const RETRY_MS = [500, 4000];

export class Connection {
  /** `onEvent(kind, data)`; `onState`: `open`, `closed`, or `login` where the token is refused. */
  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.place = null; // id of the last event
    this.delay = RETRY_MS[0];
    this.received = Date.now();
    this.check = setInterval(() => this.source && this.reconnectAfter(RECONNECT_MS), 1000);
    this.#connect();
  }

  /** Connect again if nothing has come for a time: the machine may have slept. */
  reconnectAfter(milliseconds) {
    if (Math.abs(Date.now() - this.received) > milliseconds) this.#connect();
  }

  close() {
    clearInterval(this.check);
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
  }

  #connect() {
    clearTimeout(this.retry);
    this.source?.close();
    this.received = Date.now();
    const source = (this.source = new EventSource(address("events", { after: this.place })));
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.received = Date.now();
        this.delay = RETRY_MS[0];
        if (event.lastEventId) this.place = event.lastEventId;
        this.onState("open");
        this.onEvent(kind, JSON.parse(event.data));
      });
    }
    source.onerror = () => this.#closed();
  }

  #closed() {
    this.onState("closed");
    // Chromium reconnects after a dropped connection, but not after a refused one.
    this.source?.close();
    this.source = null;
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.#retry(), this.delay);
    this.delay = Math.min(this.delay * 1.6, RETRY_MS[1]);
  }

  async #retry() {
    // EventSource does not give the cause. If the token is no longer valid, the form must appear.
    const response = await ask("service", {}, { cache: "no-store" });
    if (response?.status === 401) this.onState("login");
    if (response === null) this.#closed();
    else this.#connect();
  }
}
