
const $ = (id) => document.getElementById(id);
const presets = JSON.parse($("presets").textContent);
const PRESET_NAMES = { plain: "plain: for the smallest models", greedy: "greedy: always the most likely token" };
const EXAMPLES = {
  "Once upon a time": "Once upon a time there was",
  "A girl": "One day, a little girl named Lily",
  "A bird": "In the garden, a small bird",
  "A bear": "Deep in the forest, an old bear",
  "\u201CLook at me!\u201D": '"Look at me!" shouted Leo',
  "Snow": "The snow fell all night. When Ella woke up,",
};
const FIELD_EXAMPLES = { words: "dragon, key, rain", summary: "A girl finds a key.", features: "dialogue, happy ending" };
const ENDINGS = { length: "maximum length reached", time: "time limit reached", shutdown: "server shut down" };
let model = {};        // the answer of /health
let writing = null;    // the AbortController of the story that is being generated
let following = true;  // whether the page scrolls with the story, until the reader scrolls
let current = null;    // the story that is shown: { address, text, reason, remaining, time }
let text = "";         // what is shown, and maybe the beginning of a word that is not shown yet
let shown = 0;         // where the last word that is shown begins in it
let promptEnd = 0;     // where the words begin that have alternatives

// ---- the form

for (const name of Object.keys(presets)) $("preset").add(new Option(PRESET_NAMES[name] ?? name, name));
for (const [name, prompt] of Object.entries(EXAMPLES)) {
  const button = newButton(name, () => { $("prompt").value = prompt; $("prompt").focus(); });
  $("examples").append(button);
}

function newButton(label, onclick) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", onclick);
  return button;
}

const isLimited = () => Number($("length").value) < Number($("length").max);
function showValues() {
  $("temperature-value").value = $("temperature").disabled ? "none" : Number($("temperature").value).toFixed(2);
  $("length-value").value = isLimited() ? `${$("length").value} tokens` : "until the context is full";
}
function usePreset() {
  const settings = ($("preset").value && presets[$("preset").value]) || model.generation || {};
  $("temperature").disabled = $("preset").value === "greedy";
  $("temperature").value = settings.temperature ?? 0.8;
  showValues();
}
$("preset").addEventListener("change", usePreset);
$("temperature").addEventListener("input", showValues);
$("length").addEventListener("input", showValues);

// ---- the fields of the model's template

const fieldInputs = () => [...$("fields").querySelectorAll("input")];
function showFields(names) {
  $("fields").hidden = !names.length;
  $("prompt").required = !names.length;
  for (const name of names) {
    const label = $("fields").appendChild(document.createElement("label"));
    label.textContent = name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
    const input = label.appendChild(document.createElement("input"));
    input.type = "text";
    input.name = name;
    input.maxLength = 500;
    input.placeholder = FIELD_EXAMPLES[name] ?? "";
  }
}

const randomSeed = () => String(Math.floor(Math.random() * 2 ** 32));
function readForm() {
  const given = fieldInputs().filter((input) => input.value.trim()).map((input) => [input.name, input.value]);
  return {
    prompt: $("prompt").value,
    fields: given.length ? JSON.stringify(Object.fromEntries(given)) : "",
    preset: $("preset").value,
    temperature: $("temperature").disabled ? "" : $("temperature").value,
    max_tokens: isLimited() ? $("length").value : "",
    seed: $("seed").value || randomSeed(),
    post_process: $("post-process").checked ? "true" : "",
    model: model.model,
  };
}

// Returns the name of a field that cannot have the value in the request.
function fillForm(request) {
  $("preset").value = request.preset ?? "";
  usePreset();
  $("prompt").value = request.prompt;
  $("temperature").value = request.temperature ?? $("temperature").value;
  $("length").value = request.max_tokens ?? $("length").max;
  $("seed").value = request.seed;
  $("post-process").checked = request.post_process === "true";
  const fields = readFields(request);
  for (const input of fieldInputs()) input.value = fields?.[input.name] ?? "";
  showValues();
  const values = { preset: $("preset").value, temperature: $("temperature").value, seed: $("seed").value };
  return Object.keys(values).find((name) => values[name] !== (request[name] ?? values[name]))
    ?? (fields ? null : "fields") ?? ($("seed").validity.valid ? null : "seed");
}

// ---- the story

function showText(whole, start) {
  text = "";
  shown = 0;
  promptEnd = start;
  $("alternatives").hidePopover();
  $("story").replaceChildren();
  $("story").classList.remove("ended");
  append(whole, true);
}

// Shows complete words only, so that a slow model writes word by word.
function append(piece, complete = false) {
  text += piece;
  const words = splitWords(text.slice(shown));
  if (!complete) words.pop();
  const last = $("story").lastElementChild;
  for (const { start, space, word } of words) {
    if (start === 0 && last) {  // the last word that was shown, which may have become longer
      if (last.textContent !== word) last.textContent = word;
      continue;
    }
    const span = document.createElement("span");
    span.textContent = word;
    span.dataset.start = shown + start;
    span.classList.toggle("word", shown + start >= promptEnd);
    $("story").append(space, span);
  }
  shown += words.at(-1)?.start ?? 0;
  if (writing) follow();
}

function follow() {  // scroll to the buttons, so that Stop is visible
  const below = $("foot").getBoundingClientRect().bottom - innerHeight + 12;
  if (following && below > 0) scrollBy(0, below);
}

function showStatus(message, error = false) {
  $("status").textContent = message;
  $("status").classList.toggle("error", error);
}

function showState() {
  const over = !writing && Boolean(current);
  $("story").setAttribute("aria-busy", String(Boolean(writing)));
  $("story").classList.toggle("ended", over && current.reason === "stop");
  $("write").textContent = writing ? "Stop" : "Generate a story";
  $("again").textContent = writing ? "Stop" : "Another story";
  $("again").disabled = !writing && !over;
  $("copy").disabled = $("copy-link").disabled = !over;
  $("continue").hidden = !over || current.reason === "stop" || current.remaining === 0;
  const first = over ? $("story").querySelector(".word") : null;
  $("words-hint").hidden = !first;
  makeFocusable(first);
}

function describe(story) {
  const { seed, model: name } = fromAddress(story.address);
  const full = story.reason !== "stop" && story.remaining === 0;
  return [
    `seed ${seed}`,
    full ? `the context of ${model.context} tokens is full: the story cannot be continued` : ENDINGS[story.reason],
    name && name !== model.model ? `the link was created with the model ${name}: the story may differ` : null,
  ];
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function readError(response) {
  const { error } = await response.json().catch(() => ({ error: { message: response.statusText } }));
  const wait = response.headers.get("Retry-After");
  return { ...error, message: error.message + (wait ? ` Try again in ${wait} seconds.` : "") };
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.match(/^data: (.*)$/m);
      if (data) yield { name: (block.match(/^event: (.*)$/m) ?? [])[1] ?? "text", data: JSON.parse(data[1]) };
    }
  }
}

// Shows a story as it is generated and returns how it ended; "refused": the story that was shown before still is.
async function receive(request, signal) {
  const body = toBody(request);
  let begun = false;
  try {
    let response = await post("generate", body, signal);
    if (!response.ok) {
      let error = await readError(response);
      if (error.maximum) {  // more tokens than the remaining context length
        response = await post("generate", { ...body, max_tokens: error.maximum }, signal);
        if (!response.ok) error = await readError(response);
      }
      if (!response.ok) {
        const full = request.text && error.code === "context_length_exceeded";
        const message = `The context of ${model.context} tokens is full: the story cannot be continued.`;
        return { reason: "refused", message: full ? message : error.message };
      }
    }
    begun = true;
    const address = toAddress(request);
    if (address !== location.hash) history.pushState(null, "", address);
    showText(body.prompt, request.prompt.length);
    for await (const { name, data } of events(response)) {
      if (name === "text") append(data.text);
      else if (name === "done") return { reason: data.finish_reason, done: data };
      else return { reason: "error", message: data.message };
    }
    throw new Error("incomplete stream");
  } catch (error) {
    const reason = begun ? "stopped" : "refused";
    if (error.name === "AbortError") return { reason, stopped: true };
    return { reason, message: begun ? "The connection to the server was lost." : "The server cannot be reached." };
  }
}

// `continued` is the address of the story that this one continues.
async function generate(request, continued) {
  const mine = writing = new AbortController();
  showState();
  showStatus("");
  following = true;
  if ($("book").getBoundingClientRect().top > innerHeight / 2) $("book").scrollIntoView({ block: "start" });
  const { reason, done, stopped, message } = await receive(request, mine.signal);
  if (writing !== mine) return;  // another story was opened
  writing = null;
  if (reason !== "refused") {
    if (done?.text) showText(done.text, request.prompt.length);
    else append("", true);
    const remaining = done ? model.context - done.prompt_tokens - done.completion_tokens : null;
    current = { address: toAddress(request), text, reason, remaining, time: Date.now() };
    writeKept(keepStory(readKept(), current, continued));
  }
  showState();
  const counts = done && `${done.completion_tokens} tokens, ${Math.round(done.tokens_per_second)} tokens per second`;
  if (message) showStatus(message, true);
  else showStatus([stopped ? "Stopped." : counts, ...(reason === "refused" ? [] : describe(current))].filter(Boolean).join(" \u00B7 "));
  follow();
}

function abort() {
  if (!writing) return;
  writing.abort();
  writing = current = null;
}

// A story from the text that is shown, or from a part of it, with the settings in the form.
function goOn(from, continued) {
  const { prompt, fields, seed } = fromAddress(current.address);
  $("again").focus({ preventScroll: true });
  generate({ ...readForm(), prompt, fields, seed, text: from }, continued);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing) writing.abort();
  else if (!$("write").disabled) generate(readForm());
});
$("again").addEventListener("click", () => {
  if (writing) return writing.abort();
  if ($("seed").value !== "") $("seed").value = randomSeed();
  if ($("form").reportValidity()) { $("write").focus(); generate(readForm()); }
});
$("continue").addEventListener("click", () => goOn(text, current.address));
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
addEventListener("keydown", (event) => { if (event.key === "Escape" && writing) writing.abort(); });
for (const move of ["wheel", "touchmove"]) addEventListener(move, () => { following = false; }, { passive: true });

async function copy(content, node) {
  try {
    await navigator.clipboard.writeText(content);
  } catch {  // no clipboard without HTTPS, except from this machine
    if (!node) return showStatus("The browser does not allow copying here: copy the address of the page instead.", true);
    getSelection().selectAllChildren(node);
    document.execCommand("copy");
    getSelection().removeAllRanges();
  }
  showStatus("Copied.");
}
$("copy").addEventListener("click", () => copy(text, $("story")));
$("copy-link").addEventListener("click", () => copy(location.href));

// ---- alternatives to a word

// One word at a time takes part in the order of focus; the arrow keys choose another.
function makeFocusable(word) {
  for (const name of ["tabindex", "role", "aria-haspopup"]) {
    for (const other of $("story").querySelectorAll(`[${name}]`)) other.removeAttribute(name);
  }
  word?.setAttribute("tabindex", "0");
  word?.setAttribute("role", "button");
  word?.setAttribute("aria-haspopup", "dialog");
}

async function showAlternatives(span) {
  const start = Number(span.dataset.start);
  const before = text.slice(0, start);
  const { space, word } = splitWords(text.slice(start))[0];
  unmark();
  makeFocusable(span);
  span.focus({ preventScroll: true });
  span.classList.add("open");
  $("instead").textContent = `Alternatives to \u201C${word}\u201D \u2026`;
  $("words").replaceChildren();
  $("alternatives").showPopover();
  place($("alternatives"), span);
  let message;
  let items = [];
  try {
    const fields = readFields(fromAddress(current.address));
    const response = await post("alternatives", { prompt: before, fields, word: space + word, n: 8 });
    if (response.ok) {
      const { probability, alternatives } = await response.json();
      message = `Alternatives to \u201C${word}\u201D${probability === null ? "" : ` (${toPercent(probability)})`}`;
      items = alternatives.map((each) => alternativeItem(each, before, space + word));
    } else {
      message = (await readError(response)).message;
    }
  } catch {
    message = "The server cannot be reached.";
  }
  if (!span.isConnected || !span.classList.contains("open")) return;  // another word or story was opened
  $("instead").textContent = message;
  $("words").append(...items);
  place($("alternatives"), span);
  $("words").querySelector("button")?.focus({ preventScroll: true });
}

function alternativeItem(alternative, before, own) {
  const item = document.createElement("li");
  const row = alternative.text ? newButton("", () => {
    $("alternatives").hidePopover();
    goOn(before + alternative.text);
  }) : document.createElement("p");
  if (alternative.text === own) row.setAttribute("aria-current", "true");
  const [word, percent, bar] = ["word", "percent", "bar"].map((name) => {
    const part = row.appendChild(document.createElement("span"));
    part.className = name;
    return part;
  });
  word.textContent = wordLabel(alternative.text, before);
  percent.textContent = toPercent(alternative.probability);
  bar.style.width = `${100 * alternative.probability}%`;
  item.append(row);
  return item;
}

function wordLabel(word, before) {
  if (!word) return "end of the story";
  const attached = /[\p{L}\p{N}]$/u.test(before) && /^[\p{L}\p{N}]/u.test(word);
  return (attached ? "\u2026" : "") + word.replace(/\n/g, "\u00B6").trim();
}

function place(panel, word) {
  const box = word.getClientRects()[0];
  const below = box.bottom + panel.offsetHeight + 12 <= innerHeight || box.top < panel.offsetHeight + 12;
  panel.style.left = `${scrollX + Math.max(12, Math.min(box.left, document.documentElement.clientWidth - panel.offsetWidth - 12))}px`;
  panel.style.top = `${scrollY + (below ? box.bottom + 6 : box.top - panel.offsetHeight - 6)}px`;
  const hidden = box.bottom + 12 - panel.getBoundingClientRect().top;
  if (getComputedStyle(panel).position === "fixed" && hidden > 0) scrollBy(0, hidden);  // at the bottom of a phone
}

const unmark = () => $("story").querySelector(".open")?.classList.remove("open");
$("alternatives").addEventListener("toggle", (event) => { if (event.newState === "closed") unmark(); });
$("story").addEventListener("click", (event) => {
  const word = event.target.closest(".word");
  if (word && !writing && getSelection().isCollapsed) showAlternatives(word);
});
$("story").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return showAlternatives(event.target);
  }
  const words = [...$("story").querySelectorAll(".word")];
  const at = words.indexOf(event.target);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: words.length - 1 }[event.key];
  if (!(next in words)) return;
  event.preventDefault();
  makeFocusable(words[next]);
  words[next].focus();
});

// ---- kept stories

function readKept() {
  try {
    const stories = JSON.parse(localStorage.getItem("tinystories"));
    return Array.isArray(stories) ? stories : [];
  } catch {  // the browser keeps nothing
    return [];
  }
}

function writeKept(stories) {
  try {
    localStorage.setItem("tinystories", JSON.stringify(stories));
  } catch {}
  showKept();
}

function showKept() {
  const stories = readKept();
  $("kept").hidden = !stories.length;
  $("kept-title").textContent = `Last stories (${stories.length})`;
  $("kept-stories").replaceChildren(...stories.map((story, index) => {
    const item = document.createElement("li");
    const open = newButton("", () => openKept(story));
    open.appendChild(document.createElement("span")).textContent = story.text.slice(0, 150);
    const remove = newButton("\u00D7", () => {
      writeKept(readKept().filter(({ address }) => address !== story.address));
      const others = $("kept-stories").querySelectorAll(".delete");
      (others[Math.min(index, others.length - 1)] ?? $("write")).focus();
    });
    remove.className = "delete";
    remove.setAttribute("aria-label", `Delete: ${story.text.slice(0, 60)}`);
    item.append(open, remove);
    return item;
  }));
}

function openKept(story) {
  abort();
  const request = fromAddress(story.address);
  fillForm(request);
  if (story.address !== location.hash) history.pushState(null, "", story.address);
  showText(story.text, request.prompt.length);
  current = story;
  showState();
  showStatus([new Date(story.time).toLocaleString(), ...describe(story)].filter(Boolean).join(" \u00B7 "));
  const { top } = $("book").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) $("book").scrollIntoView({ block: "start" });
}

$("delete-all").addEventListener("click", () => { writeKept([]); $("write").focus(); });
addEventListener("storage", showKept);  // of another tab

// ---- the address

// Generates the story of the address, so a link gives the same story as long as the model is the same.
function openAddress() {
  abort();
  const request = fromAddress(location.hash);
  if (!request) {
    current = null;
    showText("", 0);
    showStatus("");
    return showState();
  }
  request.seed ??= randomSeed();
  history.replaceState(null, "", toAddress(request));
  const invalid = fillForm(request);
  if (!invalid) return generate(request);
  showState();
  showStatus(`The value of ${invalid} in the address is not valid.`, true);
}
addEventListener("popstate", openAddress);

async function waitForModel() {
  try {
    model = await (await fetch("health", { cache: "no-store" })).json();
    if (model.status !== "ready") throw new Error(model.status);
  } catch {
    return setTimeout(waitForModel, 1000);
  }
  const count = model.parameters;
  const size = count >= 1e6 ? `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} million` : count.toLocaleString("en");
  $("model").textContent = `Stories generated by ${model.model} (${size} parameters)`;
  const limited = isLimited();
  $("length").max = 50 + 10 * Math.ceil(Math.max(0, model.context - 50) / 10);
  if (!limited) $("length").value = $("length").max;
  usePreset();
  showFields(model.fields);
  $("write").disabled = false;
  if (location.hash) openAddress();
}

if (matchMedia("(max-width: 57.99rem)").matches) $("settings").open = $("kept").open = false;
showValues();
showKept();
waitForModel();
