// The review: utterances whose sound is kept, a player and a button per label for each.

import { announce } from "../announcer.js";
import { $, element, setText } from "../dom.js";
import * as api from "../network/api.js";
import { drawAdaptation, handleAdaptation } from "./adapt.js";
import { refusal } from "../refusal.js";
import { clock, t, tenths } from "../text.js";
import * as words from "../words.js";

const TURN_MS = 1000;
const ARRIVAL_MS = 6000; // from a click on Keep until the sound must be there

const pending = new Map(); // id → label that the server has not confirmed yet
const saving = new Set(); // ids whose label is on its way
const wanted = new Map(); // key → time of the click on Keep

const key = (one) => `${one.stream} ${one.run} ${one.seq}`;

/** Send a request; the response, or null where the server does not answer. */
const post = (path, body) => api.ask(path, {}, {
  method: "POST", headers: { "content-type": "application/json" }, body: body && JSON.stringify(body),
});

function guess(one) {
  const values = Object.entries(one.probabilities).sort((a, b) => b[1] - a[1]);
  return values.slice(0, 2).map(([label, p]) => `${words.labelName(label)} ${words.percent(p)}`).join(", ");
}

function title(one) {
  const time = one.time === null ? "" : `${clock(one.time)} · `;
  return `${time}${one.stream} · ${tenths(one.seconds)} s`;
}

// Judge -------------------------------------------------------------------------------------------

function keptRow(one) {
  const name = title(one);
  const labels = Object.keys(one.probabilities);
  const guessed = labels.includes(one.emotion) ? one.emotion : null;
  const buttons = [guessed, ...labels.filter((label) => label !== guessed)].filter((label) => label !== null).map((label) => {
    const button = element("button", { type: "button" }, label === guessed ? t("review.right", { label: words.labelName(label) }) : words.sentence(words.labelName(label)));
    button.addEventListener("click", () => judge(one.id, label));
    return button;
  });
  const discard = element("button", { type: "button" }, t("review.cannot"));
  discard.addEventListener("click", () => judge(one.id, null));
  const why = t(one.asked ? "review.asked" : "review.queued");
  return element("li", { "data-id": one.id },
    element("p", {}, name, " ", element("small", {}, t("review.says", { label: words.labelName(one.emotion), guess: guess(one), why }))),
    element("audio", { controls: "", preload: "none", src: api.address("review/sound", { id: one.id }), "aria-label": t("review.sound_of", { name }) }),
    element("p", { class: "choices", role: "group", "aria-label": t("review.hear_in", { name }) }, ...buttons, discard),
    element("p", { class: "why", role: "status" }));
}

/** Give a label; it is sent again until the server answers. */
function judge(id, label) {
  pending.set(id, label);
  save(id);
}

async function save(id) {
  if (saving.has(id)) return;
  saving.add(id);
  try {
    await send(id);
  } finally {
    saving.delete(id);
  }
}

async function send(id) {
  const label = pending.get(id);
  const node = $("kept").querySelector(`[data-id="${id}"]`);
  if (node) {
    node.dataset.saving = "";
    for (const button of node.querySelectorAll("button")) button.disabled = true;
  }
  const response = await post("review/label", { id, label });
  if (response === null || response.status >= 500) {
    if (node) setText(node.querySelector(".why"), words.sentence(t("review.unsaved", { why: await refusal(response) })));
    return;
  }
  pending.delete(id);
  if (response.ok) announce(label === null ? t("review.deleted") : t("review.saved", { label: words.labelName(label) }));
  else announce(words.sentence(await refusal(response)));
  if (node) focusAfter(node);
  await refresh();
}

/** Remove a row; a person with a keyboard goes on with the next one. */
function focusAfter(node) {
  const next = node.nextElementSibling ?? node.previousElementSibling;
  const focused = node.contains(document.activeElement) || document.activeElement === document.body;
  node.remove();
  if (focused) (next?.querySelector("audio") ?? $("review")).focus();
}

/** Draw the rows that are new and remove those that are gone: a player that plays stays. */
function drawKept(list) {
  const ids = new Set(list.map((one) => String(one.id)));
  const there = new Map([...$("kept").children].map((node) => [node.dataset.id, node]));
  for (const [id, node] of there) if (!ids.has(id)) node.remove();
  const busy = [...$("kept").children].some((node) => node.contains(document.activeElement) || !node.querySelector("audio").paused);
  list.forEach((one, place) => {
    const node = there.get(String(one.id)) ?? keptRow(one);
    // A row that is moved would lose the focus and stop its player.
    if (!node.isConnected && busy) $("kept").append(node);
    else if (!busy && $("kept").children[place] !== node) $("kept").insertBefore(node, $("kept").children[place] ?? null);
    wanted.delete(key(one));
  });
  $("no-kept").hidden = list.length > 0;
}

// Keep --------------------------------------------------------------------------------------------

async function keep(one) {
  const { stream, run, seq } = one;
  wanted.set(key(one), performance.now());
  const response = await post("review/keep", { stream, run, seq });
  if (response?.ok) announce(t("review.keeping"));
  else {
    wanted.delete(key(one));
    announce(words.sentence(await refusal(response)));
  }
  await refresh();
}

function recentRow(one) {
  const name = title(one);
  const button = element("button", { type: "button", "aria-label": t("review.keep_of", { name }) }, t("review.keep"));
  button.addEventListener("click", () => keep(one));
  return element("li", { "data-key": key(one) },
    element("p", {}, name, " ", element("small", {})),
    button);
}

function drawRecent(list, muted) {
  for (const [name, time] of wanted) if (performance.now() - time > ARRIVAL_MS) {
    wanted.delete(name);
    announce(t("review.gone"));
  }
  const rows = list.filter((one) => !wanted.has(key(one)));
  const there = new Map([...$("recent").children].map((node) => [node.dataset.key, node]));
  const nodes = rows.map((one) => {
    const node = there.get(key(one)) ?? recentRow(one);
    setText(node.querySelector("small"), t("review.says.left", { label: words.labelName(one.emotion), guess: guess(one), left: Math.ceil(one.left_s) }));
    return node;
  });
  for (const node of [...$("recent").children]) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, place) => $("recent").children[place] === node || $("recent").insertBefore(node, $("recent").children[place] ?? null));
  setText($("no-recent"), t(muted ? "review.recent.muted" : "review.recent.none"));
  $("no-recent").hidden = rows.length > 0;
}

// The whole page ----------------------------------------------------------------------------------

function noticeOf(review) {
  if (review.mode === "off") return t("review.off");
  return t(review.mode === "queue" ? "review.notice.queue" : "review.notice.asked", { n: review.queue, hours: review.hours });
}

async function refresh() {
  const response = await api.ask("review", {}, { cache: "no-store" });
  if (!response?.ok) {
    setText($("notice"), words.sentence(await refusal(response)));
    return;
  }
  const review = await response.json();
  for (const name of ["recent-card", "kept-card", "adapt-card"]) $(name).hidden = review.mode === "off";
  setText($("notice"), noticeOf(review));
  drawKept(review.kept);
  drawRecent(review.keepable, review.muted);
  drawAdaptation(review);
}

async function turn() {
  for (const id of pending.keys()) await save(id);
  if (!document.hidden) await refresh();
  setTimeout(turn, TURN_MS);
}

document.title = t("review.title");
handleAdaptation(post, refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
turn();
