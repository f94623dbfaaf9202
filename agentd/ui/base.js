// Functions of both pages. Output of hooks and agents is shown as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const SHOWN_CHARACTERS = 2000;
const WINDOWS_MS = [60_000, 120_000, 240_000, 600_000];
const numbers = new Intl.NumberFormat("en");

export const byId = (id) => document.getElementById(id);
export const count = (value) => numbers.format(value);
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** An element with attributes and children; strings become text nodes. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const pill = (word, tone = "") => el("span", { class: "pill", "data-tone": tone }, word);

/** One message of a conversation. A long one is truncated at its start: the layout of megabytes would block the page. */
export function messageItem({ role, content, time }) {
  const cut = content.length - SHOWN_CHARACTERS;
  const text = cut > 0 ? `… ${content.slice(cut)}` : content || "(empty)";
  const head = [role, formatTime(time), cut > 0 && `the last ${count(SHOWN_CHARACTERS)} of ${count(content.length)} characters`];
  return el("li", { "data-role": role }, el("div", { class: "soft small" }, head.filter(Boolean).join(" · ")), el("div", { class: "text" }, text));
}

/** Set a text only if it changed, so that a screen reader announces it once. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setPill(node, word, tone = "") {
  setText(node, word);
  node.dataset.tone = tone;
}

/** The time of day of an RFC 3339 string, of Unix milliseconds, or of now. */
export function formatTime(moment = Date.now()) {
  const date = new Date(moment);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleTimeString("en-GB");
}

export function formatDuration(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Replace the children of `parent` whose item changed. Open details and the focus are kept. */
export function reconcile(parent, items, keyOf, build) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const signature = JSON.stringify(item);
    const old = before.get(key);
    if (old && old.signature === signature) return old;
    const fresh = build(item);
    fresh.dataset.key = key;
    fresh.signature = signature;
    if (old) keepOpen(old, fresh);
    return fresh;
  });
  wanted.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

function keepOpen(old, fresh) {
  const opened = [...old.querySelectorAll("details")].map((node) => node.open);
  fresh.querySelectorAll("details").forEach((node, index) => {
    node.open = opened[index] ?? node.open;
  });
  const selector = "summary, button, a";
  const focused = [...old.querySelectorAll(selector)].indexOf(document.activeElement);
  if (focused >= 0) queueMicrotask(() => fresh.querySelectorAll(selector)[focused]?.focus());
}

/** Send a request to the server and return its JSON. `path` is relative, because a proxy may add a prefix. Throws an Error with a message to show. */
export async function requestJson(path, { method = "GET", body } = {}) {
  const response = await fetch(path, {
    method,
    headers: { "X-Agentd": "page", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const text = await response.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`${response.status}: not JSON`);
  }
  if (!response.ok) throw new Error([value.message, value.detail].filter(Boolean).join(" ") || `HTTP ${response.status}`);
  return value;
}

/** The size, SHA-256 (hex) and text of a response; null if it is an error. */
export async function requestBytes(path) {
  const response = await fetch(path, { headers: { "X-Agentd": "page" }, cache: "no-store" });
  if (!response.ok) return null;
  const buffer = await response.arrayBuffer();
  const digest = crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", buffer)) : null;
  const sha256 = digest ? [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") : "";
  return { length: buffer.byteLength, sha256, text: new TextDecoder().decode(buffer) };
}

/** Show the used part of the budget, also for screen readers. */
export function setBudget(node, used, budget) {
  node.setAttribute("aria-valuenow", used);
  node.setAttribute("aria-valuemax", budget);
  node.setAttribute("aria-valuetext", `${count(used)} of ${count(budget)} bytes`);
  node.dataset.full = String(used > budget * 0.95);
  node.firstElementChild.style.width = `${Math.min(100, (used / budget) * 100)}%`;
}

/** Add an entry at the top of a log. The log keeps 200 entries. */
export function addLogEntry(list, text, tone = "", at = Date.now()) {
  list.prepend(el("li", {}, el("time", {}, formatTime(at)), el("span", { class: "grow" }, text), tone ? pill(tone[0], tone[1]) : null));
  while (list.children.length > 200) list.lastElementChild.remove();
}

/** A chart of states over the last minutes, with one lane for each state. */
export class Strip {
  constructor(node, lanes) {
    this.node = node;
    this.lanes = lanes;
    this.spans = [];
    node.style.height = `${lanes.length * 20 + 28}px`;
  }

  /** The length of the chart: one to ten minutes, as long as the recorded states need. */
  get windowMs() {
    const shown = this.spans.length ? this.spans.at(-1).to - this.spans[0].from : 0;
    return WINDOWS_MS.find((window) => window >= shown) ?? WINDOWS_MS.at(-1);
  }

  /** Record `state` at `now`, and from `since` on if that is earlier. */
  observe(state, now, since = now) {
    const last = this.spans.at(-1);
    if (last?.state === state && !(since > last.to + 1500)) last.to = now;
    else this.spans.push({ state, from: Math.min(now, Math.max(since, last?.to ?? 0)), to: now });
    this.spans = this.spans.filter((span) => span.to > now - WINDOWS_MS.at(-1));
    this.draw(now);
  }

  draw(now) {
    const width = this.node.clientWidth || 600;
    const left = 84;
    const laneHeight = 20;
    const x = (time) => left + Math.max(0, 1 - (now - time) / this.windowMs) * (width - left - 10);
    const parts = this.lanes.map((lane, index) => [
      svg("text", { x: 10, y: index * laneHeight + 18 }, lane),
      svg("line", { x1: left, x2: width - 10, y1: index * laneHeight + 14.5, y2: index * laneHeight + 14.5 }),
    ]);
    const bars = this.spans.map((span) =>
      svg("rect", {
        class: span.state,
        x: x(span.from),
        width: Math.max(3, x(span.to) - x(span.from)),
        y: this.lanes.indexOf(span.state) * laneHeight + 8,
        height: 13,
        rx: 3,
      }, svg("title", {}, `${span.state}, ${formatTime(span.from)} to ${formatTime(span.to)}`)),
    );
    const bottom = this.lanes.length * laneHeight + 20;
    const ticks = [0, 1, 2, 3, 4].map((step) => {
      const ago = (this.windowMs / 4) * step;
      const label = ago < 60_000 ? `−${ago / 1000} s` : `−${ago / 60_000} min`;
      return svg("text", { x: x(now - ago), y: bottom, "text-anchor": step === 0 ? "end" : "middle" }, step === 0 ? "now" : label);
    });
    this.node.replaceChildren(...parts.flat(), ...bars, ...ticks);
    const recent = this.spans.slice(-5).map((span) => `${span.state} since ${formatTime(span.from)}`).join(", then ");
    this.node.setAttribute("aria-label", `States over time: ${recent || "no status yet"}`);
  }
}
