// The link to the review, and that sound is kept: people who look at the page must know.

import { $, setText } from "./dom.js";

const TEXTS = { "on request": "Review", queue: "Review (sound is kept)" };

export function drawReviewLink(mode = "off") {
  $("review-link").hidden = mode === "off";
  setText($("review-link"), TEXTS[mode] ?? "Review");
}
