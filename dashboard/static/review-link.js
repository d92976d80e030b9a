// The link to the review, and that sound is kept: people who look at the page must know.

import { $, setText } from "./dom.js";
import { t } from "./text.js";

export function drawReviewLink(mode = "off") {
  $("review-link").hidden = mode === "off";
  setText($("review-link"), t(mode === "queue" ? "review.kept" : "review"));
}
