// The daemon's page. It reads the local API after each event of the event stream, or every second without a stream.

import {
  addLogEntry, byId, count, el, formatDuration, formatTime, messageItem, pill, plural, reconcile, requestBytes, requestJson, setBudget, setPill, setText,
  Strip,
} from "./base.js";

const BUDGET = 65_536;
const POLL_MS = 1000;
const STREAM_POLL_MS = 5000; // with an event stream, for changes that it does not send
const MESSAGES_EVERY_MS = 2000;
const TONES = {
  running: "busy", waiting: "warn", settling: "warn", stable: "good", unreachable: "bad",
  connecting: "warn", listening: "good", acting: "busy", settled: "good", claim_failed: "bad", unauthorized: "bad",
  admitted: "busy", done: "good", failed: "bad", held: "warn", started: "busy", succeeded: "good", interrupted: "warn",
  delivered: "good", pending: "warn", refused: "bad", active: "good", paused: "warn", error: "bad", initializing: "busy",
};
// "replaced", a delivery that was pending when a newer snapshot was delivered, has no tone.
const toneOf = (word) => TONES[word] ?? "";
const strip = new Strip(byId("strip"), ["running", "waiting", "settling", "stable", "unreachable", "unknown"]);
const deliveries = [];
const before = {};
let status = null;
let failures = 0;
let refreshedAt = 0;
let messagesReadAt = 0;
let messagesFor = "";
let claimsFor = null;

/** True if `value` differs from the last one under this name, and for the first one. */
function changed(name, value) {
  const text = JSON.stringify(value) ?? "";
  if (before[name] === text) return false;
  before[name] = text;
  return true;
}

async function refresh() {
  try {
    status = await requestJson("v1/status");
    refreshedAt = Date.now();
    if (failures > 0) addLogEntry(byId("log"), "agentd answers again.", ["back", "good"]);
    failures = 0;
    byId("main").dataset.stale = "false";
    show(status);
    await Promise.all([refreshClaims(), refreshMessages()]);
    setPill(byId("link"), stream ? "live" : "live, polled every second", "good");
  } catch (error) {
    failures += 1;
    if (failures === 1) addLogEntry(byId("log"), `agentd does not answer (${error.message}).`, ["gone", "bad"]);
    strip.draw(Date.now());
    byId("main").dataset.stale = "true";
    if (status) setText(byId("evidence"), `last status at ${formatTime(refreshedAt)}`);
    setPill(byId("link"), "agentd does not answer", "bad");
  }
}

function show({ version, pid, started_at: startedAt, phase, workspace_id: workspace, agent, task, claims, snapshot }) {
  const up = formatDuration(Date.now() - Date.parse(startedAt));
  setText(byId("facts"), [`version ${version}`, `pid ${pid}`, `up ${up}`, workspace ? `workspace ${workspace}` : "workspace unknown"].join("  ·  "));
  if (changed("pid", pid)) addLogEntry(byId("log"), `agentd ${version} runs as process ${pid} since ${formatTime(startedAt)}.`, ["started", "good"]);
  if (phase && changed("phase", phase) && phase !== "running") addLogEntry(byId("log"), `Phase: ${phase}.`);

  const since = Date.parse(agent.since);
  setText(byId("agent"), agent.status);
  setText(byId("evidence"), `${agent.evidence} · since ${formatTime(since)}`);
  setPill(byId("task"), `task ${task.status}${task.state ? `, ${task.state}` : ""}`, toneOf(task.status));
  strip.observe(agent.status, Date.now(), since);
  if (changed("agent", agent.status)) addLogEntry(byId("log"), `The agent is ${agent.status}: ${agent.evidence}`, [agent.status, toneOf(agent.status)]);

  setPill(byId("claims-state"), claims.state.replaceAll("_", " "), toneOf(claims.state));
  setText(byId("claims-reason"), [claims.reason, claims.last_event_at && `last event ${formatTime(claims.last_event_at)}`].filter(Boolean).join(" · "));
  if (changed("claims", claims.state)) addLogEntry(byId("log"), `Claims: ${claims.reason || claims.state}`, [claims.state, toneOf(claims.state)]);
  showSnapshot(snapshot);
}

function showSnapshot(snapshot) {
  const receipt = snapshot.last_receipt;
  setText(byId("size"), count(snapshot.bytes));
  setBudget(byId("budget"), snapshot.bytes, BUDGET);
  setPill(byId("outcome"), receipt?.outcome ?? "nothing yet", toneOf(receipt?.outcome));
  if (!changed("snapshot", [snapshot.captured_at, receipt])) return;
  byId("snapshot-facts").replaceChildren(
    ...pair("Messages", count(snapshot.messages)),
    ...pair("Captured", snapshot.captured_at ? formatTime(snapshot.captured_at) : "not yet"),
    ...pair("SHA-256", el("span", { class: "mono", title: receipt?.sha256 ?? "" }, receipt?.sha256.slice(0, 16) || "–")),
  );
  if (!receipt) return;
  const known = deliveries.findIndex((one) => one.sha256 === receipt.sha256);
  if (known === 0) deliveries[0] = { ...receipt, seen: deliveries[0].seen };
  else {
    if (deliveries[0]?.outcome === "pending") deliveries[0] = { ...deliveries[0], outcome: "replaced", destinations: [] };
    deliveries.unshift({ ...receipt, seen: Date.now() });
  }
  deliveries.length = Math.min(deliveries.length, 20);
  reconcile(byId("deliveries"), deliveries, (one) => `${one.sha256} ${one.seen}`, showDelivery);
  byId("no-deliveries").hidden = true;
}

const pair = (name, value) => [el("dt", {}, name), el("dd", {}, value)];

function showDelivery(receipt) {
  const rows = receipt.destinations.map((one) =>
    el("li", { class: "hook", "data-tone": toneOf(one.outcome) },
      el("div", { class: "row" }, el("strong", { class: "grow" }, one.name), pill(one.outcome, toneOf(one.outcome))),
      el("p", { class: "soft small" }, [
        one.status !== null && `answered ${one.status}`, plural(one.attempts, "attempt"), one.at && formatTime(one.at), one.detail,
      ].filter(Boolean).join(" · "))));
  return el("li", { "data-tone": toneOf(receipt.outcome) },
    el("div", { class: "head" }, pill(receipt.outcome, toneOf(receipt.outcome)), `${count(receipt.bytes)} bytes, ${plural(receipt.messages, "message")}`,
      el("code", { class: "soft", title: receipt.sha256 }, receipt.sha256.slice(0, 12))),
    el("ul", { class: "hooks" }, rows));
}

async function refreshClaims() {
  const now = [status.claims.state, status.claims.since, status.claims.last_event_at];
  // While hooks run, their list changes and the state of the claim does not.
  if (status.claims.state !== "acting" && claimsFor === JSON.stringify(now)) return;
  const { claims } = await requestJson("v1/claims");
  claimsFor = JSON.stringify(now);
  byId("no-claims").hidden = claims.length > 0;
  reconcile(byId("claims"), [...claims].reverse(), (claim) => claim.id, showClaim);
  for (const claim of claims) {
    if (changed(`claim ${claim.id}`, claim.state)) addLogEntry(byId("log"), `Claim ${claim.id}: ${claim.why || claim.state}`, [claim.state, toneOf(claim.state)], Date.parse(claim.changed_at));
  }
}

function showClaim(claim) {
  const times = claim.hooks.flatMap((hook) => [hook.started_at, hook.ended_at]).filter(Boolean).map(Date.parse);
  const span = { from: Math.min(...times), to: Math.max(...times) };
  const canRetry = claim.state === "failed" || claim.state === "held";
  return el("li", { "data-tone": toneOf(claim.state) },
    el("div", { class: "head" }, pill(claim.state, toneOf(claim.state)), el("code", {}, claim.id), el("span", { class: "soft small" }, formatTime(claim.admitted_at)),
      canRetry ? el("button", { type: "button", click: () => act(`Claim ${claim.id} is queued; its hooks run again.`, `v1/claims/${encodeURIComponent(claim.id)}/retry`) }, "Retry") : null),
    el("p", { class: "soft small" }, [claim.why, claim.owner_id && `owner ${claim.owner_id}`].filter(Boolean).join(" · ")),
    el("ul", { class: "hooks" }, claim.hooks.map((hook) => showHook(hook, span))));
}

function showHook(hook, span) {
  const from = Date.parse(hook.started_at);
  const to = hook.ended_at ? Date.parse(hook.ended_at) : from;
  const bar = el("i");
  const whole = Math.max(1, span.to - span.from);
  bar.style.left = `${((from - span.from) / whole) * 98}%`;
  bar.style.width = `${((to - from) / whole) * 98}%`;
  const facts = [hook.attempt > 1 && `attempt ${hook.attempt}`, hook.exit_code !== null && `exit ${hook.exit_code}`, hook.ended_at && formatDuration(to - from), hook.why];
  const output = hook.tail?.trimEnd();
  return el("li", { class: "hook", "data-tone": toneOf(hook.state) },
    el("div", { class: "row" }, el("strong", {}, hook.name), el("span", { class: "soft small grow" }, facts.filter(Boolean).join(" · ")), pill(hook.state, toneOf(hook.state))),
    hook.started_at ? el("div", { class: "bar" }, bar) : null,
    output ? el("details", { open: "" }, el("summary", {}, "Output"), el("pre", { class: "out", tabindex: 0, "aria-label": `Output of ${hook.name}` }, output)) : null);
}

async function refreshMessages() {
  const now = JSON.stringify([status.agent.status, status.snapshot.captured_at]);
  const due = status.agent.status === "running" || now !== messagesFor;
  if (!due || Date.now() - messagesReadAt < MESSAGES_EVERY_MS) return;
  messagesReadAt = Date.now();
  messagesFor = now;
  let answer = null;
  try {
    answer = await requestJson("v1/messages");
  } catch (error) {
    setPill(byId("source"), error.message);
    return;
  }
  const list = byId("talk");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  setPill(byId("source"), answer.snapshot ? `stored, ${formatTime(answer.snapshot_at)}` : "live", answer.snapshot ? "warn" : "good");
  byId("no-talk").hidden = answer.messages.length > 0;
  reconcile(list, answer.messages, (message) => `${message.id} ${message.time}`, messageItem);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

async function act(done, path) {
  try {
    const answer = await requestJson(path, { method: "POST" });
    addLogEntry(byId("log"), done ?? JSON.stringify(answer), ["done", "good"]);
    claimsFor = null;
    await refresh();
    return answer;
  } catch (error) {
    addLogEntry(byId("log"), error.message, ["refused", "bad"]);
    return null;
  }
}

async function showPayload() {
  const payload = await requestBytes("v1/snapshot");
  byId("payload-card").hidden = false;
  setText(byId("payload-facts"), payload ? `${count(payload.length)} of ${count(BUDGET)} bytes, SHA-256 ${payload.sha256}` : "There is no snapshot to send.");
  setText(byId("payload"), payload?.text ?? "");
  byId("payload").focus();
}

byId("capture").addEventListener("click", async () => {
  const receipt = await act("Captured; the receipt is under Deliveries.", "v1/snapshot");
  if (receipt) setPill(byId("outcome"), receipt.outcome, toneOf(receipt.outcome));
});
byId("show").addEventListener("click", showPayload);
byId("hide").addEventListener("click", () => {
  byId("payload-card").hidden = true;
  byId("show").focus();
});
byId("drill").addEventListener("click", () => act(null, "v1/drill"));
byId("stop").addEventListener("click", () => byId("sure").showModal());
byId("sure").addEventListener("close", () => {
  if (byId("sure").returnValue === "stop") act("agentd stopped.", "v1/stop");
  byId("sure").returnValue = "";
});

// With an event stream each event triggers a refresh. Without one, or while it reconnects, a timer does.
let stream = null;
let due = null;
function refreshSoon() {
  due ??= setTimeout(async () => {
    due = null;
    await refresh();
  }, 50);
}

function follow() {
  const source = new EventSource("v1/events");
  source.addEventListener("open", () => {
    stream = source;
    refreshSoon();
  });
  source.addEventListener("error", () => {
    if (stream) refreshSoon();
    stream = null;
    // 404: this agentd has no event stream. EventSource reconnects by itself after every other end.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 60_000);
  });
  for (const name of ["status", "claims", "agent", "task", "snapshot", "phase"]) source.addEventListener(name, refreshSoon);
}

async function tick() {
  const isCurrent = stream && failures === 0 && status?.claims.state !== "acting" && Date.now() - refreshedAt < STREAM_POLL_MS;
  if (isCurrent) strip.observe(status.agent.status, Date.now());
  else if (!document.hidden) await refresh();
  setTimeout(tick, POLL_MS);
}

follow();
tick();
document.addEventListener("visibilitychange", refreshSoon);
addEventListener("resize", () => strip.draw(Date.now()));
