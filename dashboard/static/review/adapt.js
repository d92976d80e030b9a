// The card "Adapt the model": labels so far, adaptation, before and after, rollback.

import { announce } from "../announcer.js";
import { $, element, setText } from "../dom.js";
import { refusal } from "../refusal.js";
import { known, t } from "../text.js";
import * as words from "../words.js";

let running = false; // a task that this page has seen running

export function handleAdaptation(post, refresh) {
  for (const [id, path] of [["adapt", "review/adapt"], ["rollback", "review/rollback"]]) {
    $(id).addEventListener("click", async () => {
      $(id).disabled = true;
      const response = await post(path);
      if (!response?.ok) showText("failed", words.sentence(await refusal(response)));
      await refresh();
    });
  }
}

export function drawAdaptation(review) {
  const counts = Object.entries(review.labels);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  const each = counts.map(([label, count]) => `${words.labelName(label)} ${count}`).join(", ");
  const more = review.needed - total;
  const state = [each ? t("review.labels.each", { n: total, list: each }) : t("review.labels", { n: total }),
    more > 0 ? t("review.labels.needed", { n: more }) : t("review.labels.enough")];
  if (review.adapted) state.push(t("review.adapted", { id: review.adapted }));
  setText($("labels"), state.join(" "));
  const busy = review.task?.state === "running";
  $("adapt").disabled = busy || more > 0;
  $("rollback").hidden = review.adapted === null;
  $("rollback").disabled = busy;
  if (review.task) drawTask(review.task);
}

function drawTask(task) {
  const text = task.state === "running" ? known(`review.task.${task.name}`) ?? task.name : words.sentence(task.text);
  if (running && task.state !== "running") announce(text);
  running = task.state === "running";
  showText(task.state, text);
  const rows = task.gain ? gainRows(task.gain, task.gain_of_present ? "review.gain.against.plain" : null) : [];
  if (task.gain_of_present) rows.push(...gainRows(task.gain_of_present, "review.gain.against.present"));
  $("gain").hidden = rows.length === 0;
  if ($("gain").dataset.key !== JSON.stringify(task)) $("gain").querySelector("tbody").replaceChildren(...rows);
  $("gain").dataset.key = JSON.stringify(task);
}

function showText(state, text) {
  $("task").hidden = false;
  $("task").dataset.state = state;
  setText($("task"), text);
}

const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

/** A row for the emotions that are recognized and one for the cross-entropy. */
function gainRows(gain, against) {
  const name = (what) => (against ? t(against, { what: t(what) }) : t(what));
  const points = (value) => signed(100 * value, 1);
  return [
    gainRow(name("review.gain.recognized"), words.percent(gain.recall_before), words.percent(gain.recall_after),
      t("review.gain.points", { gain: points(gain.recall_after - gain.recall_before), from: points(gain.recall_interval[0]), to: points(gain.recall_interval[1]) })),
    gainRow(name("review.gain.loss"), `${gain.loss_before.toFixed(3)} nats`, `${gain.loss_after.toFixed(3)} nats`,
      t("review.gain.difference", { gain: signed(gain.loss_before - gain.loss_after, 3), from: signed(gain.loss_interval[0], 3), to: signed(gain.loss_interval[1], 3) })),
  ];
}

const gainRow = (name, before, after, gain) => element("tr", {},
  element("th", { scope: "row" }, name),
  element("td", { "data-name": t("review.gain.before") }, before), element("td", { "data-name": t("review.gain.after") }, after),
  element("td", { "data-name": t("review.gain.gain") }, gain));
