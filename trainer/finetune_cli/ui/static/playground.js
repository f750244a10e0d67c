// A conversation with a served model. It is in this tab alone; answers are text, never markup.
"use strict";

const form = document.getElementById("ask");
const turns = document.getElementById("turns");
const outcome = document.getElementById("outcome");
const stop = document.getElementById("stop");
const TOO_LARGE = 413;
const messages = [];
// The request of the present answer. After Clear, an answer that ends changes nothing.
let running = null;

function turn(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const name = document.createElement("strong");
  name.textContent = role === "user" ? "You" : form.model.value;
  const words = document.createElement("div");
  words.textContent = text;
  item.append(name, words);
  turns.append(item);
  item.scrollIntoView({ block: "nearest" });
  return words;
}

// Calls read with each line of a response, as it arrives.
async function lines(response, read) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    for (const each of parts) read(JSON.parse(each));
  }
}

function refusal(status) {
  if (status === TOO_LARGE) return "The conversation is too long: shorten it, or press Clear.";
  return `The request was refused with status ${status}.`;
}

function request() {
  const data = new URLSearchParams(new FormData(form));
  const system = form.system.value.trim();
  const head = system ? [{ role: "system", content: system }] : [];
  for (const name of ["question", "system"]) data.delete(name);
  data.set("messages", JSON.stringify([...head, ...messages]));
  return data;
}

async function ask() {
  const question = form.question.value.trim();
  if (!question || running) return;
  messages.push({ role: "user", content: question });
  turn("user", question);
  const answer = turn("assistant", "");
  const own = new AbortController();
  running = own;
  stop.disabled = false;
  outcome.className = "quiet";
  outcome.textContent = "Waiting for the answer…";
  const begun = performance.now();
  let problem = "";
  try {
    const options = { method: "POST", body: request(), signal: own.signal };
    const response = await fetch(form.action, options);
    if (!response.ok) throw new Error(refusal(response.status));
    await lines(response, (line) => {
      if (running !== own) return;
      problem ||= line.problem || "";
      answer.textContent += line.text || "";
      outcome.textContent = "The model answers…";
    });
  } catch (error) {
    problem = error.name === "AbortError" ? "You have stopped the answer." : error.message;
  }
  if (running !== own) return;
  running = null;
  stop.disabled = true;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  outcome.textContent = problem || `Answered in ${seconds} s.`;
  if (problem) outcome.className = "problem";
  if (answer.textContent) {
    messages.push({ role: "assistant", content: answer.textContent });
    form.question.value = "";
  } else {
    // The question is still in its field.
    messages.pop();
    answer.parentElement.previousElementSibling.remove();
    answer.parentElement.remove();
  }
  form.question.focus();
}

if (form) {
  stop.disabled = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => running && running.abort());
  document.getElementById("clear").addEventListener("click", () => {
    if (running) running.abort();
    running = null;
    stop.disabled = true;
    messages.length = 0;
    turns.replaceChildren();
    outcome.textContent = "";
  });
}
