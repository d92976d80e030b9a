// What the server sends to this tab: over the worker that all tabs share, or, in a browser without
// shared workers, over a connection of its own. States: `waiting`, `open`, `quiet` (nothing
// received for 2.5 s) and `closed`.

import { Connection } from "./connection.js";

const QUIET_MS = 2500; // the server sends at least one event a second
const SILENT_MS = 3000; // a worker that has said nothing after this time does not work here
const HIDDEN_MS = 60000; // a hidden tab stops following after this time

export class Feed {
  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.received = Date.now();
    this.open = false;
    this.shared = typeof SharedWorker === "function";
    document.addEventListener("visibilitychange", () => this.#visible());
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", (event) => event.persisted && this.#follow());
    setInterval(() => this.#check(), 250);
    this.#follow();
  }

  #follow() {
    this.following = true;
    this.received = Date.now();
    if (this.shared) this.#followWorker();
    else this.connection ??= new Connection((kind, data) => this.#take(kind, data), (name) => this.#connected(name));
  }

  #followWorker() {
    if (!this.worker) {
      this.worker = new SharedWorker(new URL("shared.js", import.meta.url), { type: "module" });
      this.worker.onerror = () => this.#alone();
      this.worker.port.onmessage = ({ data: { kind, data } }) => {
        clearTimeout(this.silent);
        if (kind === "connection") this.#connected(data);
        else this.#take(kind, data);
      };
    }
    this.worker.port.postMessage("follow");
    clearTimeout(this.silent);
    this.silent = setTimeout(() => this.#alone(), SILENT_MS);
  }

  /** The worker does not work: connect without it. */
  #alone() {
    if (!this.shared) return;
    clearTimeout(this.silent);
    this.worker?.port.close();
    this.worker = null;
    this.shared = false;
    if (this.following) this.#follow();
  }

  #leave() {
    this.following = false;
    clearTimeout(this.silent);
    this.worker?.port.postMessage("leave");
    this.connection?.close();
    this.connection = null;
  }

  #take(kind, data) {
    this.received = Date.now();
    this.open = true;
    this.onState("open");
    this.onEvent(kind, data);
  }

  #connected(name) {
    if (name === "login") location.reload();
    if (name === "open" || name === "login") return;
    this.open = false;
    this.onState(name);
  }

  #check() {
    if (this.following && this.open && Date.now() - this.received > QUIET_MS) this.onState("quiet");
  }

  #visible() {
    clearTimeout(this.hidden);
    if (document.hidden) this.hidden = setTimeout(() => this.#leave(), HIDDEN_MS);
    else if (!this.following || Date.now() - this.received > QUIET_MS) this.#follow();
  }
}
