// Polls /v1/status while the page is visible and not paused, and shows it.

import { $, ServerSaid, call, el, number, percent } from "./base.js";
import { Chart, drawSparkline, ladderChart, latencyChart, rateChart, sparkline } from "./chart.js";

const EVERY_MS = 1000, MOST_MS = 15000, CACHE_POLLS = 30;
const caches = [];
let paused = false, timer = 0, wait = EVERY_MS, onAgain = () => {};

const TILES = [
  ["throughput", "Throughput", "/s"], ["goodput", "Goodput", "/s"], ["p50", "p50", "ms"], ["p99", "p99", "ms"],
  ["price", "Price", ""], ["cost", "Cost", "% of full"], ["cache", "Cached users", ""], ["degraded", "Degraded", ""],
];
const tiles = {};
let charts = null;

function makeTiles() {
  for (const [key, name, unit] of TILES) {
    const value = el("span", {}, "–"), more = el("div", { className: "more" }), spark = sparkline();
    const tile = el("div", { className: "tile" }, el("div", { className: "name" }, name),
      el("div", { className: "value" }, value, el("span", { className: "unit" }, unit)), more, spark);
    tiles[key] = { value, more, spark, past: [] };
    $("tiles").append(tile);
  }
}

function setTile(key, text, more = "", series = null, last = null) {
  const tile = tiles[key];
  tile.value.textContent = text;
  tile.more.textContent = more;
  if (series === null) {
    tile.past.push(last);
    series = tile.past = tile.past.slice(-60);
  }
  drawSparkline(tile.spark, series);
}

function cacheShare(cache) {
  caches.push(cache);
  if (caches.length > CACHE_POLLS) caches.shift();
  const since = name => cache[name] - (caches.length > 1 ? caches[0][name] : 0);
  let found = since("warm") + since("extended"), all = found + since("cold");
  if (!all) { found = cache.warm + cache.extended; all = found + cache.cold; }
  return all ? found / all : null;
}

const first = object => Object.values(object || {})[0];

function showTiles(status) {
  const { now, series, ladder, cache, load } = status;
  const offered = now.throughput_rps + now.refused_rps;
  setTile("throughput", number(now.throughput_rps), now.refused_rps ? `${number(now.refused_rps)}/s turned away` : "", series.throughput_rps);
  setTile("goodput", number(now.goodput_rps), offered ? `${percent(now.goodput_rps / offered)} of what came` : "", series.goodput_rps);
  setTile("p50", number(now.p50_ms), now.thread_ms === null ? "" : `${number(now.thread_ms)} ms of a thread`, series.p50_ms);
  setTile("p99", number(now.p99_ms), now.p90_ms === null ? "" : `p90 ${number(now.p90_ms)} ms`, series.p99_ms);
  const price = first(load.price) ?? (ladder && ladder.default_price);
  setTile("price", number(price), load.load === null || load.load === undefined ? "" : `load ${percent(load.load)}`, null, price ?? null);
  const point = ladder && ladder.point;
  setTile("cost", point ? number(100 * point.cost) : "–", point ? `keeps about ${percent(point.kept_gain)} of the gain` : ladder ? "" : "no ladder: full depth", null, point ? point.cost : null);
  const share = cacheShare(cache);
  setTile("cache", percent(share), `${number(cache.users)} held, ${number(cache.bytes / 2 ** 20)} MB`, null, share);
  setTile("degraded", percent(now.degraded_share), status.trouble.length ? status.trouble[0] : "", null, now.degraded_share);
}

function showDepth(depth) {
  const rows = depth.flatMap(({ level, share, candidates }) => {
    const fill = el("i", { className: "fill" });
    fill.style.width = `${Math.min(100, 100 * share)}%`;
    const name = level === 0 ? "router" : `level ${level}`;
    return [el("div", { className: "depth-row" }, el("span", {}, name), el("span", { className: "track" }, fill), el("span", { className: "number" }, percent(share)),
      el("span", { className: "sub" }, `scores ${number(candidates)} candidates a request`))];
  });
  $("depth").replaceChildren(...(rows.length ? rows : [el("p", { className: "soft" }, "No request in the last seconds.")]));
}

const seenOf = recent => recent.map(r => r.request_id + r.at_ms).join();
let shownRecent = "";

function showRecent(recent) {
  const key = seenOf(recent);
  if (key === shownRecent) return;
  shownRecent = key;
  const open = new Set([...$("recent").querySelectorAll("details[open]")].map(d => d.dataset.key));
  const focused = document.activeElement.closest && document.activeElement.closest("#recent details");
  const again = focused && [focused.dataset.key, document.activeElement.tagName];
  $("recent").replaceChildren(...recent.map(r => requestRow(r, open)));
  if (!recent.length) $("recent").append(el("li", { className: "soft" }, "None yet."));
  const place = again && [...$("recent").querySelectorAll("details")].find(d => d.dataset.key === again[0]);
  if (place) place.querySelector(again[1].toLowerCase()).focus({ preventScroll: true });
}

function requestRow(request, open) {
  const key = request.request_id + request.at_ms;
  const deepest = request.candidates_scored.findLastIndex(n => n > 0);
  const steps = request.candidates_scored.map((n, level) => el("span", { className: "step" + (level === deepest ? " deepest" : ""), title: `level ${level}` }, number(n)));
  if (deepest < 0 && !request.refused) steps.splice(0, steps.length, el("span", { className: "soft" }, "input order"));
  const words = request.refused ? [el("span", { className: "tag" }, "turned away")] : request.degraded.length ? [el("span", { className: "tag" }, "degraded"), ` ${request.degraded[0]}`] : [];
  const who = request.user === null ? "(user not shown)" : request.user;
  const summary = el("summary", {},
    el("span", { className: "soft number" }, new Date(request.at_ms).toLocaleTimeString("en", { hour12: false })),
    el("span", { className: "title" }, who), el("span", { className: "soft mode" }, request.mode),
    el("span", { className: "steps path" }, ...steps), el("span", { className: "number" }, `${number(request.took_ms)} ms`), el("span", { className: "soft words" }, ...words));
  const body = el("div", { className: "body" }, el("ul", { className: "story" }, ...request.story.map(text => el("li", {}, text))),
    el("span", { className: "detail" }, [request.model, `request ${request.request_id}`].filter(Boolean).join(" · ")));
  if (request.user !== null) {
    const button = el("button", { type: "button", className: "small" }, "Rank for this user");
    button.addEventListener("click", () => onAgain(request.user));
    body.append(button);
  }
  const details = el("details", { open: open.has(key) }, summary, body);
  details.dataset.key = key;
  return el("li", {}, details);
}

function showTable(table, caption, head, rows) {
  table.replaceChildren(el("caption", {}, caption), el("thead", {}, el("tr", {}, ...head.map(text => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map(row => el("tr", {}, ...row.map(text => el("td", {}, String(text)))))));
}

function showModels(status) {
  showTable($("versions"), "Model versions", ["version", "labels", "share", "answers", "errors"], status.models.map(m =>
    [m.model, m.labels.join(", ") || "none", m.share === null ? "–" : percent(m.share), number(m.counts.answers), number(m.counts.errors)]));
  showTable($("engines"), "Engines", ["engine", "waiting", "running", "backlog", "speed"], (status.load.lanes || []).map((lane, i) =>
    [`${i + 1}${lane.up ? "" : " (down)"}`, lane.waiting, lane.running, `${number(lane.backlog_ms)} ms`, number(lane.speed)]));
  const hours = status.drift.slice(-8).reverse();
  $("drift-card").hidden = !hours.length;
  showTable($("drift"), "Quality by hour, of what was served", ["hour", "task", "impressions", "NE", "calibration"], hours.map(h =>
    [new Date(h.hour_ms).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false }), h.task, number(h.impressions), number(h.ne), number(h.calibration)]));
}

function show(status) {
  $("phase").textContent = status.phase;
  $("phase").dataset.phase = status.phase;
  $("window").textContent = `the last ${status.window_s} seconds; up ${duration(status.uptime_s)}`;
  showTiles(status);
  showDepth(status.depth);
  charts.rate.show(status.series);
  charts.latency.show(status.series);
  if (status.ladder) charts.ladder.show(status.ladder);
  else $("plot-ladder").textContent = "This model has no plan ladder: every request goes to full depth.";
  const point = status.ladder && status.ladder.point;
  $("point-words").textContent = point ? `now ${number(100 * point.cost)} % of full cost` : "";
  showRecent(status.recent);
  showModels(status);
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

async function poll() {
  clearTimeout(timer);
  if (paused || document.visibilityState === "hidden") return;
  try {
    show(await call("v1/status"));
    wait = EVERY_MS;
  } catch (error) {
    if (!(error instanceof ServerSaid)) throw error;
    $("phase").textContent = "no answer";
    $("phase").dataset.phase = "away";
    wait = Math.min(MOST_MS, 2 * wait);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, wait);
}

export function watch(rankFor) {
  onAgain = rankFor;
  makeTiles();
  charts = { rate: new Chart($("plot-rate"), rateChart), latency: new Chart($("plot-latency"), latencyChart), ladder: new Chart($("plot-ladder"), ladderChart) };
  document.addEventListener("visibilitychange", poll);
  $("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").ariaPressed = String(paused);
    $("pause").textContent = paused ? "Go on" : "Pause";
    poll();
  });
  return poll();
}

export function pollNow() {
  wait = EVERY_MS;
  return poll();
}
