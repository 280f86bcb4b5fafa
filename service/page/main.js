// The page: from the fields to a request, from its stream to the card, and what stops it.

import { address, apiKey, Failure, stream } from "./api.js";
import { curlCommand } from "./curl.js";
import { clearProblems, offer, readParameters, resetParameters, showProblem } from "./fields.js";
import { Result } from "./result.js";
import { askForKey, followService, service } from "./state.js";
import { bindLanguageSwitch, translate } from "./strings.js";

const SHORTEST_S = 0.05; // tokens that came in one burst tell no speed
const $ = (selector) => document.querySelector(selector);
const text = $("#text");
const results = { prompt: new Result("prompt"), chat: new Result("chat") };
const drafts = { prompt: "", chat: "" };
let mode = "prompt";
let messages = []; // the conversation so far, as the service wants it
let running = null; // the AbortController of the request under way

async function submit() {
  if (running) return;
  const question = text.value;
  const parameters = readParameters();
  if ($("#send").disabled) showProblem("prompt", { key: "notReady" });
  else if (question.trim() === "") showProblem("prompt", { key: "empty" });
  const wrong = $("main [aria-invalid]");
  if (wrong) {
    wrong.focus();
    return;
  }
  const { path, body } = request(question, parameters);
  results[mode].begin(question, curlCommand(address(path), body, Boolean(apiKey.get())));
  if (mode === "chat") text.value = "";
  setRunning(new AbortController());
  const outcome = await follow(path, body, results[mode]);
  setRunning(null);
  if (outcome === "unanswered") results[mode].takeBack();
  if (mode === "chat") keepTurn(question, outcome === "answered");
}

function request(prompt, parameters) {
  if (mode === "prompt") return { path: "generate", body: { prompt, parameters, stream: true } };
  const { adapter, preset, raw, ...own } = parameters;
  const { default_parameters: defaults, presets, model } = service.info;
  const all = { ...defaults, ...presets?.[preset], ...own }; // /v1 knows neither of the first two
  const { system, history, thinking, ...sampling } = all;
  const body = {
    model: adapter ?? model,
    messages: [...before(system, history), ...messages, { role: "user", content: prompt }],
    ...sampling,
    ...switched(thinking),
    stream: true,
    stream_options: { include_usage: true },
  };
  return { path: "v1/chat/completions", body };
}

/** What /generate takes as a system text and a history, as messages. */
function before(system, history = []) {
  const first = system ? [{ role: "system", content: system }] : [];
  const rounds = history.flatMap(([question, answer]) => [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ]);
  return [...first, ...rounds];
}

/** What /generate takes as `thinking`, as arguments of the chat template. */
function switched(thinking) {
  const kwargs = service.info.thinking?.switch?.[thinking ? "on" : "off"];
  return thinking === undefined || !kwargs ? {} : { chat_template_kwargs: kwargs };
}

/** Show the answer as it comes; in the end it is answered, unanswered, or a thought that was cut. */
async function follow(path, body, result) {
  const key = apiKey.get();
  const clock = new Clock();
  const frames = eachFrame(() => {
    result.draw();
    result.showFactsAtTimes(clock.facts());
  });
  let outcome = "done";
  try {
    for await (const event of stream(path, body, running.signal)) {
      clock.count(event);
      event.deltas.forEach((delta) => result.append(delta));
      event.whole?.forEach((answer) => result.replace(answer));
      frames.ask();
    }
  } catch (error) {
    outcome = error.name === "AbortError" ? "stopped" : "failed";
    if (outcome === "failed") showFailure(error, result, key);
  }
  frames.stop();
  result.draw();
  result.showFacts(clock.facts());
  result.end(outcome, clock.tokens);
  if (result.text !== "") return "answered";
  if (outcome !== "done") return "unanswered";
  if (!result.thought) return "answered"; // with nothing
  result.fail(new Failure({ key: "thoughtCut" }));
  return "cut";
}

/** Draw once a frame at most: a fast stream must leave the page time for the stop button. */
function eachFrame(draw) {
  let asked = 0;
  const frame = () => {
    asked = 0;
    draw();
  };
  return {
    ask: () => (asked ||= requestAnimationFrame(frame)),
    stop: () => cancelAnimationFrame(asked),
  };
}

function showFailure(error, result, key) {
  const failure = error instanceof Failure ? error : new Failure({ message: String(error) });
  result.fail(failure);
  if (failure.status === 401) askForKey(key);
  else if (failure.param && failure.status) showProblem(failure.param, failure);
}

/** A turn that was not answered is taken back: templates want question and answer in turns. */
function keepTurn(question, answered) {
  if (answered) {
    const answer = { role: "assistant", content: results.chat.text };
    messages.push({ role: "user", content: question }, answer);
  } else if (text.value === "") {
    text.value = question;
  }
}

/** When the tokens of one answer came, and how many. */
class Clock {
  constructor() {
    this.sent = performance.now();
    this.events = 0;
  }

  count({ deltas, finish, usage, id }) {
    if (deltas.length) {
      this.last = performance.now();
      this.first ??= this.last;
      this.events += deltas.length;
    }
    this.finish = finish ?? this.finish;
    this.usage = usage ?? this.usage;
    this.id = id ?? this.id;
  }

  /** Exact once usage is known; until then an event counts as a token. */
  get tokens() {
    return this.usage?.completion_tokens ?? this.events;
  }

  facts() {
    const facts = [];
    const figure = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
    if (this.first) {
      facts.push(["firstToken", "seconds", { value: figure((this.first - this.sent) / 1000) }]);
    }
    const seconds = (this.last - this.first) / 1000;
    if (this.tokens > 1 && seconds > SHORTEST_S) {
      const speed = (this.tokens - 1) / seconds;
      const unit = this.usage ? "tokensPerSecond" : "aboutTokensPerSecond";
      facts.push(["speed", unit, { value: figure(speed) }]);
    }
    if (this.usage) {
      const { prompt_tokens: prompt, completion_tokens: completion } = this.usage;
      facts.push(["usage", "usageParts", { prompt, completion }]);
    }
    if (this.finish) facts.push(["finish", null, this.finish]);
    if (this.id) facts.push(["requestId", null, this.id]);
    return facts;
  }
}

function setRunning(controller) {
  running = controller;
  const [shown, gone] = running ? [$("#stop"), $("#send")] : [$("#send"), $("#stop")];
  const hadFocus = document.activeElement === gone;
  shown.hidden = false;
  gone.hidden = true;
  if (hadFocus) shown.focus();
  $("#fresh").disabled = running !== null;
  for (const radio of document.querySelectorAll("[name=mode]")) radio.disabled = running !== null;
}

function showMode(chosen) {
  drafts[mode] = text.value;
  mode = chosen;
  text.value = drafts[mode];
  $("main").dataset.mode = mode;
  text.dataset.tPlaceholder = mode === "chat" ? "chatHint" : "promptHint";
  $("#fresh").hidden = mode !== "chat";
  $('[data-field="raw"]').hidden = mode === "chat"; // a conversation always goes through the template
  for (const [name, result] of Object.entries(results)) result.element.hidden = name !== mode;
  clearProblems();
  translate(document);
}

function bind() {
  $("#composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("#stop").addEventListener("click", () => running?.abort());
  $("#reset").addEventListener("click", resetParameters);
  $("#fresh").addEventListener("click", () => {
    messages = [];
    results.chat.clear();
    text.focus();
  });
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.addEventListener("change", () => showMode(radio.value));
  }
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Esc and Enter belong to the input method then
    if (event.key === "Escape") running?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    }
  });
  const wide = matchMedia("(min-width: 60rem)");
  const fold = () => ($("#parameters").open = wide.matches);
  wide.addEventListener("change", fold);
  fold();
}

$("#results").append(...Object.values(results).map(({ element }) => element));
if (navigator.platform.startsWith("Mac")) $(".hint").dataset.t = "keysMac";
bindLanguageSwitch($("#language"));
bind();
showMode(mode);
await followService(offer);
