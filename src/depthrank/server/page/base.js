// What the other files share: elements, calls to the server, the token, messages.

export const $ = id => document.getElementById(id);
const TOKEN = "depthrank-token";

export function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class ServerSaid extends Error {}

export async function call(path, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, options).catch(() => { throw new ServerSaid("The server does not answer. Is it still running?"); });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  if (response.status === 401) askForToken();
  throw new ServerSaid(sayError(response.status, answer && answer.error));
}

function sayError(status, error) {
  if (!error) return `The server answered ${status}.`;
  const problems = (error.problems || []).map(p => `\n${p.path}: found ${p.found}, expected ${p.expected}${p.hint ? "; " + p.hint : ""}`);
  return `${error.message}${problems.join("")}\n(request ${error.request_id})`;
}

function askForToken() {
  const form = $("access");
  if (!form.hidden) return;
  form.hidden = false;
  $("token").focus();
}

export function onToken(work) {
  $("access").addEventListener("submit", event => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, $("token").value.trim());
    $("token").value = "";
    $("access").hidden = true;
    work();
  });
}

export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

export async function attempt(work) {
  document.body.ariaBusy = "true";
  try {
    await work();
  } catch (error) {
    notice(error instanceof ServerSaid ? error.message : String(error));
    if (!(error instanceof ServerSaid)) throw error;
  } finally {
    document.body.ariaBusy = "false";
  }
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  if (Math.abs(value) < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

export const percent = share => share === null || share === undefined ? "–" : `${number(100 * share, share < 0.0995 ? 2 : 3)} %`;

export function ago(ms) {
  const seconds = (Date.now() - ms) / 1000;
  if (seconds < 60) return "just now";
  for (const [unit, size] of [["y", 31557600], ["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
}
