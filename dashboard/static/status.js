// The status: one word at the top right, and a sentence if something is wrong.

import { announce } from "./announcer.js";
import { ROW } from "./charts.js";
import { $, setIcon, setText } from "./dom.js";
import { drawPresent } from "./present.js";
import { known, t } from "./text.js";
import { chosenStream, now, state } from "./state.js";
import { drawTab } from "./tabs.js";
import * as words from "./words.js";

let announced = "waiting";

export function drawStatus() {
  const status = state.statuses.get(state.chosen ?? "") ?? state.statuses.get("");
  let name = status?.state ?? "waiting";
  let reason = status?.reason ?? "";
  if (state.connection === "closed") {
    name = "gone";
    reason = t("lost_connection");
  } else if (state.connection === "quiet") {
    name = "stale";
    reason = t("server_quiet");
  }
  const stage = state.health?.stages.find((one) => !words.isGoodStage(one.state));
  if (stage && name !== "gone" && name !== "fresh") {
    reason = words.stageFault(stage.name, stage.state, now() - state.stageSince.get(stage.name).since);
  }
  const stream = chosenStream();
  const ended = stream?.source?.state === "ended" && name === "stale";
  let [shape, word] = [words.STATUS[name] ?? "ring", known(`status.${name}`) ?? words.readable(name)];
  if (state.connection === "closed") word = t("status.closed");
  if (ended) [shape, word] = ["square", t("ended")];
  const muted = name === "fresh" && stream?.source?.state === "muted";
  if (muted) [shape, word] = ["muted", t("muted")];
  const old = name === "stale" || name === "gone";
  const age = stream?.row ? now() - stream.row[ROW.time] : 0;
  if (old && age > 0) reason += `${reason && !reason.endsWith(".") ? "." : ""} ${t("values_old", { time: words.duration(age) })}`;
  $("pill").dataset.state = ended ? "ended" : muted ? "muted" : name;
  setText($("pill").querySelector("span"), word);
  setIcon($("pill"), shape);
  document.body.classList.toggle("old", old);
  state.noData = old && !ended ? advice(name, stage) : null;
  if (stream) drawPresent(stream, ended);
  for (const one of state.streams.values()) drawTab(one);
  $("banner").hidden = !(reason && name !== "fresh");
  $("banner").dataset.state = name;
  setText($("banner"), words.sentence(reason));
  if (announced !== name) {
    if (announced !== "waiting" || name !== "fresh") announce(`${word}. ${words.readable(reason)}`);
    announced = name;
  }
}

/** What to do while no current data arrives. */
function advice(name, stage) {
  if (state.connection === "closed") return t("advice.closed");
  if (name === "gone") return t("advice.gone");
  return t(stage ? "advice.stage" : "advice.source");
}
