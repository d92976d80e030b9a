// What is said, and in which shape and colour: labels and states are open lists, so that whatever
// a newer pipeline says still gets a word, a shape and a colour.

const LOOKS = {
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

/** Shape and CSS colour of a label; others than the known ones take what is free in their set. */
export function look(label, labels = []) {
  if (label === "uncertain") return { shape: "ring", colour: "var(--muted)" };
  if (LOOKS[label]) return { shape: LOOKS[label][0], colour: `var(--e-${LOOKS[label][1]})` };
  const taken = new Set(labels.filter((l) => LOOKS[l]).map((l) => LOOKS[l][1]));
  const others = labels.filter((l) => !LOOKS[l]);
  const free = COLOURS.map((colour, n) => [SHAPES[n], colour]).filter(([, c]) => !taken.has(c));
  const pool = free.length ? free : COLOURS.map((colour, n) => [SHAPES[n], colour]);
  const [shape, colour] = pool[Math.max(0, others.indexOf(label)) % pool.length];
  return { shape, colour: `var(--e-${colour})` };
}

const DOUBTS = {
  low_margin: "no emotion is likely enough",
  too_short: "speech has only begun",
  too_quiet: "too quiet to judge",
  clipped: "the sound is clipped",
  model_error: "the model gave no answer",
  not_speech: "it does not sound like speech",
  non_speech: "it does not sound like speech",
};
export const plain = (word) => String(word ?? "").replaceAll("_", " ");
export const doubt = (reason) => DOUBTS[reason] ?? plain(reason);

export const percent = (value) => `${Math.round(value * 100)} %`;

export function lasted(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

/** Where sound comes from, in words; as configured. */
export function sourceName(source = "") {
  const [kind, ...rest] = source.split(":");
  const name = rest.join(":");
  if (kind === "mic") return name ? `The microphone “${name}”` : "The microphone";
  if (kind === "file") return `The recording ${name.split("/").pop()}`;
  if (kind === "replay") return `The replay of ${name.split("/").filter(Boolean).pop()}`;
  if (kind === "stdin") return "The sound on standard input";
  return source ? `The source ${source}` : "The source";
}

const SOURCES = {
  starting: () => "is starting",
  live: (_, why) => (why ? `is live, but ${why}` : "is live"),
  ended: () => "has come to its end",
  silent_input: (t) => `has been silent for ${t}: nothing but zeros. Is it muted or unplugged?`,
  stuck: (t) => `has given one and the same value for ${t}`,
  lost: (t, why) => `has been away for ${t}; it is looked for${bracketed(why)}`,
  recovering: (t, why) => `is being opened anew since ${t}${bracketed(why)}`,
  failed: (_, why) => `cannot be opened any more${bracketed(why)}`,
};
const bracketed = (why) => (why ? ` (${why})` : "");

/** A source in a sentence; `why` are the pipeline's own words, or nothing. */
export function sourceState(name, state, seconds, why) {
  const other = (t) => `is ${plain(state)} since ${t}${bracketed(why)}`;
  const text = `${name} ${(SOURCES[state] ?? other)(lasted(seconds), why)}`;
  return /[.?!]$/.test(text) ? text : `${text}.`;
}
export const fineSource = (state) => state === "live" || state === "ended";
export const fineStage = (state) => state === "ready" || state === "done";

export const STATUS = {
  fresh: ["tick", "Live"],
  degraded: ["up", "Degraded"],
  stale: ["square", "Stale"],
  gone: ["cross", "Nothing heard"],
  waiting: ["half", "Connecting"],
};
