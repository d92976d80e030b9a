// The card "All utterances": a list of the history, by label and stream, page by page.

import { $, element, setText } from "../dom.js";
import { ask } from "../network/api.js";
import { utteranceItem } from "../past.js";
import { refusal } from "../refusal.js";
import { chosenStream, state } from "../state.js";
import { t } from "../text.js";
import * as words from "../words.js";

const view = { next: null, asked: 0, labels: "" };

/** Offer the labels of all streams; the choice stays. */
function drawLabels() {
  const labels = [...new Set([...state.streams.values()].flatMap((stream) => stream.info?.labels ?? stream.labels)), "uncertain"];
  if (view.labels === String(labels)) return;
  view.labels = String(labels);
  const chosen = $("spoken-label").value;
  $("spoken-label").replaceChildren(element("option", { value: "" }, t("spoken.each")),
    ...labels.map((label) => element("option", { value: label }, words.labelName(label))));
  $("spoken-label").value = labels.includes(chosen) ? chosen : "";
}

/** Read the list again, or what is older than its end. */
async function read(older = false) {
  if (!state.history || !$("spoken").open) return;
  drawLabels();
  $("spoken-stream").parentElement.hidden = state.streams.size < 2;
  const asked = ++view.asked;
  const stream = $("spoken-stream").value === "all" ? null : state.chosen;
  const response = await ask("utterance-list", {
    from: 0, stream, label: $("spoken-label").value || null, before: older ? view.next : null, limit: 50,
  });
  if (asked !== view.asked) return;
  if (!response?.ok) {
    setText($("spoken-none"), await refusal(response));
    $("spoken-none").hidden = false;
    return;
  }
  const found = await response.json();
  const labels = chosenStream()?.labels ?? [];
  const items = found.rows.map((one) => utteranceItem(one, labels, stream === null ? one.stream : ""));
  if (older) $("spoken-list").append(...items);
  else $("spoken-list").replaceChildren(...items);
  view.next = found.next;
  $("spoken-older").hidden = found.next === null;
  setText($("spoken-none"), t("spoken.none"));
  $("spoken-none").hidden = $("spoken-list").children.length > 0;
}

/** Another stream was chosen. */
export const refreshList = () => read();

$("spoken").addEventListener("toggle", () => read());
$("spoken-filter").addEventListener("change", () => read());
$("spoken-filter").addEventListener("submit", (event) => event.preventDefault());
$("spoken-older").addEventListener("click", () => read(true));
