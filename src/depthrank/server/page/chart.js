// Sparklines of our own, which cost nothing; and larger charts by plotly.js, which comes from the installed plotly
// package and is fetched only when a chart comes into view.

const SVG = "http://www.w3.org/2000/svg";
let library = null;

export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 26");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "path"));
  return svg;
}

export function drawSparkline(svg, values) {
  const most = Math.max(...values.filter(v => v !== null), 1e-9);
  let path = "", drawing = false;
  values.forEach((value, i) => {
    if (value === null) { drawing = false; return; }
    const x = 100 * i / Math.max(1, values.length - 1), y = 24.5 - 23 * value / most;
    path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (!drawing && (i + 1 === values.length || values[i + 1] === null)) path += "h0.6";
    drawing = true;
  });
  svg.firstChild.setAttribute("d", path);
}

function load() {
  library ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "page/plotly.min.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("the charting library could not be fetched"));
    document.head.append(script);
  });
  return library;
}

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(more) {
  const axis = { gridcolor: colour("--grid"), zerolinecolor: colour("--line"), color: colour("--soft"), fixedrange: true };
  return {
    margin: { l: 42, r: 8, t: 4, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--soft"), size: 11, family: "system-ui, sans-serif" },
    legend: { orientation: "h", x: 0, y: 1.16, font: { size: 11 } }, hovermode: "x unified", height: 210, autosize: true,
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const line = (name, x, y, tone, more = {}) => ({ name, x, y, mode: "lines", line: { color: colour(tone), width: 2 }, ...more });
const OPTIONS = { displayModeBar: false, responsive: true };

// A chart draws its newest data as soon as it has been seen, and again at every change.
export class Chart {
  constructor(place, build) {
    Object.assign(this, { place, build, data: null, seen: false, drawn: false });
    place.textContent = "…";
    new IntersectionObserver((entries, observer) => {
      if (!entries.some(e => e.isIntersecting)) return;
      observer.disconnect();
      this.seen = true;
      this.draw();
    }, { rootMargin: "80px" }).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(data) {
    this.data = data;
    return this.draw();
  }

  async draw() {
    if (!this.seen || this.data === null) return;
    try {
      const plotly = await load();
      const { traces, layout: more, label } = this.build(this.data);
      if (!this.drawn) this.place.textContent = "";
      this.drawn = true;
      this.place.setAttribute("role", "img");
      this.place.setAttribute("aria-label", label);
      await plotly.react(this.place, traces, layout(more), OPTIONS);
    } catch (error) {
      this.place.textContent = error.message;
    }
  }
}

const seconds = values => values.map((_, i) => i - values.length);

export function rateChart(series) {
  const x = seconds(series.throughput_rps);
  const traces = [line("answers", x, series.throughput_rps, "--soft"), line("good", x, series.goodput_rps, "--accent")];
  if (series.refused_rps.some(v => v)) traces.push(line("turned away", x, series.refused_rps, "--down"));
  const last = series.throughput_rps.at(-1);
  return { traces, layout: { xaxis: { title: { text: "seconds ago" } }, yaxis: { rangemode: "tozero" } }, label: `Requests a second over the last minute; ${last} in the last second` };
}

export function latencyChart(series) {
  const x = seconds(series.p50_ms);
  const traces = [line("p50", x, series.p50_ms, "--accent", { connectgaps: false }), line("p99", x, series.p99_ms, "--second", { connectgaps: false })];
  return { traces, layout: { xaxis: { title: { text: "seconds ago" } }, yaxis: { rangemode: "tozero" } }, label: "Latency over the last minute, p50 and p99 in milliseconds" };
}

export function ladderChart(ladder) {
  const cost = ladder.rungs.map(r => 100 * r.cost), gain = ladder.rungs.map(r => 100 * r.kept_gain);
  const words = ladder.rungs.map(r => r.widths.map(w => w > 1e9 ? "all" : w).join(", "));
  const traces = [{ name: "ladder", x: cost, y: gain, mode: "lines+markers", text: words, line: { color: colour("--bar"), shape: "linear", width: 2 },
    marker: { size: 6, color: colour("--accent") }, hovertemplate: "cost %{x:.1f} %<br>kept gain %{y:.1f} %<br>widths %{text}<extra></extra>" }];
  const point = ladder.point;
  if (point) traces.push({ name: "now", x: [100 * point.cost], y: [100 * point.kept_gain], mode: "markers", marker: { size: 15, symbol: "diamond", color: colour("--second"), line: { width: 2, color: colour("--card") } },
    hovertemplate: "now: cost %{x:.1f} %, about %{y:.1f} % of the gain<extra></extra>" });
  const label = point ? `Plan ladder; now at ${number(100 * point.cost)} % of full cost, keeping about ${number(100 * point.kept_gain)} % of the gain` : "Plan ladder; no request yet";
  return { traces, layout: { hovermode: "closest", xaxis: { type: "log", title: { text: "cost, % of full depth" }, ...ticksOf(cost) }, yaxis: { title: { text: "kept gain, %" } } }, label };
}

const number = value => String(Number(value.toPrecision(3)));

function ticksOf(costs) {
  const ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter(t => t >= 0.8 * Math.min(...costs) && t <= 100);
  return { tickvals: ticks, ticktext: ticks.map(String) };
}
