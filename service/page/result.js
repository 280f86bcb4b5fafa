// A mode's card: the answers as they stream in, what they cost, the error, the curl command.

import { say, sayVerbatim, translate } from "./strings.js";

const NEAR_THE_END_PX = 40;
const FACTS_EVERY_MS = 250; // faster, and nobody could read them

/** One card; `mode` is prompt or chat. Text of the model is only ever set as text. */
export class Result {
  constructor(mode) {
    this.mode = mode;
    const card = document.querySelector("#result").content.cloneNode(true).firstElementChild;
    card.dataset.mode = mode;
    this.part = (name) => card.querySelector(`.${name}`);
    this.element = card;
    this.output = this.part("output");
    this.grown = new ResizeObserver(() => this.follow()); // a late font makes text longer
    this.part("copy").addEventListener("click", () => this.copyCommand());
    translate(card);
    this.clear();
  }

  /** Back to the empty card. */
  clear() {
    this.showHint();
    for (const name of ["failure", "facts", "curl"]) this.part(name).hidden = true;
    this.element.classList.remove("running");
  }

  /** A request begins; `question` is shown in a conversation, where earlier turns stay. */
  begin(question, command) {
    if (this.mode === "prompt" || this.part("empty")) this.output.replaceChildren();
    this.part("failure").hidden = true;
    this.part("facts").hidden = true;
    this.part("curl").hidden = false;
    this.part("curl").querySelector("pre").textContent = command;
    this.turn = [];
    this.answers = new Map();
    this.thoughts = new Map();
    this.undrawn = [];
    this.factsShown = 0;
    this.follows = true;
    this.scrolledTo = 0;
    if (this.mode === "chat") {
      const asked = this.block("question", "you");
      asked.textContent = question;
      this.output.scrollTop = this.output.scrollHeight;
    }
    this.answer(0);
    this.element.classList.add("running");
    this.output.scrollIntoView({ block: "nearest" }); // on a phone it may be under the parameters
    say(this.part("progress"), "generating");
  }

  /** Text arrived for answer `index`, or a thought before it; `draw` shows it. */
  append(delta) {
    this.undrawn.push(delta);
  }

  /** Show what has arrived. */
  draw() {
    this.follow(() => {
      for (const [index, { text, thought }] of joined(this.undrawn)) {
        if (thought) this.thinking(index).appendData(thought);
        this.answer(index).appendData(text);
      }
      this.undrawn = [];
    });
  }

  /** Change the text; the view stays at its end, unless the reader has scrolled up. */
  follow(change) {
    const { output } = this;
    const distance = output.scrollHeight - output.scrollTop - output.clientHeight;
    if (distance < NEAR_THE_END_PX) this.follows = true;
    else if (output.scrollTop < this.scrolledTo) this.follows = false;
    change?.();
    if (this.follows) output.scrollTop = output.scrollHeight;
    this.scrolledTo = output.scrollTop;
  }

  /** The whole text of answer `index`, which is what counts. */
  replace({ index, text, thought }) {
    this.draw();
    this.follow(() => {
      if (thought) setText(this.thinking(index), thought);
      setText(this.answer(index), text);
    });
  }

  /** The text of the first answer. */
  get text() {
    return this.answers.get(0).data;
  }

  /** What the model thought before it. */
  get thought() {
    return this.thoughts.get(0)?.data ?? "";
  }

  /** The request is over: `outcome` is done, stopped or failed. */
  end(outcome, tokens) {
    this.element.classList.remove("running");
    say(this.part("progress"), outcome, { tokens });
  }

  /** Take back the turn that has just begun: it has no answer. */
  takeBack() {
    for (const element of this.turn) element.remove();
    if (!this.output.firstChild && this.mode === "chat") this.showHint();
  }

  /** Show why there is no answer, or not all of it. */
  fail(failure) {
    const [message, where] = [this.part("message"), this.part("where")];
    if (failure.key) say(message, failure.key, failure.values);
    else sayVerbatim(message, failure.reason);
    where.replaceChildren(
      ...named("field", failure.param),
      ...named("request", failure.requestId),
    );
    this.part("failure").hidden = false;
    this.part("failure").scrollIntoView({ block: "nearest" });
  }

  /** `showFacts`, but only now and then. */
  showFactsAtTimes(facts) {
    if (performance.now() - this.factsShown < FACTS_EVERY_MS) return;
    this.factsShown = performance.now();
    this.showFacts(facts);
  }

  /** Show figures: a list of [name's key, value's key or null, values or text]. */
  showFacts(facts) {
    const pairs = facts.map(([name, key, value]) => {
      const [pair, term, detail] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      say(term, name);
      if (key) say(detail, key, value);
      else sayVerbatim(detail, value);
      pair.append(term, detail);
      pair.dataset.fact = name;
      return pair;
    });
    this.part("facts").replaceChildren(...pairs);
    this.part("facts").hidden = pairs.length === 0;
  }

  /** The text node of answer `index`, made when its first text comes. */
  answer(index) {
    if (!this.answers.has(index)) {
      const alone = index === 0 && this.mode === "chat";
      const name = alone ? ["output"] : ["choice", { number: index + 1 }];
      const node = document.createTextNode("");
      this.block("answer", ...name).append(node);
      this.answers.set(index, node);
    }
    return this.answers.get(index);
  }

  /** The text node of what is thought before answer `index`. */
  thinking(index) {
    if (!this.thoughts.has(index)) {
      const [details, name, text] = ["details", "summary", "div"].map((tag) => document.createElement(tag));
      details.className = "thought";
      details.open = true;
      text.className = "text";
      say(name, "thought");
      const node = document.createTextNode("");
      text.append(node);
      details.append(name, text);
      this.answer(index).parentElement.before(details);
      this.thoughts.set(index, node);
    }
    return this.thoughts.get(index);
  }

  showHint() {
    const hint = document.createElement("p");
    hint.className = "empty";
    say(hint, this.mode === "chat" ? "chatEmpty" : "outputEmpty");
    this.output.replaceChildren(hint);
  }

  block(kind, key, values) {
    const [section, name, text] = ["section", "h3", "div"].map((tag) => document.createElement(tag));
    section.className = kind;
    text.className = "text";
    say(name, key, values);
    section.append(name, text);
    this.output.append(section);
    this.grown.observe(section);
    this.turn.push(section);
    return text;
  }

  async copyCommand() {
    const [button, command] = [this.part("copy"), this.part("curl").querySelector("pre")];
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      getSelection().selectAllChildren(command); // no clipboard outside https and localhost
      document.execCommand("copy");
    }
    say(button, "copied");
    setTimeout(() => say(button, "copy"), 2000);
  }
}

/** The deltas of each answer as one. */
function joined(deltas) {
  const all = new Map();
  for (const { index, text, thought = "" } of deltas) {
    const before = all.get(index) ?? { text: "", thought: "" };
    all.set(index, { text: before.text + text, thought: before.thought + thought });
  }
  return all;
}

/** Unless it is there already: a selection in it would be lost. */
function setText(node, text) {
  if (node.data !== text) node.data = text;
}

function named(key, value) {
  if (!value) return [];
  const [name, code] = [document.createElement("span"), document.createElement("code")];
  say(name, key);
  code.textContent = value;
  return [name, " ", code, " "];
}
