// Shows what the server sends as it happens. Texts of runs are only ever set as text, never as HTML.
"use strict";
const page = document.body.dataset;
const byId = (id) => document.getElementById(id);
const parts = new Map(); // the newest part of each name

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const address = (path, parameters) => `${path}?${new URLSearchParams(parameters)}`;

function addressOf(entry) {
  return entry.kind === "run" ? address("/run", { at: entry.at }) : address("/sweep", { at: entry.at });
}

// ---- words

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function moment(seconds) {
  if (!seconds) return "";
  const date = new Date(1000 * seconds);
  const isToday = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return isToday ? `today ${time}` : `${date.toLocaleDateString([], { dateStyle: "medium" })} ${time}`;
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const CLASSES = { running: "going", completed: "good", up: "good", failed: "bad", lost: "bad", interrupted: "bad", crashed: "bad", gone: "bad", "not faithful": "bad" };
const WORDS = { running: "running", lost: "lost", completed: "completed" };

function mark(state, text = WORDS[state] ?? state) {
  return element("span", { text, class: `mark ${CLASSES[state] ?? "plain"}` });
}

function marksOf(entry) {
  const marks = [mark(entry.state)];
  if (entry.faithful === false && entry.state === "completed") marks.push(mark("not faithful"));
  return marks;
}

function stageText(stage) {
  const present = stage?.stages.find((row) => row.is_present);
  const text = present?.text ?? "preparing";
  if (stage?.total) return `${text}, ${stage.unit} ${stage.done} of ${stage.total}`;
  return stage?.done ? `${text}, ${plural(stage.done, stage.unit)}` : text;
}

// ---- events of the server

let source = null;

function listen() {
  if (!page.events || source) return;
  source = new EventSource(page.events);
  source.onopen = () => connection("live", "good");
  source.onerror = () => connection("disconnected, trying again", "bad");
  source.onmessage = ({ data }) => {
    const { changed, removed } = JSON.parse(data);
    for (const name of removed) parts.delete(name);
    for (const [name, part] of Object.entries(changed)) parts.set(name, part);
    byId("problem").hidden = !parts.has("problem");
    byId("problem").textContent = parts.get("problem") ?? "";
    shows[page.page](new Set(Object.keys(changed)));
  };
}

function stop(text, kind) {
  source?.close();
  source = null;
  connection(text, kind);
}

function connection(text, kind) {
  byId("connection").textContent = text;
  byId("connection").className = `mark ${kind}`;
}

// A hidden page needs no events. On its return the server sends all parts again.
document.addEventListener("visibilitychange", () => {
  if (!page.events || isOver) return;
  if (!document.hidden) return listen();
  if (source) stop("paused", "plain");
  parts.clear();
});

let isOver = false;

function finish() {
  isOver = true;
  stop("finished", "plain");
}

// ---- reports, in frames without an origin

function showReport() {
  const section = byId("report");
  section.hidden = false;
  section.querySelector("iframe")?.remove();
  const frame = element("iframe", {
    sandbox: "allow-scripts allow-downloads",
    src: page.document,
    title: `Report of ${page.title}`,
  });
  section.append(frame);
}

addEventListener("message", ({ source: sender, data }) => {
  const frame = document.querySelector("#report iframe");
  if (!frame || sender !== frame.contentWindow) return;
  const height = Number(data?.height);
  if (height > 0 && height < 200000) frame.style.height = `${Math.ceil(height)}px`;
});

// ---- lists

function progressBar(share) {
  const done = element("div", { class: "done" });
  done.style.width = `${100 * Math.min(share, 1)}%`;
  return element("div", { class: "progress" }, done);
}

function card(entry) {
  const made = element("a", { class: "card", href: addressOf(entry) }, element("div", { text: entry.at, class: "title" }));
  if (entry.kind === "run") {
    const { stage } = entry;
    made.append(element("p", { text: stageText(stage), class: "note" }));
    made.append(progressBar(stage?.total ? stage.done / stage.total : 0));
    const facts = [entry.workload, entry.topology, entry.ranks ? plural(entry.ranks, "rank") : ""];
    made.append(element("div", { text: facts.filter(Boolean).join(" · "), class: "note" }));
  } else {
    made.append(element("p", { text: pointsText(entry), class: "note" }), progressBar(entry.points ? (entry.completed + entry.failed) / entry.points : 0));
  }
  made.dataset.at = entry.at;
  return made;
}

function pointsText(entry) {
  const texts = [`${entry.completed} of ${plural(entry.points, "point")} complete`];
  if (entry.failed) texts.push(`${entry.failed} failed`);
  if (entry.running) texts.push(`${entry.running} running`);
  return texts.join(", ");
}

const chosen = new Set(); // paths of the runs to compare

function factsOf(entry) {
  const facts = entry.kind === "run"
    ? [entry.workload, entry.topology, entry.ranks ? plural(entry.ranks, "rank") : ""]
    : [entry.kind, pointsText(entry)];
  if (entry.seconds) facts.push(`${duration(entry.seconds)} of wall time`);
  return facts.filter(Boolean).join(" · ");
}

function resultRow(entry) {
  const row = element("li");
  row.dataset.at = entry.at;
  if (entry.kind === "run") {
    const box = element("input", { type: "checkbox", "aria-label": `Compare ${entry.at}` });
    box.checked = chosen.has(entry.at);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(entry.at);
      else chosen.delete(entry.at);
      showChosen();
    });
    row.append(box);
  }
  const link = element("a", { text: entry.at, href: addressOf(entry) });
  row.append(
    element("div", { class: "title" }, link, ...marksOf(entry)),
    element("div", { text: moment(entry.began_s), class: "when" }),
  );
  if (entry.text) row.append(element("div", { text: entry.text, class: "text" }));
  row.append(element("div", { text: factsOf(entry), class: "facts" }));
  return row;
}

function showChosen() {
  byId("compare").disabled = chosen.size < 2;
  byId("compare").textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
}

// Rows stay the same elements while their entries do, so that the focus stays, too.
function update(list, items, make) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map(([key, part]) => {
    const text = JSON.stringify(part);
    const old = known.get(key);
    if (old && old.dataset.part === text) return old;
    const made = make(part);
    made.dataset.key = key;
    made.dataset.part = text;
    return made;
  });
  const isSame = wanted.length === list.children.length && wanted.every((child, index) => child === list.children[index]);
  if (!isSame) list.replaceChildren(...wanted);
}

const named = (prefix) => [...parts].filter(([name]) => name.startsWith(prefix));
const matches = (entry, words) => words.every((word) => JSON.stringify(Object.values(entry)).toLowerCase().includes(word));

function showOverview() {
  const results = named("result/").sort(([, a], [, b]) => b.began_s - a.began_s);
  const running = results.filter(([, entry]) => entry.state === "running");
  byId("now").hidden = !running.length;
  update(byId("now").querySelector(".cards"), running, card);

  const networks = named("network/");
  byId("networks").hidden = !networks.length;
  update(byId("networks").querySelector(".cards"), networks, networkCard);

  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const ended = results.filter(([, entry]) => entry.state !== "running");
  const shown = ended.filter(([, entry]) => matches(entry, words));
  update(byId("results").querySelector(".results"), shown, resultRow);
  byId("count").textContent = words.length ? `${shown.length} of ${ended.length}` : "";
  byId("empty").hidden = results.length > 0;
  for (const at of chosen) if (!parts.has(`result/${at}`)) chosen.delete(at);
  showChosen();
}

function networkCard(entry) {
  const isUp = entry.state === "running";
  const made = element(isUp ? "a" : "div", { class: "card", ...(isUp && { href: address("/network", { name: entry.name }) }) });
  made.append(element("div", { class: "title" }, entry.name, mark(upState(entry.state))));
  const facts = [entry.topology, plural(entry.hosts, "host"), plural(entry.links, "link"), entry.clock && `${entry.clock} clock`];
  made.append(element("div", { text: facts.filter(Boolean).join(" · "), class: "note" }));
  if (entry.text) made.append(element("p", { text: entry.text, class: "note" }));
  if (!isUp && entry.state !== "starting") {
    const button = element("button", { text: "Remove", type: "button", class: "danger" });
    button.addEventListener("click", () => destroy(entry.name, button));
    made.append(button);
  }
  return made;
}

// ---- a run

const RAMP = [[0x9a, 0xa5, 0xb0], [0x3f, 0x8f, 0xdc], [0xf0, 0x8a, 0x00]]; // idle, half used, full: as in the legend

function colourOf(share) {
  const position = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const number = Math.min(Math.floor(position), RAMP.length - 2);
  const channels = RAMP[number].map((low, index) => low + (RAMP[number + 1][index] - low) * (position - number));
  return `rgb(${channels.map(Math.round).join(" ")})`;
}

function showUse(use) {
  for (const group of document.querySelectorAll(".site-map .link[id]")) {
    const key = group.id.slice("link-".length);
    const shares = use[key] ?? [0, 0];
    const lines = group.querySelectorAll("path");
    lines.forEach((line, index) => {
      const isForward = index < lines.length / 2;
      line.style.stroke = colourOf(isForward ? shares[0] : shares[1]);
    });
    const label = byId(`label-${key}`)?.querySelector(".use");
    if (!label) continue;
    const left = [...shares];
    label.textContent = label.textContent.replace(/\d+ %/g, () => `${Math.round(100 * left.shift())} %`);
  }
}

function showFigure(name, { title, explanation, figure }) {
  let part = byId(name);
  if (!part) {
    part = element("section", { class: "part", id: name }, element("h2", { text: title }), element("p", { text: explanation, class: "note" }));
    const frame = element("figure", { "aria-label": title });
    frame.append(element("div", { class: "plot" }), element("script", { type: "application/json" }));
    part.append(frame);
    byId("figures").append(part);
  }
  part.querySelector("script").textContent = JSON.stringify(figure);
  const plot = part.querySelector(".plot");
  const drawn = fitted(figure, plot);
  drawn.layout.uirevision = "as chosen"; // zoom stays
  Plotly.react(plot, drawn);
}

function showEvents(events) {
  byId("happened").hidden = !events.length;
  const rows = [...events].reverse().map(({ what, at_s: at }) =>
    element("li", {}, element("span", { text: at === null ? "" : `${at.toFixed(3)} s`, class: "at" }), element("span", { text: what })));
  byId("happened").querySelector("ol").replaceChildren(...rows);
}

let wasRunning = false;

function showRun(changed) {
  const entry = parts.get("entry");
  if (!entry) return;
  const isRunning = entry.state === "running";
  const { stage } = entry;
  byId("marks").replaceChildren(...marksOf(entry));
  byId("live").hidden = !isRunning && !wasRunning;
  wasRunning ||= isRunning;
  if (isRunning) {
    const text = stageText(stage);
    byId("doing").textContent = text[0].toUpperCase() + text.slice(1);
    const facts = [entry.workload, entry.topology, entry.ranks ? plural(entry.ranks, "rank") : ""].filter(Boolean);
    if (stage?.began_s) facts.push(`${duration(Math.max(0, Date.now() / 1000 - stage.began_s))} so far`);
    byId("count").textContent = facts.join(" · ");
    document.querySelector(".progress").hidden = !stage?.total;
    document.querySelector(".progress .done").style.width = `${stage?.total ? 100 * Math.min(1, stage.done / stage.total) : 0}%`;
    byId("stages").replaceChildren(...(stage?.stages ?? []).map((row) => element("li", { text: row.text, ...(row.is_present && { class: "present" }) })));
  }
  if (parts.has("use") && changed.has("use")) showUse(parts.get("use"));
  if (changed.has("events")) showEvents(parts.get("events"));
  if (changed.has("output")) {
    byId("printed").hidden = !parts.get("output");
    byId("printed").querySelector("pre").textContent = parts.get("output");
  }
  const warnings = parts.get("warnings") ?? [];
  byId("warnings").hidden = !warnings.length || !isRunning;
  byId("warnings").replaceChildren(element("strong", { text: "Warnings" }), element("ul", {}, ...warnings.map((text) => element("li", { text }))));
  for (const name of changed) if (name.startsWith("figure-")) showFigure(name, parts.get(name));
  if (!isRunning) {
    byId("live").hidden = true;
    finish();
    showReport();
  }
}

// ---- a sweep

let shownPoints = -1;

function showSweep() {
  const entry = parts.get("entry");
  if (!entry) return;
  const index = parts.get("index") ?? { description: "", answers: [] };
  const isRunning = entry.state === "running";
  byId("live").hidden = !isRunning;
  byId("doing").textContent = pointsText(entry);
  byId("description").textContent = index.description;
  byId("answers").replaceChildren(...index.answers.map((text) => element("p", { text, class: "verdict" })));
  byId("marks").replaceChildren(mark(entry.state));
  const bar = document.querySelector(".progress");
  bar.hidden = !entry.points;
  bar.querySelector(".done").style.width = `${entry.points ? (100 * (entry.completed + entry.failed)) / entry.points : 0}%`;
  const running = named("stage-");
  byId("now").hidden = !running.length;
  update(byId("now").querySelector(".cards"), running, card);
  update(byId("points").querySelector(".results"), named("point-"), pointRow);
  const settled = entry.completed + entry.failed;
  const hasNew = settled !== shownPoints;
  if (!isRunning) {
    finish();
    showReport();
  } else if (hasNew && settled) {
    showReport();
  }
  shownPoints = settled;
}

function pointRow(point) {
  const name = point.at ? element("a", { text: point.name, href: address("/run", { at: point.at }) }) : point.name;
  const row = element("li", {}, element("div", { class: "title" }, name, mark(point.state)));
  if (point.reason) row.append(element("div", { text: point.reason, class: "text" }));
  if (point.values) row.append(element("div", { text: point.values, class: "facts" }));
  return row;
}

// ---- a deployed network

const upState = (state) => (state === "running" ? "up" : state);

async function send(path, content, answer) {
  answer.className = "answer";
  answer.textContent = "…";
  try {
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
    const { error } = await response.json();
    answer.textContent = error ?? "done";
    answer.classList.toggle("wrong", Boolean(error));
    return !error;
  } catch {
    answer.textContent = "the dashboard does not answer";
    answer.classList.add("wrong");
    return false;
  }
}

async function destroy(name, button) {
  if (!confirm(`Take down ${name}?`)) return;
  button.disabled = true;
  const answer = element("p");
  button.after(answer);
  const isDone = await send(`/networks/${encodeURIComponent(name)}/destroy`, {}, answer);
  button.disabled = false;
  if (isDone && page.page === "network") location.assign("/");
}

const SETTINGS = ["rate", "delay", "loss"];

function linkCard(link) {
  const made = element("form", { class: "card" }, element("div", { text: link.key, class: "title" }));
  const settingsOf = ({ rate, delay, loss }) => `${rate}, ${delay}, loss ${loss}`;
  const isSame = settingsOf(link.directions[0]) === settingsOf(link.directions[1]);
  const directions = link.directions.slice(0, isSame ? 1 : 2).map((direction) =>
    element("div", { text: `${direction.source} ${isSame ? "⇄" : "→"} ${direction.target}: ${settingsOf(direction)}` }));
  made.append(element("div", { class: "directions" }, ...directions));
  const fields = element("div", { class: "settings" });
  const inputs = new Map();
  for (const setting of SETTINGS) {
    const [first, second] = link.directions.map((direction) => direction[setting]);
    const id = `${link.key} ${setting}`;
    const same = first === second;
    const input = element("input", { id, name: setting, autocomplete: "off", ...(same ? { value: first } : { placeholder: `${first} / ${second}` }) });
    inputs.set(setting, input);
    fields.append(element("label", { text: setting, for: id }), input);
  }
  const button = element("button", { text: "Apply", type: "submit" });
  const answer = element("p");
  made.append(fields, button, answer);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const changed = [...inputs].filter(([, input]) => input.value !== input.defaultValue);
    if (!changed.length) {
      answer.textContent = "nothing was changed";
      return;
    }
    button.disabled = true;
    const values = Object.fromEntries(changed.map(([setting, input]) => [setting, input.value]));
    await send(`/networks/${encodeURIComponent(page.title)}/link`, { link: link.key, values }, answer);
    button.disabled = false;
  });
  return made;
}

function showNetwork() {
  if (parts.has("gone")) {
    byId("doing").textContent = parts.get("gone");
    byId("links").hidden = true;
    finish();
    return;
  }
  const entry = parts.get("entry");
  if (!entry) return;
  byId("doing").textContent = `${page.title}: ${plural(entry.hosts, "host")}, ${plural(entry.links, "link")}`;
  const marks = [mark(upState(entry.state))];
  if (entry.clock) marks.push(mark("", `${entry.clock} clock`));
  byId("marks").replaceChildren(...marks);
  const links = (parts.get("links") ?? []).map((link) => [link.key, link]);
  byId("links").hidden = !links.length;
  update(byId("links").querySelector(".cards"), links, linkCard);
  const hosts = parts.get("hosts") ?? [];
  byId("hosts").hidden = !hosts.length;
  const rows = hosts.map(({ name, datacenter, address: ip }) => element("tr", {}, ...[name, datacenter, ip].map((text) => element("td", { text }))));
  byId("hosts").querySelector("tbody").replaceChildren(...rows);
}

// ---- begin

const shows = { overview: showOverview, run: showRun, sweep: showSweep, network: showNetwork };
if (page.page === "overview") {
  byId("search").addEventListener("input", showOverview);
  byId("compare").addEventListener("click", () => {
    const query = new URLSearchParams([...chosen].sort().map((at) => ["run", at]));
    location.assign(`/compare?${query}`);
  });
}
byId("destroy")?.addEventListener("click", (event) => destroy(page.title, event.currentTarget));
showUse({});
if (page.events) listen();
else {
  finish();
  showReport();
}
