// Talking to the service: the API key, JSON answers, server-sent events, errors of both shapes.

const STORED = "mergeline.key"; // in sessionStorage: gone with the tab

/** Why a request has no answer. `key` names the words when the service gave none. */
export class Failure extends Error {
  constructor({ message = "", key = null, values = {}, status = 0, param = null, requestId = null }) {
    super(message);
    Object.assign(this, { key, values, status, param, requestId });
  }

  /** The message without the field's name before it, for places that name the field themselves. */
  get reason() {
    const prefix = `${this.param}: `;
    return this.message.startsWith(prefix) ? this.message.slice(prefix.length) : this.message;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(STORED),
  set: (key) => sessionStorage.setItem(STORED, key),
  forget: () => sessionStorage.removeItem(STORED),
};

/** Relative to the page, so that it works behind a proxy's path prefix too. */
export const address = (path) => new URL(path, document.baseURI).href;

/** The JSON of GET `path`. Throws Failure. */
export async function getJson(path) {
  const response = await send(path, { signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The state of the service: {state, failure}. It is told with 503 too, so the status says nothing. */
export async function readState() {
  try {
    const response = await fetch(address("readyz"), { signal: AbortSignal.timeout(10_000) });
    const { state, failure } = await response.json();
    return { state, failure };
  } catch {
    return { state: "unreachable", failure: null };
  }
}

/**
 * POST `body` and yield the events of its stream as {deltas, whole, finish, usage, id}, each part only
 * where the event has it. Throws Failure, or an AbortError when `signal` stops it.
 */
export async function* stream(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await send(path, { method: "POST", body: JSON.stringify(body), headers, signal });
  if (!response.ok) throw await refusal(response);
  const read = path === "generate" ? fromGenerate : fromChat;
  const id = response.headers.get("x-request-id"); // what the service's log calls it
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw failureOf(event, response);
    yield { ...read(event), id };
  }
  throw new Failure({ key: "cutShort" });
}

async function send(path, options) {
  const headers = new Headers(options.headers);
  try {
    if (apiKey.get()) headers.set("Authorization", `Bearer ${apiKey.get()}`);
  } catch {
    throw new Failure({ key: "keyRefused", status: 401 }); // characters that no header can carry
  }
  try {
    return await fetch(address(path), { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({ key: "unreached" });
  }
}

/** The `data` of each event of a stream; comments and other fields are passed over. */
async function* serverSentEvents(bytes) {
  let data = [];
  for await (const line of lines(bytes)) {
    if (line.startsWith("data:")) {
      data.push(line.slice(5).replace(/^ /, ""));
    } else if (line === "" && data.length) {
      yield data.join("\n");
      data = [];
    }
  }
}

async function* lines(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(endOfConnection);
      if (done) return;
      const complete = (rest + value).split("\n");
      rest = complete.pop();
      for (const line of complete) yield line.replace(/\r$/, "");
    }
  } finally {
    reader.cancel().catch(() => {}); // already failed or aborted: there is nothing left to cancel
  }
}

function endOfConnection(error) {
  if (error.name === "AbortError") throw error;
  throw new Failure({ key: "cutShort" });
}

function fromGenerate(event) {
  const { index, text, reasoning: thought = "" } = event;
  if (!("generated_text" in event)) return { deltas: [{ index, text, thought }] };
  const { finish_reason: finish, usage } = event;
  const whole = (event.outputs ?? [{ ...event, index: 0 }]).map((output) => ({
    index: output.index,
    text: output.generated_text,
    thought: output.reasoning ?? "",
  }));
  return { deltas: [], whole, finish, usage };
}

function fromChat(event) {
  const choices = event.choices ?? [];
  const deltas = choices
    .filter(({ delta }) => delta?.content || delta?.reasoning)
    .map(({ index, delta }) => ({ index, text: delta.content ?? "", thought: delta.reasoning ?? "" }));
  const finish = choices.find(({ finish_reason: reason }) => reason)?.finish_reason;
  return { deltas, finish, usage: event.usage };
}

async function refusal(response) {
  try {
    return failureOf(await response.json(), response);
  } catch {
    return failureOf({}, response);
  }
}

/** From {"error": "…", "param", "request_id"}, or OpenAI's {"error": {"message", "param"}}. */
function failureOf(answer, { status, headers }) {
  const inner = typeof answer.error === "object" && answer.error ? answer.error : null;
  const message = inner ? inner.message : answer.error;
  const requestId = answer.request_id ?? headers.get("x-request-id");
  if (typeof message !== "string") {
    return new Failure({ key: "badStatus", values: { status }, status, requestId });
  }
  return new Failure({ message, status, param: (inner ?? answer).param ?? null, requestId });
}
