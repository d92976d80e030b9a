// The page of the settings: read them, check each change, save, undo.

import { announce } from "../announcer.js";
import { $, element, setText } from "../dom.js";
import { ask } from "../network/api.js";
import { refusal } from "../refusal.js";
import { moment, t } from "../text.js";
import { clearErrors, controlsOf, find, makeSetting, showError } from "./setting.js";

const SECTIONS = { analysis: ["sensitivity", "baseline", "prosody"], quiet: ["mute.time_zone", "mute.quiet_hours"], alerts: ["alerts"] };
const REST = "keep";
const ZONES = "zones";

/** What is shown: the answer of the server, key → how its value is read and was at first. */
const view = { settings: null, readers: new Map(), asked: 0 };

const post = (path, body) => ask(path, {}, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function say(text) {
  setText($("outcome"), text);
  announce(text);
}

/** Key → value of what the user has changed. */
function changes() {
  const found = {};
  for (const [key, one] of view.readers) {
    const value = one.read();
    if (JSON.stringify(value) !== one.before) found[key] = value;
  }
  return found;
}

const isChanged = () => Object.keys(changes()).length > 0;

/** The names of keys, as the page shows them; a key that it does not show as it is. */
const names = (keys) => keys.map((key) => (view.settings.fields.some((one) => one.key === key) ? t(`settings.name.${key}`) : key)).join(", ");

async function load() {
  const [response, service] = await Promise.all([ask("settings"), ask("service")]);
  if (!response?.ok) {
    $("problem").hidden = false;
    setText($("problem"), await refusal(response));
    return;
  }
  view.settings = await response.json();
  draw(service?.ok ? await service.json() : null);
}

function draw(service) {
  const { settings } = view;
  $("problem").hidden = settings.problem === null;
  setText($("problem"), settings.problem === null ? "" : t("settings.problem", { why: settings.problem }));
  showWaiting(settings.waiting);
  view.readers.clear();
  for (const id of [...Object.keys(SECTIONS), REST]) $(id).replaceChildren();
  for (const field of settings.fields) {
    const list = field.key === "mute.time_zone" ? ZONES : null;
    const setting = makeSetting({ ...field, list }, settings.values[field.key], settings.problem !== null);
    const id = Object.keys(SECTIONS).find((one) => SECTIONS[one].includes(field.key)) ?? REST;
    $(id).append(setting.node);
    view.readers.set(field.key, { read: setting.read, before: JSON.stringify(setting.read()) });
  }
  $("no-history").hidden = service?.history ?? true;
  $("no-review").hidden = service === null || service.review !== "off";
  $("save").hidden = settings.problem !== null;
  $("undo").hidden = settings.undo === null;
  if (settings.undo !== null) setText($("undo"), t("settings.undo", { time: moment(settings.undo) }));
  $("file").hidden = settings.file === null;
  setText($("file"), t("settings.file", { file: settings.file }));
  $("form").hidden = settings.fields.length === 0;
}

function showWaiting(keys) {
  $("waiting").hidden = keys.length === 0;
  if (!keys.length) return;
  setText($("waiting-keys"), t("settings.waiting", { keys: names(keys) }));
  setText($("waiting-how"), t(view.settings.restart ? "settings.restart" : "settings.restart.by_hand"));
  $("restart").hidden = !view.settings.restart;
  setText($("restart"), view.settings.restart ?? "");
}

/** Show what is wrong; `touched`: only where the user was. */
function showMistake(answer, touched) {
  const node = answer.key && find($("form"), answer.key);
  if (touched && !node?.querySelector("[data-touched]")) return;
  if (!node) {
    say(answer.text);
    return;
  }
  showError(node, answer.text);
  if (touched) announce(answer.text);
  else controlsOf(node)[0]?.focus();
}

/** Check what was changed, while the user goes on. */
async function check() {
  const asked = ++view.asked;
  const changed = changes();
  setText($("outcome"), Object.keys(changed).length ? t("settings.unsaved", { keys: names(Object.keys(changed)) }) : "");
  if (!Object.keys(changed).length) {
    clearErrors($("form"));
    return;
  }
  const response = await post("settings/check", { version: view.settings.version, changes: changed });
  if (asked !== view.asked) return; // the user has changed more, or saved, meanwhile
  clearErrors($("form"));
  if (!response?.ok) say(await refusal(response));
  else {
    const answer = await response.json();
    if (!answer.ok) showMistake(answer, true);
  }
}

/** Send a change; the page is drawn again when it was written. */
async function send(path, body, done) {
  view.asked += 1;
  for (const id of ["save", "undo"]) $(id).disabled = true;
  const response = await post(path, { version: view.settings.version, ...body });
  for (const id of ["save", "undo"]) $(id).disabled = false;
  clearErrors($("form"));
  if (!response?.ok) {
    say(await refusal(response));
    return;
  }
  const answer = await response.json();
  if (!answer.ok) {
    setText($("outcome"), t("settings.refused"));
    showMistake(answer, false);
    return;
  }
  await load();
  say(t(done));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isChanged()) send("settings", { changes: changes() }, "settings.saved");
  else say(t("settings.unchanged"));
});
$("undo").addEventListener("click", () => send("settings/undo", {}, "settings.undone"));
$("form").addEventListener("change", (event) => {
  if (event.target.matches("input, select, textarea")) event.target.dataset.touched = "true";
  check();
});
addEventListener("beforeunload", (event) => {
  if (view.settings && isChanged()) event.preventDefault();
});

/** Words that inputs offer: time zones of the browser, labels and streams of the pipeline. */
async function offer() {
  const list = (id, words) => document.body.append(element("datalist", { id }, ...words.map((value) => element("option", { value }))));
  list(ZONES, Intl.supportedValuesOf?.("timeZone") ?? []);
  const response = await ask("streams");
  const { streams } = response?.ok ? await response.json() : { streams: [] };
  list("labels", [...new Set(streams.flatMap((one) => one.info?.labels ?? []))]);
  list("stream-names", streams.map((one) => one.name));
}

document.title = t("settings.title");
await load();
offer();
