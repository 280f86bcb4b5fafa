// The parameter fields: what they hold, and what is wrong with them.

import { say, sayVerbatim, t } from "./strings.js";

const NUMBERS = ["temperature", "max_tokens", "top_p", "seed", "repetition_penalty"];
const IN_THE_PROMPT = ["input", "messages", "body"]; // as requests call what is written there
const WHOLE = ["max_tokens", "seed"];
const field = (name) => document.querySelector(`.field[data-field="${name}"]`);
const control = (name) => field(name).querySelector("input, select, textarea");

/** The parameters as they stand, or null when a field is wrong; that field then says so. */
export function readParameters() {
  clearProblems();
  const parameters = {};
  for (const name of NUMBERS) {
    const text = control(name).value.trim();
    if (text === "") continue;
    parameters[name] = Number(text);
    const wrong = wrongNumber(name, parameters[name]);
    if (wrong) showProblem(name, { key: wrong });
  }
  const stops = control("stop").value.split("\n").filter(Boolean).map(unescaped);
  if (stops.length) parameters.stop = stops.length === 1 ? stops[0] : stops;
  if (control("raw").checked) parameters.raw = true;
  for (const name of ["adapter", "preset"]) {
    if (control(name).value) parameters[name] = control(name).value;
  }
  if (control("thinking").value) parameters.thinking = control("thinking").value === "on";
  Object.assign(parameters, readAdvanced());
  return document.querySelector("#parameters [aria-invalid]") ? null : parameters;
}

/** Offer what this service has: its adapters, its presets, its defaults. */
export function offer(info) {
  fill("adapter", info.adapters ?? []);
  fill("preset", Object.keys(info.presets ?? {}));
  field("thinking").hidden = !info.thinking?.switch;
  if (field("thinking").hidden) control("thinking").value = "";
  const defaults = { top_p: 1, repetition_penalty: 1, ...info.default_parameters };
  for (const name of NUMBERS) control(name).placeholder = defaults[name] ?? "";
}

/** Say at the field that `param` ("parameters.top_p", "prompt", "top_p") names what is wrong with it. */
export function showProblem(param, { reason = "", key = null, values = {} }) {
  const name = param.replace(/^parameters\.?/, "").split(/[.[]/)[0];
  const place = field(name) ?? field(IN_THE_PROMPT.includes(name) ? "prompt" : "advanced");
  const problem = place.querySelector(".problem");
  if (key) say(problem, key, values);
  else sayVerbatim(problem, reason);
  control(place.dataset.field).setAttribute("aria-invalid", "true");
  if (place.closest("details")) place.closest("details").open = true;
}

/** No field is wrong any more. */
export function clearProblems() {
  for (const element of document.querySelectorAll(".field [aria-invalid]")) {
    element.removeAttribute("aria-invalid");
    sayVerbatim(element.closest(".field").querySelector(".problem"), "");
  }
}

/** Empty every parameter field. */
export function resetParameters() {
  for (const element of document.querySelectorAll("#parameters .field input, #parameters textarea")) {
    if (element.type === "checkbox") element.checked = false;
    else element.value = "";
  }
  for (const select of document.querySelectorAll("#parameters select")) select.selectedIndex = 0;
  clearProblems();
}

function fill(name, choices) {
  const select = control(name);
  const chosen = select.value;
  const none = new Option(t(`${name}None`), "");
  none.dataset.t = `${name}None`;
  select.replaceChildren(none, ...choices.map((choice) => new Option(choice, choice)));
  select.value = choices.includes(chosen) ? chosen : "";
  field(name).hidden = choices.length === 0;
}

function wrongNumber(name, value) {
  if (!Number.isFinite(value)) return "notNumber";
  if (!WHOLE.includes(name)) return null;
  if (!Number.isInteger(value)) return "notWhole";
  return Number.isSafeInteger(value) ? null : "notExact";
}

function readAdvanced() {
  const text = control("advanced").value.trim();
  if (text === "") return {};
  try {
    const further = JSON.parse(text);
    if (further !== null && typeof further === "object" && !Array.isArray(further)) return further;
    showProblem("advanced", { key: "notObject" });
  } catch (error) {
    showProblem("advanced", { key: "notJson", values: { reason: error.message } });
  }
  return {};
}

function unescaped(text) {
  const meant = { n: "\n", r: "\r", t: "\t", "\\": "\\" };
  return text.replace(/\\([nrt\\])/g, (_, letter) => meant[letter]);
}
