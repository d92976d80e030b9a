// The page of a fleet: each box and what is wrong with it, the worst first.

import { announce } from "../announcer.js";
import { $, element, icon, setIcon, setText } from "../dom.js";
import { Connection } from "../network/connection.js";
import { known, moment, t } from "../text.js";
import { duration, readable } from "../words.js";

/** Shape and colour of each kind of fault. */
const STYLES = {
  no_contact: ["cross", "--bad"], no_sound: ["square", "--bad"], muted: ["muted", "--muted"],
  other_bundle: ["half", "--warn"], other_version: ["diamond", "--warn"], losses: ["down", "--bad"],
};
const OTHER = ["up", "--warn"]; // a kind of a newer centre

let state = null; // the newest answer
let offset = 0; // of the server's clock in seconds
let connected = false;
let shown = ""; // what the table is made of

const now = () => Date.now() / 1000 + offset;

function draw() {
  drawPill();
  drawBanner();
  const boxes = state?.boxes ?? [];
  $("table").hidden = !boxes.length;
  $("hint").hidden = boxes.length > 0;
  if (state?.boxes) setText($("hint"), t("fleet.empty"));
  const made = JSON.stringify(boxes);
  if (made !== shown) $("table").tBodies[0].replaceChildren(...boxes.map(rowOf));
  shown = made;
  for (const node of document.querySelectorAll("[data-since]")) {
    const since = Number(node.dataset.since);
    setText(node, t("fleet.since", { time: moment(since), length: duration(now() - since) }));
  }
}

function rowOf(box) {
  const faults = box.faults.map(faultOf);
  const fine = element("li", {}, icon("tick"), element("b", {}, t("all_well")));
  fine.style.setProperty("--c", "var(--good)");
  return element("tr", {},
    element("th", { scope: "row" }, box.box, " ", element("small", {}, box.site)),
    element("td", {}, element("ul", {}, ...(faults.length ? faults : [fine]))),
    element("td", { "data-name": t("model") }, box.bundles.join(", ") || "–"),
    element("td", { "data-name": t("fleet.version") }, box.version ?? "–"));
}

function faultOf({ kind, detail, since }) {
  const key = kind.replaceAll(" ", "_");
  const [shape, colour] = STYLES[key] ?? OTHER;
  const item = element("li", {}, icon(shape),
    element("span", {}, element("b", {}, known(`fleet.is.${key}`) ?? readable(kind)), detail && `: ${detail}`,
      ...(since === null ? [] : [element("br"), element("small", { "data-since": String(since) })])));
  item.style.setProperty("--c", `var(${colour})`);
  return item;
}

function drawPill() {
  const boxes = state?.boxes;
  const bad = boxes?.filter((box) => box.faults.length).length;
  const asked = connected && !boxes && !state?.error;
  const [name, shape, text] = !state || asked ? ["waiting", "half", t("status.waiting")]
    : !connected ? ["gone", "cross", t("status.closed")]
    : state.error ? ["stale", "square", t("fleet.no_answer")]
    : bad ? ["degraded", "up", t("fleet.count", { bad, n: boxes.length })]
    : ["fresh", "tick", boxes.length ? t("all_well") : t("fleet.none")];
  if ($("pill").dataset.text !== text && state) announce(text);
  Object.assign($("pill").dataset, { state: name, text });
  setIcon($("pill"), shape);
  setText($("pill").querySelector("span"), text);
}

function drawBanner() {
  const text = !state || connected ? state?.error && t("fleet.error", { why: state.error }) : t("lost_connection");
  $("banner").hidden = !text;
  const age = state?.answered ? t("fleet.age", { time: duration(now() - state.answered) }) : "";
  if (text) setText($("banner"), `${text} ${age}`.trim());
}

new Connection((kind, message) => {
  state = message;
  offset = message.now - Date.now() / 1000;
  connected = true;
  draw();
}, (name) => {
  if (name === "login") location.reload();
  connected = name === "open";
  draw();
});
setInterval(draw, 1000);
