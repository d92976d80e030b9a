// Mute: the button in the header, and the dialog that asks for how long.

import { announce } from "./announcer.js";
import { $, setText } from "./dom.js";
import { ask as request } from "./network/api.js";
import { refusal } from "./refusal.js";
import { state } from "./state.js";
import { t } from "./text.js";
import * as words from "./words.js";

let drawn = null; // the text of the mute that is shown; null before the first message

const byHand = () => state.health?.mute?.by.includes("hand") ?? false;

/** Draw the button: `Unmute` for a mute by hand; switch and quiet hours have none. */
export function drawMute() {
  const mute = state.health?.mute ?? null;
  $("mute").hidden = !state.canMute || (mute !== null && !byHand());
  setText($("mute"), t(byHand() ? "unmute" : "mute"));
  const text = mute?.text ?? "";
  if (drawn !== null && drawn !== text) announce(words.sentence(text || t("unmuted")));
  drawn = text;
}

/** Ask the pipeline; a refusal is announced and shown on the button's title. */
async function ask(muted, seconds = null) {
  $("mute").disabled = true;
  const response = await request("mute", {}, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ muted, seconds }),
  });
  $("mute").disabled = false;
  const text = response?.ok ? (await response.json()).text : await refusal(response);
  $("mute").title = words.sentence(text);
  announce(words.sentence(text));
}

$("mute").addEventListener("click", () => {
  if (byHand()) ask(false);
  else $("mute-dialog").showModal();
});
$("mute-dialog").addEventListener("close", () => {
  const choice = $("mute-dialog").returnValue;
  $("mute-dialog").returnValue = "";
  if (choice === "always") ask(true);
  else if (Number(choice) > 0) ask(true, Number(choice));
});
$("mute-dialog").addEventListener("click", (event) => {
  if (event.target === $("mute-dialog")) $("mute-dialog").close();
});
