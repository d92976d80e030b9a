// The state of the page: connection, streams, health. No drawing.

import { ROW } from "./charts.js";

export const RECENT_S = 300;
const ROWS = 4000;
export const TRAIL_S = 120; // of the small chart of a tab
const TRAIL = 500; // its rows
export const LISTED = 60; // utterances in the list

export const state = {
  connection: "waiting", offset: 0, history: false, streams: new Map(),
  health: null, statuses: new Map(), chosen: null,
  stageSince: new Map(), // stage → its state and since when it has that state
  canMute: false, // whether the page's server can mute the pipeline
  noData: null, // what to do while no current data arrives; null while it arrives
};

/** Unix time by the server's clock; the clock of the browser's device may be wrong. */
export const now = () => Date.now() / 1000 + state.offset;

export const chosenStream = () => state.streams.get(state.chosen) ?? null;

export function newStream(name) {
  return {
    name, info: null, labels: [], rows: [], utterances: [], bundle: "", loaded: false,
    row: null, stateSince: 0, source: null, unsure: false, trail: [],
    late: new Set(), // per request for the last minutes: what has arrived since it was sent
  };
}

/** Drop the rows and utterances of a stream that are too old or too many. */
export function prune(stream) {
  const oldest = now() - RECENT_S - 5;
  while (stream.rows.length > ROWS || stream.rows[0]?.[ROW.time] < oldest) stream.rows.shift();
  while (stream.utterances.length > LISTED) stream.utterances.shift();
}

export function setStatuses(statuses) {
  state.statuses = new Map(statuses.map((status) => [status.stream, status]));
}

/** Store the health message, and note since when each stage has its state. */
export function setHealth(health) {
  state.health = health;
  for (const stage of health.stages) {
    if (state.stageSince.get(stage.name)?.state !== stage.state) {
      state.stageSince.set(stage.name, { state: stage.state, since: now() });
    }
  }
}

/** A result as a row of the charts. */
const rowOf = (result) => [
  result.seq, result.time ?? now(), (result.end - result.start) / result.rate, result.state, result.emotion,
  result.confidence, result.reason, Math.round(result.rms_db * 10) / 10, result.lost,
  result.smoothed && Object.values(result.smoothed), result.dimensions ?? null,
];

/** An utterance as the list shows it. */
const spanOf = (utterance) => ({
  ...utterance, time: utterance.time ?? now(), seconds: (utterance.end - utterance.start) / utterance.rate,
});

/** Store a result; false if it is older than the newest one. */
export function addResult(stream, result) {
  if (stream.run !== result.run) stream.nextSeq = -1;
  if (result.seq < stream.nextSeq) return false;
  stream.run = result.run;
  stream.nextSeq = result.seq + 1;
  stream.bundle = result.bundle;
  if (result.smoothed) stream.labels = Object.keys(result.smoothed);
  stream.row = rowOf(result);
  stream.trail.push(stream.row);
  while (stream.trail.length > TRAIL || stream.trail[0][ROW.time] < stream.row[ROW.time] - TRAIL_S) stream.trail.shift();
  if (result.state === "speech") stream.unsure = result.emotion === "uncertain";
  stream.totalMs = result.timing_ms?.total ?? null;
  stream.baseline = result.baseline;
  for (const late of stream.late) late.rows.push(stream.row);
  if (stream.loaded) {
    stream.rows.push(stream.row);
    prune(stream);
  }
  return true;
}

/** Store an utterance. */
export function addUtterance(stream, utterance) {
  const span = spanOf(utterance);
  for (const late of stream.late) late.utterances.push(span);
  stream.utterances.push(span);
  prune(stream);
}
