// The status: one word at the top right, and a sentence if something is wrong.

import { announce } from "./announcer.js";
import { ROW } from "./charts.js";
import { $, setIcon, setText } from "./dom.js";
import { chosenStream, now, state } from "./state.js";
import * as words from "./words.js";

let announced = "waiting";

export function drawStatus() {
  const status = state.statuses.get(state.chosen ?? "") ?? state.statuses.get("");
  let name = status?.state ?? "waiting";
  let reason = status?.reason ?? "";
  if (state.connection === "closed") {
    name = "gone";
    reason = "The page has lost the connection to its server and reconnects.";
  } else if (state.connection === "quiet") {
    name = "stale";
    reason = "The page's server does not send.";
  }
  const stream = chosenStream();
  const ended = stream?.source?.state === "ended" && name === "stale";
  let [shape, word] = words.STATUS[name] ?? ["ring", words.readable(name)];
  if (state.connection === "closed") word = "Disconnected";
  if (ended) [shape, word] = ["square", "Ended"];
  const old = name === "stale" || name === "gone";
  const age = stream?.row ? now() - stream.row[ROW.time] : 0;
  if (old && age > 0) reason += `${reason && !reason.endsWith(".") ? "." : ""} The values shown are ${words.duration(age)} old.`;
  $("pill").dataset.state = ended ? "ended" : name;
  setText($("pill").querySelector("span"), word);
  setIcon($("pill"), shape);
  document.body.classList.toggle("old", old);
  $("banner").hidden = !(reason && name !== "fresh");
  $("banner").dataset.state = name;
  setText($("banner"), words.readable(reason));
  if (announced !== name) {
    if (announced !== "waiting" || name !== "fresh") announce(`${word}. ${words.readable(reason)}`);
    announced = name;
  }
}
