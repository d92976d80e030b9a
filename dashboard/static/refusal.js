// Why the server gives no answer, in words.

import { t } from "./text.js";

export async function refusal(response) {
  if (response === null) return t("no_answer");
  const text = await response.text();
  try {
    return JSON.parse(text).error;
  } catch {
    return text.trim(); // a proxy has answered
  }
}
