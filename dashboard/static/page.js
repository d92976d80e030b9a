// The page: handles the messages of the feed and draws what they change.

import { drawAlerts } from "./alerts.js";
import { announce } from "./announcer.js";
import { refreshDays, showDays } from "./days/card.js";
import { refreshList } from "./days/list.js";
import { $, setText } from "./dom.js";
import "./guide/help.js";
import { drawMute } from "./mute.js";
import { Feed } from "./network/feed.js";
import { describeCharts, drawControls, drawRecent, drawUtterances, readRecent, refreshPast, showChosenStream, showsLiveUtterances } from "./past.js";
import { drawHealth } from "./pipeline.js";
import { drawPresent, drawSource } from "./present.js";
import { drawReviewLink } from "./review-link.js";
import { addResult, addUtterance, chosenStream, newStream, now, setHealth, setStatuses, state } from "./state.js";
import { drawStatus } from "./status.js";
import { drawSparklines, drawTab, drawTabs, handleTabKeys, markChosenTab } from "./tabs.js";
import { t } from "./text.js";
import * as words from "./words.js";

function streamOf(name) {
  if (!state.streams.has(name)) {
    state.streams.set(name, newStream(name));
    drawTabs(choose);
    if (state.chosen === null) choose(name);
  }
  return state.streams.get(name);
}

function choose(name) {
  state.chosen = name;
  markChosenTab();
  const stream = chosenStream();
  if (!stream) return;
  drawPresent(stream);
  drawSource();
  showChosenStream();
  refreshDays();
  refreshList();
  loadRecent(stream);
}

const handlers = {
  state(message) {
    state.offset = message.now - Date.now() / 1000;
    state.history = message.service.history;
    state.canMute = message.service.mute;
    drawReviewLink(message.service.review);
    $("settings-link").hidden = !message.service.settings;
    setText($("endpoint"), message.service.results.startsWith("ipc:") ? "" : message.service.results);
    $("past").hidden = !state.history;
    $("no-past").hidden = state.history;
    showDays(choose);
    setStatuses(message.statuses);
    for (const one of message.streams) {
      const stream = streamOf(one.name);
      stream.info = one.info ?? stream.info;
      stream.loaded = false;
      if (one.latest) handlers.result(one.latest);
    }
    if (message.health) handlers.health(message.health);
    loadRecent(chosenStream());
    drawStatus();
    drawSource();
  },

  result(message) {
    const stream = streamOf(message.stream);
    if (!addResult(stream, message)) return;
    drawTab(stream);
    if (stream.name !== state.chosen) return;
    drawPresent(stream);
    if (stream.loaded) drawRecent();
  },

  utterance(message) {
    const stream = streamOf(message.stream);
    addUtterance(stream, message);
    if (stream.name !== state.chosen) return;
    announce(t("announce.utterance", { label: words.labelName(message.emotion), n: Math.round(message.confidence * 100) }));
    if (showsLiveUtterances()) drawUtterances();
    drawRecent();
  },

  info(message) {
    streamOf(message.stream).info = message;
    drawSource();
  },

  health(message) {
    setHealth(message);
    for (const source of message.streams) {
      const stream = streamOf(source.name);
      // A pipeline of an older version does not send `state_s`.
      if (typeof source.state_s === "number") stream.stateSince = message.time - source.state_s;
      else if (stream.source?.state !== source.state) stream.stateSince = now();
      stream.source = source;
    }
    removeUnknownStreams(message.streams.map((source) => source.name));
    drawMute();
    drawStatus();
    drawHealth();
    drawAlerts();
    drawSource();
  },

  status(message) {
    state.offset = message.now - Date.now() / 1000;
    setStatuses(message.statuses);
    drawStatus();
  },
};

/** Remove the streams that a restarted pipeline no longer has. */
function removeUnknownStreams(known) {
  if (!known.length) return;
  for (const name of [...state.streams.keys()].filter((name) => !known.includes(name))) {
    state.streams.delete(name);
    if (state.chosen === name) state.chosen = null;
    drawTabs(choose);
  }
  if (state.chosen === null) choose(known[0]);
}

/** Read and draw the last five minutes of a stream. */
async function loadRecent(stream) {
  if (!stream) return;
  await readRecent(stream);
  if (stream.name !== state.chosen) return;
  drawUtterances();
  drawRecent();
  if (!stream.row) drawPresent(stream);
}

handleTabKeys(choose);
setInterval(() => {
  drawStatus();
  drawSource();
  drawSparklines();
  refreshPast();
}, 1000);
setInterval(describeCharts, 10000);

new Feed((kind, message) => handlers[kind]?.(message), (name) => {
  if (state.connection === name) return;
  state.connection = name;
  drawStatus();
});
drawControls();
