// Every word that the page says, in both languages, and how it gets into the document.

const STRINGS = {
  en: {
    other: "中文",
    docs: "API",
    loading: "Loading the model",
    ready: "Ready",
    draining: "Shutting down: no new requests",
    dead: "Not available",
    unreachable: "No connection",
    needsKey: "API key needed",
    key: "API key",
    keyHint: "This service requires an API key. It is kept until this tab is closed and sent nowhere else.",
    keyRefused: "The service refused this key.",
    keyUse: "Use key",
    keyForget: "Forget API key",
    mode: "Mode",
    modePrompt: "Prompt",
    modeChat: "Chat",
    fresh: "New conversation",
    promptLabel: "Prompt",
    promptHint: "Write a prompt",
    chatHint: "Write a message",
    keys: "Ctrl+Enter sends, Esc stops",
    keysMac: "⌘ Return sends, Esc stops",
    send: "Send",
    stop: "Stop",
    parameters: "Parameters",
    adapter: "LoRA adapter",
    adapterNone: "none",
    preset: "Preset",
    presetNone: "none",
    thinking: "Thinking",
    thinkingDefault: "by default",
    thinkingOn: "on",
    thinkingOff: "off",
    temperature: "Temperature",
    maxTokens: "Max tokens",
    topP: "Top-p",
    seed: "Seed",
    repetition: "Repetition penalty",
    stopAt: "Stop sequences",
    stopHint: "one per line; \\n is a line break",
    raw: "Send the prompt verbatim",
    advanced: "More parameters",
    reset: "Reset parameters",
    notNumber: "Not a number.",
    notWhole: "Whole numbers only.",
    notExact: "Too large to be sent exactly from here.",
    notObject: "A JSON object is needed, such as {\"top_k\": 40}.",
    notJson: "Not JSON: {reason}",
    empty: "Write something first.",
    notReady: "The service is not ready yet.",
    output: "Answer",
    outputEmpty: "The answer appears here, token by token.",
    chatEmpty: "A conversation: the model sees all turns so far.",
    you: "You",
    choice: "Answer {number}",
    thought: "Thought",
    thoughtCut: "The thought was cut off before any answer: raise max tokens, or switch thinking off.",
    generating: "Generating",
    done: "Done: {tokens} tokens",
    stopped: "Stopped",
    failed: "Failed",
    field: "field",
    request: "request",
    cutShort: "The connection was lost before the answer was complete.",
    unreached: "The service could not be reached.",
    badStatus: "The service answered with status {status}.",
    firstToken: "Time to first token",
    speed: "Speed",
    usage: "Tokens",
    finish: "Finish reason",
    requestId: "Request ID",
    seconds: "{value} s",
    tokensPerSecond: "{value} tokens/s",
    aboutTokensPerSecond: "≈ {value} tokens/s",
    usageParts: "{prompt} in, {completion} out",
    curl: "As a curl command",
    copy: "Copy",
    copied: "Copied",
  },
  zh: {
    other: "English",
    docs: "API",
    loading: "正在加载模型",
    ready: "就绪",
    draining: "正在关闭，不再接受请求",
    dead: "服务异常",
    unreachable: "无法连接",
    needsKey: "需要 API 密钥",
    key: "API 密钥",
    keyHint: "此服务需要 API 密钥。密钥仅在本标签页打开期间保存，不会发送到其他地方。",
    keyRefused: "密钥无效，服务拒绝访问。",
    keyUse: "使用密钥",
    keyForget: "清除 API 密钥",
    mode: "模式",
    modePrompt: "提示词",
    modeChat: "对话",
    fresh: "新对话",
    promptLabel: "提示词",
    promptHint: "输入提示词",
    chatHint: "输入消息",
    keys: "Ctrl+Enter 发送，Esc 停止",
    keysMac: "⌘ Return 发送，Esc 停止",
    send: "发送",
    stop: "停止",
    parameters: "参数",
    adapter: "LoRA 适配器",
    adapterNone: "无",
    preset: "预设",
    presetNone: "无",
    thinking: "思考",
    thinkingDefault: "默认",
    thinkingOn: "开启",
    thinkingOff: "关闭",
    temperature: "温度（temperature）",
    maxTokens: "最大 token 数",
    topP: "核采样（top-p）",
    seed: "随机种子",
    repetition: "重复惩罚",
    stopAt: "停止词",
    stopHint: "每行一个；\\n 表示换行",
    raw: "原样发送（不套用对话模板）",
    advanced: "其他参数",
    reset: "重置参数",
    notNumber: "不是数字。",
    notWhole: "只能填整数。",
    notExact: "数值过大，浏览器无法精确表示。",
    notObject: "需要一个 JSON 对象，例如 {\"top_k\": 40}。",
    notJson: "不是有效的 JSON：{reason}",
    empty: "请先输入内容。",
    notReady: "服务尚未就绪。",
    output: "回答",
    outputEmpty: "回答会逐 token 显示在这里。",
    chatEmpty: "多轮对话：模型能看到之前的所有轮次。",
    you: "你",
    choice: "回答 {number}",
    thought: "思考过程",
    thoughtCut: "思考过程被截断，尚无回答：请调大最大 token 数，或关闭思考。",
    generating: "正在生成",
    done: "完成：{tokens} 个 token",
    stopped: "已停止",
    failed: "失败",
    field: "字段",
    request: "请求",
    cutShort: "回答未完成，连接已断开。",
    unreached: "无法连接到服务。",
    badStatus: "服务返回 HTTP 状态码 {status}。",
    firstToken: "首 token 延迟",
    speed: "速度",
    usage: "token 数",
    finish: "结束原因",
    requestId: "请求 ID",
    seconds: "{value} 秒",
    tokensPerSecond: "{value} token/秒",
    aboutTokensPerSecond: "≈ {value} token/秒",
    usageParts: "输入 {prompt}，输出 {completion}",
    curl: "对应的 curl 命令",
    copy: "复制",
    copied: "已复制",
  },
};

const STORED = "mergeline.language";
let current = stored() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

/** The words of `key` in the language in use; {names} in it are replaced by `values`. */
export function t(key, values = {}) {
  const words = STRINGS[current][key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Show the text of `key` in `element`, also after the language has changed. */
export function say(element, key, values = {}) {
  element.dataset.t = key;
  element.dataset.tValues = JSON.stringify(values);
  element.textContent = t(key, values);
}

/** Show text that is the same in both languages. */
export function sayVerbatim(element, words) {
  delete element.dataset.t;
  element.textContent = words;
}

/** Fill in every word under `root`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) {
    element.textContent = t(element.dataset.t, JSON.parse(element.dataset.tValues ?? "{}"));
  }
  for (const element of root.querySelectorAll("[data-t-placeholder]")) {
    element.placeholder = t(element.dataset.tPlaceholder);
  }
  for (const element of root.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
}

/** A button that shows the other language's name and changes to it. */
export function bindLanguageSwitch(button) {
  const show = () => {
    document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
    button.lang = current === "zh" ? "en" : "zh-CN";
    translate(document);
    button.textContent = t("other");
  };
  button.addEventListener("click", () => {
    current = current === "zh" ? "en" : "zh";
    try {
      localStorage.setItem(STORED, current);
    } catch {
      // storage is switched off: the choice lasts as long as the page
    }
    show();
  });
  show();
}

function stored() {
  try {
    const language = localStorage.getItem(STORED);
    return language in STRINGS ? language : null;
  } catch {
    return null;
  }
}
