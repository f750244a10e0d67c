// Live updates: replaces the inside of regions with what the server has rendered.
"use strict";

const connection = document.getElementById("connection");
const waiting = new Map();

function say(words, state = "waiting") {
  if (!connection) return;
  connection.textContent = words;
  connection.dataset.state = state;
}

// Whether the user is at work in a region: its focus or selection would be lost.
function inUse(region) {
  const selection = document.getSelection();
  return (
    (region.contains(document.activeElement) && document.activeElement !== region) ||
    (selection && !selection.isCollapsed && region.contains(selection.anchorNode))
  );
}

function replace(region, update) {
  const open = new Set(Array.from(region.querySelectorAll("details[open]"), (each) => each.id));
  const log = region.querySelector("pre.log");
  const atEnd = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  region.innerHTML = update.html;
  region.dataset.version = update.version;
  for (const each of region.querySelectorAll("details")) each.open = open.has(each.id);
  const present = region.querySelector("pre.log");
  if (present && atEnd) present.scrollTop = present.scrollHeight;
}

function apply() {
  for (const [id, update] of waiting) {
    const region = document.getElementById(id);
    if (region && region.dataset.version !== update.version) {
      if (inUse(region)) continue;
      replace(region, update);
    }
    waiting.delete(id);
  }
}

function follow(address) {
  const source = new EventSource(address);
  source.addEventListener("region", (event) => {
    const update = JSON.parse(event.data);
    waiting.set(update.id, update);
    apply();
    say("live", "live");
  });
  source.addEventListener("announcement", (event) => {
    const place = document.getElementById("announcement");
    const words = JSON.parse(event.data);
    if (place && place.textContent !== words) place.textContent = words;
  });
  source.addEventListener("problem", (event) => say(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    source.close();
    say("Updates have ended: load the page again.");
  });
  source.onerror = () => {
    const closed = source.readyState === EventSource.CLOSED;
    say(closed ? "No updates: close other tabs, or load the page again." : "Connecting again…");
  };
}

// Forms of a page have the token of the form in the header, which belongs to the session.
const token = document.querySelector("header input[name=csrf]");
for (const each of document.querySelectorAll("main input[name=csrf]")) each.value = token.value;

// A form that a narrow screen folds is open on a wide one, which shows no mark to open it.
const narrow = matchMedia("(max-width: 40rem)");
function fold() {
  for (const each of document.querySelectorAll("details.fold")) each.open = !narrow.matches;
}
narrow.addEventListener("change", fold);
fold();

for (const each of document.querySelectorAll("pre.log")) each.scrollTop = each.scrollHeight;
if (document.body.dataset.stream) follow(document.body.dataset.stream);
document.addEventListener("focusout", () => setTimeout(apply));
document.addEventListener("selectionchange", apply);
