// What both pages share. Whatever is shown was said by hooks and agents: it becomes text, never markup.

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

/** One message of a conversation; of a long one its end, because laying out megabytes twice a second stops a page. */
export function said({ role, content, time }) {
  const cut = content.length - SHOWN_CHARACTERS;
  const text = cut > 0 ? `… ${content.slice(cut)}` : content || "(empty)";
  const head = [role, clock(time), cut > 0 && `the last ${count(SHOWN_CHARACTERS)} of ${count(content.length)} characters`];
  return el("li", { "data-role": role }, el("div", { class: "soft small" }, head.filter(Boolean).join(" · ")), el("div", { class: "text" }, text));
}

/** Change text only where it changed, so that live regions speak once. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setPill(node, word, tone = "") {
  say(node, word);
  node.dataset.tone = tone;
}

/** The time of day of an RFC 3339 string, of Unix milliseconds, or of now. */
export function clock(moment = Date.now()) {
  const date = new Date(moment);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleTimeString("en-GB");
}

export function lasting(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Replace those children of `parent` whose item changed; what is open or has the focus stays so. */
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

/** Ask the server; relative, so that a proxy's path in front does not matter. Throws an Error that can be shown. */
export async function ask(path, { method = "GET", body } = {}) {
  const answer = await fetch(path, {
    method,
    headers: { "X-Agentd": "page", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const text = await answer.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`${answer.status}: not JSON`);
  }
  if (!answer.ok) throw new Error([value.message, value.detail].filter(Boolean).join(" ") || `HTTP ${answer.status}`);
  return value;
}

/** The exact bytes of an answer, with their SHA-256 in hex; null when there are none. */
export async function bytes(path) {
  const answer = await fetch(path, { headers: { "X-Agentd": "page" }, cache: "no-store" });
  if (!answer.ok) return null;
  const buffer = await answer.arrayBuffer();
  const digest = crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", buffer)) : null;
  const sha256 = digest ? [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") : "";
  return { length: buffer.byteLength, sha256, text: new TextDecoder().decode(buffer) };
}

/** How much of the budget is used: a meter that says its value to those who cannot see it. */
export function setBudget(node, used, budget) {
  node.setAttribute("aria-valuenow", used);
  node.setAttribute("aria-valuemax", budget);
  node.setAttribute("aria-valuetext", `${count(used)} of ${count(budget)} bytes`);
  node.dataset.full = String(used > budget * 0.95);
  node.firstElementChild.style.width = `${Math.min(100, (used / budget) * 100)}%`;
}

/** One line more in a list of what happened, newest first; old ones go. */
export function note(list, text, tone = "", at = Date.now()) {
  list.prepend(el("li", {}, el("time", {}, clock(at)), el("span", { class: "grow" }, text), tone ? pill(tone[0], tone[1]) : null));
  while (list.children.length > 200) list.lastElementChild.remove();
}

/** States over the last minutes, a lane each. */
export class Strip {
  constructor(node, lanes) {
    this.node = node;
    this.lanes = lanes;
    this.spans = [];
    node.style.height = `${lanes.length * 20 + 28}px`;
  }

  /** As much time as there is something to show of, from one minute to ten. */
  get windowMs() {
    const shown = this.spans.length ? this.spans.at(-1).to - this.spans[0].from : 0;
    return WINDOWS_MS.find((window) => window >= shown) ?? WINDOWS_MS.at(-1);
  }

  /** `state` holds at `now`, and since `since` if that is known to be earlier. */
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
      }, svg("title", {}, `${span.state}, ${clock(span.from)} to ${clock(span.to)}`)),
    );
    const bottom = this.lanes.length * laneHeight + 20;
    const ticks = [0, 1, 2, 3, 4].map((step) => {
      const ago = (this.windowMs / 4) * step;
      const label = ago < 60_000 ? `−${ago / 1000} s` : `−${ago / 60_000} min`;
      return svg("text", { x: x(now - ago), y: bottom, "text-anchor": step === 0 ? "end" : "middle" }, step === 0 ? "now" : label);
    });
    this.node.replaceChildren(...parts.flat(), ...bars, ...ticks);
    const told = this.spans.slice(-5).map((span) => `${span.state} since ${clock(span.from)}`).join(", then ");
    this.node.setAttribute("aria-label", `States over time: ${told || "nothing seen yet"}`);
  }
}
