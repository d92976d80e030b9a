// The present, for a tab that joins later: the event `state`, kept up to date by what follows.

export class Snapshot {
  #state = null;
  #offset = 0; // of the server's clock in seconds

  take(kind, data) {
    if (kind === "state") this.#state = data;
    if (kind === "state" || kind === "status") this.#offset = data.now - Date.now() / 1000;
    if (!this.#state) return;
    if (kind === "result") this.#stream(data.stream).latest = data;
    else if (kind === "info") this.#stream(data.stream).info = data;
    else if (kind === "health") this.#state.health = data;
    else if (kind === "status") this.#state.statuses = data.statuses;
  }

  /** As the event `state` would be now; null before the first. */
  get state() {
    return this.#state && { ...this.#state, now: Date.now() / 1000 + this.#offset };
  }

  #stream(name) {
    const streams = this.#state.streams;
    const known = streams.find((stream) => stream.name === name);
    if (known) return known;
    streams.push({ name, info: null, latest: null, status: null });
    return streams.at(-1);
  }
}
