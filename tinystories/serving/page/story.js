"use strict";
// Functions that do not use the DOM: the words of a text, addresses of stories, the list of kept stories. Node can load
// this file.

const KEPT_STORIES = 20;
const WORD = /(\s*)([\p{L}\p{M}\p{N}_'\u2019-]+|[^\s\p{L}\p{M}\p{N}_]+)/gu;  // as in alternatives.py
const FIELDS = ["prompt", "fields", "text", "preset", "temperature", "max_tokens", "seed", "post_process", "model"];

// The words and punctuation marks of a text, each with the space before it and where that begins.
function splitWords(text) {
  return Array.from(text.matchAll(WORD), (match) => ({ start: match.index, space: match[1], word: match[2] }));
}

// A request has the FIELDS as strings: `prompt` as it was typed, `fields` of the model's template in JSON, and `text` if
// another text is continued, such as the story up to a word. The fragment of an address is not sent to the server, so no prompt is in its access log.
function toAddress(request) {
  return `#${new URLSearchParams(FIELDS.filter((name) => request[name]).map((name) => [name, request[name]]))}`;
}

function fromAddress(hash) {
  const given = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  if (!given.prompt && !given.fields) return null;
  return { prompt: "", ...Object.fromEntries(FIELDS.filter((name) => given[name]).map((name) => [name, given[name]])) };
}

// The fields of a request by name; null if they are not valid.
function readFields(request) {
  try {
    const fields = JSON.parse(request.fields ?? "{}");
    return fields && Object.values(fields).every((value) => typeof value === "string") ? fields : null;
  } catch {
    return null;
  }
}

function toBody(request) {
  const body = { prompt: request.text ?? request.prompt, seed: Number(request.seed), post_process: request.post_process === "true" };
  if (request.fields) body.fields = readFields(request);
  if (request.preset) body.preset = request.preset;
  if (request.temperature) body.temperature = Number(request.temperature);
  if (request.max_tokens) body.max_tokens = Number(request.max_tokens);
  return body;
}

// The list with a story first; it takes the place of the one with the same address, or the one that it continues.
function keepStory(stories, story, continued) {
  const others = stories.filter(({ address }) => address !== story.address && address !== continued);
  return [story, ...others].slice(0, KEPT_STORIES);
}

function toPercent(probability) {
  if (probability < 0.001) return "<0.1%";
  return `${(100 * probability).toFixed(probability < 0.0995 ? 1 : 0)}%`;
}
