// Three steps for the first visit: what the page shows, and where to ask more.

import { announce } from "../announcer.js";
import { $, remember, remembered, setText } from "../dom.js";
import { t } from "../text.js";

const STEPS = ["emotion", "past-title", "help-open"];
let step = 0;

function show() {
  document.querySelector(".pointed")?.classList.remove("pointed");
  $("tour").hidden = step >= STEPS.length;
  if (step >= STEPS.length) {
    remember("tour", "seen");
    return;
  }
  $(STEPS[step]).classList.add("pointed");
  setText($("tour-text"), t(`tour.${step + 1}`));
  setText($("tour-count"), t("tour.count", { n: step + 1, all: STEPS.length }));
  setText($("tour-next"), t(step + 1 < STEPS.length ? "tour.next" : "tour.end"));
}

export function startTour() {
  step = 0;
  show();
  $("tour-next").focus();
}

$("tour-next").addEventListener("click", () => {
  step += 1;
  show();
  if (!$("tour").hidden) announce($("tour-text").textContent);
});
$("tour-skip").addEventListener("click", () => {
  step = STEPS.length;
  show();
});
if (!remembered("tour")) show();
