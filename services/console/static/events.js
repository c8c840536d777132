// The live events: newest first, at most a few hundred kept.

const MOST = 300;
const list = document.getElementById("stream");
const empty = document.getElementById("stream-empty");
const state = document.getElementById("stream-state");
const pause = document.getElementById("pause");
const clear = document.getElementById("clear");
const waiting = [];
const seen = new Set();  // after a reconnect, the last events come again
const REMEMBERED = 20000;
let paused = false;

function say(text, tone) {
  state.textContent = text;
  state.className = `badge ${tone}`;
}

function link(path, text) {
  const element = document.createElement("a");
  element.href = list.dataset.root + path;
  element.textContent = text;
  return element;
}

function places(event) {
  const data = event.data ?? {};
  const found = [];
  const api = data.api_id, client = data.client_id;
  if (api) found.push(link(`/apis/${encodeURIComponent(api)}`, api));
  if (api && client) found.push(link(`/apis/${encodeURIComponent(api)}/clients/${encodeURIComponent(client)}`, client));
  if (list.dataset.grants && data.grant_id) found.push(link(`/grants/${encodeURIComponent(data.grant_id)}`, "grant"));
  return found;
}

function row(event) {
  const item = document.createElement("li");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const time = document.createElement("time");
  time.dateTime = event.time;
  time.textContent = event.time.slice(11, 23);
  const type = document.createElement("strong");
  type.textContent = event.type.replace("io.tokenwire.", "");
  const subject = document.createElement("code");
  subject.textContent = event.subject ?? "";
  summary.append(time, type, subject, ...places(event));
  const text = document.createElement("pre");
  text.textContent = JSON.stringify(event, null, 2);
  details.append(summary, text);
  item.append(details);
  return item;
}

function show(event) {
  list.prepend(row(event));
  while (list.children.length > MOST) list.lastElementChild.remove();
  list.hidden = false;
  empty.hidden = true;
}

function receive(message) {
  const event = JSON.parse(message.data);
  if (seen.has(event.id)) return;
  seen.add(event.id);
  if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
  if (!paused) return show(event);
  waiting.push(event);
  if (waiting.length > MOST) waiting.shift();
  pause.textContent = `Continue (${waiting.length})`;
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Continue" : "Pause";
  if (!paused) for (const event of waiting.splice(0)) show(event);
});
clear.addEventListener("click", () => {
  list.replaceChildren();
  list.hidden = true;
  empty.hidden = false;
});

const source = new EventSource(list.dataset.stream);
const TYPES = list.dataset.types ? list.dataset.types.split(",") : [];
source.addEventListener("open", () => say("connected", "good"));
source.addEventListener("error", () => say(source.readyState === EventSource.CLOSED ? "ended; load the page again" : "connecting again", "wait"));
source.addEventListener("message", receive);
for (const type of TYPES) source.addEventListener(type, receive);
addEventListener("pagehide", () => source.close());
