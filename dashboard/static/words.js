// Words, shapes and colours of labels and states. Both are open lists: a label or state of a newer
// pipeline gets a text, a shape and a colour as well.

import { known, t, tenths } from "./text.js";

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

export const readable = (word) => String(word ?? "").replaceAll("_", " ");
export const sentence = (text) => readable(text).replace(/^\p{Ll}/u, (letter) => letter.toUpperCase());
export const labelName = (label) => known(`label.${label}`) ?? readable(label);
export const stateName = (state) => known(`state.${state}`) ?? readable(state);
export const reasonText = (reason) => known(`reason.${reason}`) ?? readable(reason);

export const percent = (value) => `${Math.round(value * 100)} %`;

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return t("days", { n: Math.round(s / 86400) });
}

/** How far a stream is adapted to its room; `seconds` of speech, empty where it has no baseline. */
export function adaptation(seconds) {
  if (typeof seconds !== "number") return "";
  return seconds ? t("adapted", { time: duration(seconds) }) : t("not_adapted");
}

const NAMED = ["mic", "pipewire", "file", "replay", "stdin", "wyoming", "watch", "listen", "ffmpeg"];

/** The configured source as a text. */
export function sourceName(source = "") {
  const [kind, ...rest] = source.split(":");
  let name = rest.join(":");
  if (kind === "file" || kind === "replay") name = name.split("/").filter(Boolean).pop();
  if (NAMED.includes(kind)) return name || !known(`source.${kind}.alone`) ? t(`source.${kind}`, { name }) : t(`source.${kind}.alone`);
  if (name.startsWith("//")) return t("source.network", { name: source });
  return source ? t("source.other", { name: source }) : t("source");
}

const bracketed = (why) => (why ? ` (${why})` : "");

/** The state of a source as a sentence; `why` is the reason that the pipeline gives, if any. */
export function sourceState(name, state, seconds, why) {
  const key = state === "live" && why ? "is.live.but" : known(`is.${state}`) ? `is.${state}` : "is.other";
  const text = t(key, { name, state: readable(state), time: duration(seconds), why, bracket: bracketed(why) });
  return /[.?!]$/.test(text) ? text : `${text}.`;
}
const NOISY_DB = 10, NARROW_HZ = 4000, BROKEN_PER_MIN = 3, OFFSET = 0.05;

/** Why results of a room are uncertain, by the figures of its sound: one sentence, or nothing. */
export function whyUncertain(quality = {}) {
  const { snr_db: snr, bandwidth_hz: band, dropouts_per_min: dropouts, dc } = quality;
  if (dropouts >= BROKEN_PER_MIN) return t("sound.breaks", { n: Math.round(dropouts) });
  if (snr < NOISY_DB) return t("sound.noisy", { n: Math.max(0, Math.round(snr)) });
  if (band > 0 && band <= NARROW_HZ) return t("sound.narrow", { n: Math.round(band) });
  if (Math.abs(dc) > OFFSET) return t("sound.offset", { p: percent(Math.abs(dc)) });
  return "";
}

/** The quality of the sound of a room: one sentence, or nothing before it is known. */
export function soundQuality(quality = {}) {
  const { snr_db: snr, bandwidth_hz: band, dropouts_per_min: dropouts } = quality;
  if (snr === undefined) return "";
  const parts = [t("sound.range", { n: Math.max(0, Math.round(snr)) })];
  if (band > 0) parts.push(t("sound.band", { n: tenths(band / 1000) }));
  if (dropouts > 0) parts.push(dropouts < 1 ? t("sound.dropout") : t("sound.dropouts", { n: Math.round(dropouts) }));
  return t("sound.has", { list: parts.join(", ") });
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

/** A stage that is not ready, as a sentence. */
export function stageFault(name, state, seconds) {
  const [kind, worker] = name.split("/");
  const stage = known(`stage.${kind}`) ?? t("stage", { name: kind });
  const subject = worker ? `${stage} ${worker}` : stage;
  const key = known(`stage.is.${state}`) ? `stage.is.${state}` : "stage.is.other";
  return t(key, { name: subject, state: readable(state), time: duration(seconds) });
}

/** Symbol of a freshness; its word is `status.NAME`. */
export const STATUS = { fresh: "tick", degraded: "up", stale: "square", gone: "cross", waiting: "half" };
