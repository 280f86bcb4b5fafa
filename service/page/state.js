// The service's state in the header, and what it serves.

import { apiKey, getJson, readState } from "./api.js";
import { say } from "./strings.js";

const LOOK_AGAIN_MS = { ready: 10_000, other: 1_500 };
const $ = (selector) => document.querySelector(selector);

/** What is known of the service: `info` is null until /info has answered. */
export const service = { state: "loading", info: null };

/** Follow the state for as long as the page is open; `onInfo` gets /info each time it is read. */
export function followService(onInfo) {
  let timer = 0;
  let newest = 0;
  const look = async () => {
    const own = ++newest;
    if (!document.hidden) await update(onInfo);
    if (own !== newest) return; // a later one, of a key typed meanwhile, looks again
    clearTimeout(timer);
    timer = setTimeout(look, LOOK_AGAIN_MS[service.state] ?? LOOK_AGAIN_MS.other);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  bindKeyForm(look);
  return look();
}

/** Ask for an API key: none is known, or `refused`, the one that was sent, is not the right one. */
export function askForKey(refused) {
  if (refused !== apiKey.get()) return; // another one was typed while the answer came
  say($("#key-hint"), apiKey.get() ? "keyRefused" : "keyHint");
  apiKey.forget();
  service.info = null;
  const form = $("#key-form");
  if (form.hidden) {
    form.hidden = false;
    $("#key").focus();
  }
  showKeyUse();
  show("needsKey");
}

async function update(onInfo) {
  const { state, failure } = await readState();
  service.state = state;
  if (state !== "ready") service.info = null; // it may come back with another model
  if (state !== "ready") return show(state, failure);
  if (!$("#key-form").hidden) return show("needsKey");
  if (service.info || (await readInfo(onInfo))) show(state);
}

async function readInfo(onInfo) {
  const key = apiKey.get();
  try {
    service.info = await getJson("info");
  } catch (failure) {
    if (failure.status === 401) askForKey(key);
    return false;
  }
  $("#model").textContent = service.info.model;
  showKeyUse();
  onInfo(service.info);
  return true;
}

function show(state, failure = null) {
  const element = $("#state");
  element.dataset.state = state;
  element.title = failure ?? "";
  const words = element.querySelector("span");
  if (words.dataset.t !== state) say(words, state);
  $("#send").disabled = state !== "ready";
}

/** A key can be forgotten; and a plain link, which carries none, would be refused. */
function showKeyUse() {
  $("#forget").hidden = !apiKey.get();
  $("#docs").hidden = Boolean(apiKey.get()) || !$("#key-form").hidden;
}

function bindKeyForm(look) {
  $("#key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey.set($("#key").value.trim());
    $("#key").value = "";
    $("#key-form").hidden = true;
    look();
  });
  $("#forget").addEventListener("click", () => {
    apiKey.forget();
    showKeyUse();
    service.info = null;
    look();
  });
}
