// The box to try a request: rank, act on an item, and see what moved.

import { $, ago, attempt, call, el, notice } from "./base.js";

const TITLE_COLUMNS = ["title", "name", "headline", "label", "product_name", "item_name"];
const SHOWN_HISTORY = 50;
const known = new Map();          // item id -> its catalogue columns
let tasks = {};                   // task -> the action that is its positive
let shown = null;                 // {user, requestId, rankOf} of the ranking on the page
let newest = 0;                   // number of the latest request, so that a slow answer never overwrites a later one

async function learnItems(ids) {
  const unknown = [...new Set(ids)].filter(id => !known.has(id));
  for (let start = 0; start < unknown.length; start += 50) {
    const query = unknown.slice(start, start + 50).map(id => "id=" + encodeURIComponent(id)).join("&");
    const answer = await call("v1/items?" + query);
    for (const item of answer.items) known.set(item.item, item.known ? item.columns : {});
  }
}

function titleOf(item) {
  const columns = known.get(item) || {};
  const name = TITLE_COLUMNS.find(c => typeof columns[c] === "string" && columns[c]);
  return name ? columns[name] : item;
}

function detailOf(item) {
  const columns = known.get(item) || {};
  const parts = [];
  for (const [name, value] of Object.entries(columns)) {
    if (TITLE_COLUMNS.includes(name) || value === null || (Array.isArray(value) && !value.length)) continue;
    const text = Array.isArray(value) ? value.slice(0, 4).join(", ") : String(value);
    if (text.length <= 60) parts.push(`${name} ${text}`);
    if (parts.length === 4) break;
  }
  return [titleOf(item) === item ? "" : "#" + item, ...parts].filter(Boolean).join(" · ");
}

function moveOf(item, rank, before) {
  if (!before) return el("span", { className: "move" });
  if (!before.has(item)) return el("span", { className: "move new", title: "not on the page before" }, "new");
  const delta = before.get(item) - rank;
  if (!delta) return el("span", { className: "move soft", ariaLabel: "unmoved" }, "·");
  const said = delta > 0 ? `up ${delta}` : `down ${-delta}`;
  return el("span", { className: "move " + (delta > 0 ? "up" : "down"), ariaLabel: said, title: said }, delta > 0 ? `▲ ${delta}` : `▼ ${-delta}`);
}

// Bars are as long as the probability beside the highest one shown of its task.
function taskBars(scores, highest) {
  const bars = Object.entries(scores).map(([task, p]) => {
    const fill = el("i", { className: "fill" });
    fill.style.width = `${Math.min(100, Math.max(0, 100 * p / (highest[task] || 1)))}%`;
    const text = p < 0.0995 ? (p * 100).toFixed(1) + "%" : Math.round(p * 100) + "%";
    return el("div", { className: "task", title: `${task}: ${p}` }, el("span", {}, task), el("div", { className: "track" }, fill), el("span", { className: "number" }, text));
  });
  return el("div", { className: "tasks" }, ...bars);
}

function becauseOf(explained) {
  const reasons = explained && explained.because ? explained.because.slice(0, 2) : [];
  const parts = reasons.map(r => `${titleOf(r.item)} (${r.actions.join(", ")}) ${r.adds < 0 ? "−" : "+"}${Math.abs(r.adds).toPrecision(2)}`);
  return parts.length ? el("div", { className: "detail" }, "because of " + parts.join(" and ")) : "";
}

function highestOf(items) {
  const highest = {};
  for (const { scores } of items) for (const [task, p] of Object.entries(scores)) highest[task] = Math.max(highest[task] || 0, p);
  return highest;
}

function rowOf(ranked, rank, before, acted, explained, highest) {
  const item = ranked.item;
  const level = ranked.level < 0 ? "input order" : `level ${ranked.level}`;
  const buttons = [...new Set(Object.values(tasks))].map(action => {
    const button = el("button", { type: "button", ariaLabel: `${action} ${titleOf(item)}` }, action);
    button.dataset.item = item;
    button.dataset.action = action;
    return button;
  });
  const value = ranked.value === null ? "none" : ranked.value.toPrecision(4);
  const row = el("li", { className: "row" + (acted === item ? " acted" : "") },
    el("span", { className: "rank" }, String(rank + 1)),
    moveOf(item, rank, before),
    el("div", { className: "what" }, el("div", { className: "title" }, titleOf(item)), el("div", { className: "detail" }, detailOf(item)),
      el("div", { className: "detail" }, `value ${value} `, el("span", { className: "level" }, level)), becauseOf(explained)),
    taskBars(ranked.scores, highest),
    el("div", { className: "actions" }, ...buttons));
  row.dataset.item = item;
  return row;
}

function showRanking(answer, before, acted) {
  const list = $("ranking");
  const explained = (answer.explain && answer.explain.items) || [];
  const tops = new Map([...list.children].map(row => [row.dataset.item, row.getBoundingClientRect().top]));
  const highest = highestOf(answer.items);
  list.replaceChildren(...answer.items.map((ranked, rank) => rowOf(ranked, rank, before, acted, explained[rank], highest)));
  if (!answer.items.length) list.append(el("li", { className: "soft" }, "Nothing to rank: the catalogue is empty."));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !before) return;
  for (const row of list.children) {
    const top = row.getBoundingClientRect().top;
    const shift = (tops.get(row.dataset.item) ?? top) - top;
    if (shift) row.animate([{ transform: `translateY(${shift}px)` }, { transform: "none" }], { duration: 450, easing: "ease-out" });
  }
}

const stageColour = i => `hsl(${(215 + i * 137.5) % 360} 55% 52%)`;

function showStages(timings) {
  const stages = Object.entries(timings).filter(([name, ms]) => name !== "total" && ms > 0);
  const sum = stages.reduce((total, [, ms]) => total + ms, 0);
  $("stages").replaceChildren(...stages.map(([name, ms], i) => {
    const part = el("i", { title: `${name}: ${ms.toFixed(2)} ms` });
    part.style.width = `${ms / sum * 100}%`;
    part.style.background = stageColour(i);
    return part;
  }));
  $("stages").ariaLabel = stages.map(([name, ms]) => `${name} ${ms.toFixed(2)} ms`).join(", ");
  $("legend").replaceChildren(...stages.flatMap(([name, ms], i) => {
    const dot = el("i", { className: "dot" });
    dot.style.background = stageColour(i);
    return [dot, el("span", {}, name), el("span", { className: "number" }, ms.toFixed(2) + " ms")];
  }));
}

async function showHistory(user) {
  const actions = encodeURIComponent([...new Set(Object.values(tasks))].join(","));
  const answer = await call(`v1/users/${encodeURIComponent(user)}/history?limit=${SHOWN_HISTORY}&actions=${actions}`);
  await learnItems(answer.events.map(e => e.item));
  const rows = answer.events.map(e => el("li", { title: new Date(e.time_ms).toISOString() },
    el("span", {}, titleOf(e.item)), el("span", { className: "soft" }, `${e.action} · ${ago(e.time_ms)}`)));
  $("history").replaceChildren(...(rows.length ? rows : [el("li", { className: "soft" }, "No events: ranked by what is known of everybody.")]));
}

function sayMoves(answer, before, acted) {
  if (!before) return;
  const moved = answer.items.filter((r, rank) => before.get(r.item) !== rank).length;
  let text = `${moved} of ${answer.items.length} places changed.`;
  if (acted) {
    const rank = answer.items.findIndex(r => r.item === acted.item);
    const to = rank < 0 ? "left the page" : `is now at ${rank + 1} (was ${before.get(acted.item) + 1})`;
    text = `After ${acted.action}: ${titleOf(acted.item)} ${to}. ${text}`;
  }
  $("moved").textContent = $("said").textContent = text;
}

export async function rank(acted) {
  const form = $("ask").elements;
  const user = form.user.value.trim();
  const number = ++newest;
  const started = performance.now();
  const body = { user, candidates: "all", top: Number(form.top.value), mode: form.mode.value, explain: form.explain.checked };
  if (form.deadline.value) body.deadline_ms = Number(form.deadline.value);
  const answer = await call("v1/rank", body);
  const elapsed = performance.now() - started;
  const why = answer.explain || {};
  await learnItems([...answer.items, ...(why.items || []).flatMap(r => r.because || [])].map(r => r.item));
  if (number !== newest) return;
  const before = shown && shown.user === user ? shown.rankOf : null;
  showRanking(answer, before, acted && acted.item);
  if (acted) focusAgain(acted);
  sayMoves(answer, before, acted);
  showStages(answer.timings_ms);
  $("story").replaceChildren(...(why.story || []).map(text => el("li", {}, text)));
  $("story-card").hidden = !why.story;
  $("summary").textContent = `${answer.candidates_scored.join(" → ")} candidates scored, ${elapsed.toFixed(0)} ms here`;
  notice(answer.degraded.is ? "Less than was asked for: " + answer.degraded.reasons.join("; ") : "");
  shown = { user, requestId: answer.request_id, rankOf: new Map(answer.items.map((r, i) => [r.item, i])) };
  history.replaceState(null, "", "#" + new URLSearchParams({ user }));
  await showHistory(user).catch(error => $("history").replaceChildren(el("li", { className: "soft" }, error.message)));
}

function eventId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, "0")).join("");
}

async function act(item, action) {
  const event = { user: shown.user, item, action, event_id: eventId(), request_id: shown.requestId, position: shown.rankOf.get(item) };
  await call("v1/events", event);
  await rank({ item, action });
}

// The rows are new: a keyboard goes on from the button that was pressed.
function focusAgain({ item, action }) {
  const again = [...document.querySelectorAll("#ranking button")].find(b => b.dataset.item === item && b.dataset.action === action);
  (again || $("ranking-title")).focus({ preventScroll: true });
}

function factOf(name, value) {
  if (name.endsWith("_ms")) return new Date(value).toISOString().slice(0, 16).replace("T", " ") + " UTC";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.entries(value).filter(([, v]) => v !== null).map(([k, v]) => `${k} ${v}`).join("; ");
  return typeof value === "number" ? value.toLocaleString("en") : String(value);
}

async function showModel() {
  const { models } = await call("v1/models");
  const model = models[0];
  tasks = model.tasks;
  const plain = Object.entries(model.info).filter(([, value]) => value !== null);
  $("model").replaceChildren(...[["status", model.status], ...plain].flatMap(([name, value]) => {
    const text = factOf(name, value);
    return [el("dt", {}, name.replace(/_ms$/, "").replaceAll("_", " ")), el("dd", {}, text.length > 160 ? text.slice(0, 157) + "…" : text)];
  }));
  $("model-line").textContent = `${model.name} · ${model.items.toLocaleString("en")} items · ${Object.keys(tasks).join(", ")}`;
}

// Users to choose from, where the server may name them to us.
async function offerUsers() {
  const { users } = await call("v1/status/sample?users=200&items=0").catch(() => ({ users: [] }));
  $("users").replaceChildren(...users.map(value => el("option", { value })));
  return users[0] ?? "1";
}

export async function begin() {
  await showModel();
  const asked = new URLSearchParams(location.hash.slice(1)).get("user");
  const offered = await offerUsers();
  const field = $("ask").elements.user;
  if (!field.value) field.value = asked ?? offered;
  await rank();
}

export function rankFor(user) {
  $("ask").elements.user.value = user;
  $("try").scrollIntoView();
  $("try").focus({ preventScroll: true });
  return attempt(() => rank());
}

export function listen() {
  $("ask").addEventListener("submit", event => { event.preventDefault(); attempt(() => rank()); });
  $("ranking").addEventListener("click", event => {
    const { item, action } = event.target.dataset;
    if (action) attempt(() => act(item, action));
  });
}
