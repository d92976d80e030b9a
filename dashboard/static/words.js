// Texts, shapes and colours of labels and states. Both are open lists: a label or state of a newer
// pipeline gets a text, a shape and a colour as well.

const LABEL_STYLES = {
  angry: ["up", "vermilion"], anger: ["up", "vermilion"],
  happy: ["circle", "orange"], happiness: ["circle", "orange"], joy: ["circle", "orange"],
  neutral: ["square", "grey"], calm: ["bar", "green"],
  sad: ["down", "blue"], sadness: ["down", "blue"],
  fear: ["diamond", "purple"], fearful: ["diamond", "purple"],
  disgust: ["plus", "green"], disgusted: ["plus", "green"],
  surprise: ["star", "sky"], surprised: ["star", "sky"], bored: ["bar", "yellow"],
};
const SHAPES = ["up", "circle", "square", "down", "diamond", "plus", "star", "bar"];
const COLOURS = ["vermilion", "orange", "grey", "blue", "purple", "green", "sky", "yellow"];

/** Shape and CSS colour of a label; an unknown label gets one that no known label of its set has. */
export function labelStyle(label, labels = []) {
  if (label === "uncertain") return { shape: "ring", colour: "var(--muted)" };
  if (LABEL_STYLES[label]) return { shape: LABEL_STYLES[label][0], colour: `var(--e-${LABEL_STYLES[label][1]})` };
  const taken = new Set(labels.filter((l) => LABEL_STYLES[l]).map((l) => LABEL_STYLES[l][1]));
  const others = labels.filter((l) => !LABEL_STYLES[l]);
  const free = COLOURS.map((colour, n) => [SHAPES[n], colour]).filter(([, c]) => !taken.has(c));
  const pool = free.length ? free : COLOURS.map((colour, n) => [SHAPES[n], colour]);
  const [shape, colour] = pool[Math.max(0, others.indexOf(label)) % pool.length];
  return { shape, colour: `var(--e-${colour})` };
}

const REASONS = {
  low_margin: "no emotion is probable enough",
  too_short: "speech has just started",
  too_quiet: "too quiet to judge",
  clipped: "the sound is clipped",
  model_error: "the model gave no result",
  not_speech: "it does not sound like speech",
  no_labels: "this model gives no emotions",
  non_speech: "it does not sound like speech",
};
export const readable = (word) => String(word ?? "").replaceAll("_", " ");
export const sentence = (text) => readable(text).replace(/^[a-z]/, (letter) => letter.toUpperCase());
export const reasonText = (reason) => REASONS[reason] ?? readable(reason);

export const percent = (value) => `${Math.round(value * 100)} %`;

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

/** How far a stream is adapted to its room; `seconds` of speech, empty where it has no baseline. */
export function adaptation(seconds) {
  if (typeof seconds !== "number") return "";
  return seconds ? `Adapted to this room: ${duration(seconds)} of speech` : "Not adapted yet";
}

/** The configured source as a text. */
export function sourceName(source = "") {
  const [kind, ...rest] = source.split(":");
  const name = rest.join(":");
  if (kind === "mic") return name ? `The microphone “${name}”` : "The microphone";
  if (kind === "pipewire") return name ? `The microphone “${name}”` : "The microphone";
  if (kind === "file") return `The recording ${name.split("/").pop()}`;
  if (kind === "replay") return `The replay of ${name.split("/").filter(Boolean).pop()}`;
  if (kind === "stdin") return "The sound on standard input";
  if (kind === "wyoming") return `The Wyoming satellite at ${name}`;
  if (kind === "watch") return `The folder ${name}`;
  if (kind === "listen") return `The device at ${name}`;
  if (kind === "ffmpeg") return "The sound from ffmpeg";
  if (name.startsWith("//")) return `The network source ${source}`;
  return source ? `The source ${source}` : "The source";
}

const SOURCES = {
  starting: () => "is starting",
  live: (_, why) => (why ? `is live, but ${why}` : "is live"),
  ended: () => "has ended",
  muted: () => "is muted",
  silent_input: (t) => `has been silent for ${t}: nothing but zeros. Is it muted or unplugged?`,
  cancelled: (t) => `has been silent for ${t}: its channels cancel each other. One of them is inverted`,
  stuck: (t) => `has delivered one constant value for ${t}`,
  lost: (t, why) => `has been missing for ${t}; searching for it${bracketed(why)}`,
  recovering: (t, why) => `has been reopening for ${t}${bracketed(why)}`,
  failed: (_, why) => `cannot be opened${bracketed(why)}`,
};
const bracketed = (why) => (why ? ` (${why})` : "");

/** The state of a source as a sentence; `why` is the reason that the pipeline gives, if any. */
export function sourceState(name, state, seconds, why) {
  const other = (t) => `has been ${readable(state)} for ${t}${bracketed(why)}`;
  const text = `${name} ${(SOURCES[state] ?? other)(duration(seconds), why)}`;
  return /[.?!]$/.test(text) ? text : `${text}.`;
}
const NOISY_DB = 10, NARROW_HZ = 4000, BROKEN_PER_MIN = 3, OFFSET = 0.05;

/** Why results of a room are uncertain, by the figures of its sound: one sentence, or nothing. */
export function whyUncertain(quality = {}) {
  const { snr_db: snr, bandwidth_hz: band, dropouts_per_min: dropouts, dc } = quality;
  if (dropouts >= BROKEN_PER_MIN) return `The sound breaks off ${Math.round(dropouts)} times a minute: is the network or the machine too slow?`;
  if (snr < NOISY_DB) return `The room is nearly as loud as the speech (${Math.max(0, Math.round(snr))} dB between them): speak closer to the microphone.`;
  if (band > 0 && band <= NARROW_HZ) return `The source delivers nothing above ${Math.round(band)} Hz, like a telephone.`;
  if (Math.abs(dc) > OFFSET) return `The sound has a constant offset of ${percent(Math.abs(dc))} of full scale: is the microphone or its cable broken?`;
  return "";
}

/** The quality of the sound of a room: one sentence, or nothing before it is known. */
export function soundQuality(quality = {}) {
  const { snr_db: snr, bandwidth_hz: band, dropouts_per_min: dropouts } = quality;
  if (snr === undefined) return "";
  const parts = [`${Math.max(0, Math.round(snr))} dB between its loud and its quiet parts`];
  if (band > 0) parts.push(`up to ${(band / 1000).toFixed(1)} kHz`);
  if (dropouts > 0) parts.push(`${dropouts < 1 ? "less than one dropout" : `${Math.round(dropouts)} dropouts`} a minute`);
  return `The sound has ${parts.join(", ")}.`;
}

/** The page of a `listen:ws://` source that sends a browser's microphone; empty for other sources. */
export function microphonePage(source = "", here = location.hostname) {
  const found = /^listen:ws(s?):\/\/(\[[^\]]+\]|[^:/]+):(\d+)\/(.+)$/.exec(source);
  if (!found) return "";
  const [, secure, host, port, name] = found;
  const loopback = /^(localhost|127\.[\d.]+|\[::1\])$/;
  if (loopback.test(host) && !loopback.test(here)) return ""; // it listens on its own machine only
  return `http${secure}://${["0.0.0.0", "[::]"].includes(host) ? here : host}:${port}/${name}`;
}

export const isGoodSource = (state) => ["live", "ended", "muted"].includes(state);
export const isGoodStage = (state) => state === "ready" || state === "done";

const STAGES = {
  capture: "The sound input", features: "The feature stage", infer: "The model stage",
  record: "The recorder", history: "The history writer", alerts: "The sender of alerts", review: "The keeper of sound for the review", dashboard: "The page's server",
};
const STAGE_STATES = {
  starting: "is starting", waiting: "is waiting for its start", failed: "has failed",
  restarting: "stopped unexpectedly and is restarting",
};

/** A stage that is not ready, as a sentence. */
export function stageFault(name, state, seconds) {
  const [kind, worker] = name.split("/");
  const subject = `${STAGES[kind] ?? `The stage ${kind}`}${worker ? ` ${worker}` : ""}`;
  return `${subject} ${STAGE_STATES[state] ?? `is ${readable(state)}`} (${duration(seconds)}).`;
}

export const STATUS = {
  fresh: ["tick", "Live"],
  degraded: ["up", "Degraded"],
  stale: ["square", "Stale"],
  gone: ["cross", "No data"],
  waiting: ["half", "Connecting"],
};
