// The simulator's page: the state of the simulated peers, read twice a second, and a button for each step and fault.

import {
  addLogEntry, byId, count, el, formatTime, messageItem, pill, plural, reconcile, requestBytes, requestJson, setBudget, setPill, setText, Strip,
} from "./base.js";

const BUDGET = 65_536;
const POLL_MS = 500;
const JOBS = { pending: "warn", running: "busy", succeeded: "good", failed: "bad" };
const STAGES = { none: "", create: "the prebuild", claim: "the claim" };
const strip = new Strip(byId("strip"), ["running", "stable", "unreachable"]);
const before = {};
let state = null;
let failures = 0;
let task = null;

function changed(name, value) {
  const text = JSON.stringify(value) ?? "";
  const known = name in before;
  if (before[name] === text) return false;
  before[name] = text;
  return known;
}

async function refresh() {
  try {
    state = await requestJson("state");
    failures = 0;
  } catch (error) {
    failures += 1;
    if (failures === 1) addLogEntry(byId("log"), `The simulator does not answer (${error.message}).`, ["gone", "bad"]);
    setPill(byId("link"), "the simulator does not answer", "bad");
    return;
  }
  setPill(byId("link"), "live", "good");
  showDemo(state.steps);
  const { coderd, agentapi } = state.peers;
  for (const section of document.querySelectorAll("[data-peer]")) section.hidden = !(section.dataset.peer in state.peers);
  setText(byId("facts"), [coderd && `coderd ${coderd.era} on ${coderd.url}`, agentapi && `AgentAPI ${agentapi.version} (${agentapi.mode}) on ${agentapi.url}`].filter(Boolean).join("  ·  "));
  reconcile(byId("links"), Object.entries(state.links), ([name]) => name, ([name, url]) => el("a", { href: url, target: "_blank", rel: "noopener" }, name));
  if (agentapi) showAgent(agentapi);
  if (coderd) showCoderd(coderd);
  showRequests();
}

function showDemo(steps) {
  byId("demo-card").hidden = steps.length === 0;
  if (steps.length === 0) return;
  const last = steps.at(-1);
  setPill(byId("step"), last.tone === "good" ? "as expected" : last.tone === "bad" ? "not as expected" : "now", last.tone || "busy");
  setText(byId("sentence"), last.text);
  reconcile(byId("steps"), [...steps].reverse(), (entry) => entry.at + entry.text, (entry) =>
    el("li", {}, el("time", {}, formatTime(entry.at * 1000)), el("span", { class: "grow" }, entry.text), entry.tone ? pill(entry.tone === "good" ? "✓" : "✗", entry.tone) : null));
}

function showPeer(name, peer) {
  setPill(byId(`${name === "agentapi" ? "agent" : name}-there`), peer.listening ? "listening" : "stopped", peer.listening ? "good" : "bad");
  const waiting = Object.entries(peer.waiting_faults).map(([route, kinds]) => `${route}: ${kinds.join(", ")}`);
  setText(byId(`${name}-waiting`), waiting.length ? `waiting for the next request: ${waiting.join("; ")}` : "");
  if (changed(`${name} listening`, peer.listening)) addLogEntry(byId("log"), `${name} ${peer.listening ? "is back" : "has stopped"}.`, peer.listening ? ["back", "good"] : ["stopped", "bad"]);
}

function showAgent(agent) {
  showPeer("agentapi", agent);
  const word = agent.listening ? agent.status : "unreachable";
  setText(byId("agent"), word);
  strip.observe(word, Date.now());
  if (changed("agent", agent.status)) addLogEntry(byId("log"), `The agent is ${agent.status}.`, [agent.status, agent.status === "running" ? "busy" : "good"]);
  setText(byId("talk-size"), `${plural(agent.messages, "message")}, ${plural(agent.followers, "follower")} of /events`);
  const list = byId("talk");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  reconcile(list, agent.newest, (message) => `${message.id} ${message.time}`, messageItem);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function showCoderd(coderd) {
  showPeer("coderd", coderd);
  const open = coderd.workspaces.reduce((sum, workspace) => sum + workspace.open_streams, 0);
  setPill(byId("streams"), plural(open, "open claim stream"), open ? "good" : "warn");
  if (changed("streams", open)) addLogEntry(byId("log"), `${plural(open, "claim stream is", "claim streams are")} open.`, open ? ["stream", "good"] : ["stream", "warn"]);
  const builds = coderd.workspaces.flatMap((workspace) => workspace.builds.map((text) => ({ workspace: workspace.name, owner: workspace.owner_id, text })));
  if (changed("builds", builds)) addLogEntry(byId("log"), `Build ${builds.at(-1)?.text}.`, ["build", "busy"]);
  reconcile(byId("builds"), builds, (build) => `${build.workspace} ${build.text.split(" ")[0]}`, showBuild);
  showStored(coderd);
  showDeliveries(coderd);
}

function showBuild({ workspace, owner, text }) {
  const [number, transition, stage, job] = text.split(" ");
  return el("li", { "data-tone": JOBS[job] ?? "" },
    el("div", { class: "head" }, el("strong", {}, `Build ${number}: ${transition}`), STAGES[stage] ? el("span", {}, STAGES[stage]) : null, pill(job, JOBS[job])),
    el("p", { class: "soft small" }, `${workspace} · owner ${owner}`));
}

function showStored(coderd) {
  task = coderd.tasks.findLast((one) => !one.deleted)?.id ?? null;
  const stored = coderd.snapshots[task];
  const size = stored?.bytes ?? 0;
  setText(byId("size"), count(size));
  setBudget(byId("budget"), size, BUDGET);
  byId("show").disabled = !stored;
  if (changed("stored", [size, stored?.created_at]) && stored) addLogEntry(byId("log"), `coderd stored a snapshot of ${count(size)} bytes.`, ["stored", "good"]);
  const facts = JSON.stringify([task, size, stored?.created_at]);
  if (byId("stored-facts").dataset.of === facts) return;
  byId("stored-facts").dataset.of = facts;
  const messages = stored?.envelope?.data?.messages?.length ?? 0;
  byId("stored-facts").replaceChildren(
    el("dt", {}, "Messages"), el("dd", {}, count(messages)),
    el("dt", {}, "Stored"), el("dd", {}, stored ? formatTime(stored.created_at * 1000) : "not yet"),
    el("dt", {}, "Task"), el("dd", { class: "mono" }, task ?? "–"));
}

function showDeliveries(coderd) {
  byId("no-deliveries").hidden = coderd.deliveries.length > 0;
  reconcile(byId("deliveries"), [...coderd.deliveries].reverse(), (one) => one.at, (one) => {
    const good = one.status === 204;
    const tone = one.status === null ? "warn" : good ? "good" : "bad";
    return el("li", { "data-tone": tone },
      el("div", { class: "head" }, pill(one.status === null ? "no answer" : good ? "204 stored" : `${one.status} refused`, tone), `${count(one.bytes)} bytes`, el("span", { class: "soft small" }, formatTime(one.at * 1000))));
  });
  const reports = coderd.workspaces.flatMap((workspace) => workspace.app_statuses.map((row) => ({ at: row.created_at, text: `${row.app_slug}: ${row.message || "(no message)"}`, word: row.state })));
  const sent = coderd.notifications.map((one) => ({ at: one.minute * 60, text: `Notification: ${one.template} for ${one.workspace}`, word: "sent" }));
  const all = [...reports, ...sent].sort((a, b) => b.at - a.at).slice(0, 50);
  byId("no-statuses").hidden = all.length > 0;
  reconcile(byId("statuses"), all.map((one, index) => ({ ...one, index: all.length - index })), (one) => one.index, (one) =>
    el("li", {}, el("time", {}, formatTime(one.at * 1000)), el("span", { class: "grow" }, one.text), pill(one.word)));
}

function showRequests() {
  const all = Object.entries(state.peers).flatMap(([name, peer]) => peer.recent.map((one) => ({ ...one, of: name })));
  const newest = all.sort((a, b) => b.at - a.at).slice(0, 40);
  // A repeated poll only changes the count of its row.
  reconcile(byId("asked"), newest, (one) => `${one.of} ${one.route} ${one.status} ${one.at}`, (one) =>
    el("tr", {}, el("td", { class: "thin" }, el("time", {}, formatTime(one.at * 1000))), el("td", { class: "thin" }, one.of),
      el("td", {}, el("code", {}, `${one.method} ${one.path}`), one.times > 1 ? el("span", { class: "soft" }, ` × ${one.times}`) : null),
      el("td", { class: "num" }, String(one.status ?? "…"))));
}

async function sendCommand(group, button, inputs) {
  const fields = { ...button.fields };
  for (const [name, input] of inputs) fields[name] = input.type === "number" ? input.valueAsNumber : input.value;
  const label = `${group.peer}, ${group.title}: ${button.label}`;
  try {
    const { result } = await requestJson(`do/${group.peer}/${button.command}`, { method: "POST", body: fields });
    addLogEntry(byId("log"), result ? `${label} (${JSON.stringify(result)})` : label, ["pressed", "busy"]);
  } catch (error) {
    addLogEntry(byId("log"), `${label}: ${error.message}`, ["refused", "bad"]);
  }
  await refresh();
}

function showGroup(group, index) {
  const controls = group.inputs.map((input) => ({ ...input, node: inputFor(input, `${group.peer}-${index}-${input.name}`) }));
  const inputs = controls.map(({ name, node }) => [name, node]);
  // A single choice is sent without being shown.
  const labels = controls.filter(({ choices }) => choices.length !== 1)
    .map(({ label, node }) => el("label", { for: node.id, class: node.type === "text" ? "grow" : "" }, label, node));
  const buttons = group.buttons.map((button) => el("button", { type: "button", click: () => sendCommand(group, button, inputs) }, button.label));
  return el("fieldset", {}, el("legend", {}, group.title), labels.length ? el("div", { class: "row inputs" }, labels) : null, el("div", { class: "row" }, buttons));
}

function inputFor(input, id) {
  if (input.choices.length) {
    return el("select", { id }, input.choices.map((choice) => el("option", choice === input.start ? { selected: "" } : {}, choice)));
  }
  if (typeof input.start === "number") return el("input", { id, type: "number", min: 1, max: 1000, value: input.start });
  return el("input", { id, type: "text", value: input.start });
}

byId("show").addEventListener("click", async () => {
  const stored = await requestBytes(`snapshot/${encodeURIComponent(task)}`);
  byId("payload-card").hidden = false;
  setText(byId("payload-facts"), stored ? `${count(stored.length)} of ${count(BUDGET)} bytes, SHA-256 ${stored.sha256}` : "Nothing is stored.");
  setText(byId("payload"), stored?.text ?? "");
  byId("payload").focus();
});
byId("hide").addEventListener("click", () => {
  byId("payload-card").hidden = true;
  byId("show").focus();
});

async function tick() {
  if (!document.hidden) await refresh();
  setTimeout(tick, POLL_MS);
}

const groups = await requestJson("controls");
groups.forEach((group, index) => byId(`${group.peer}-controls`).append(showGroup(group, index)));
tick();
addEventListener("resize", () => strip.draw(Date.now()));
