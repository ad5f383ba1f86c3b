// Wires the page: what is asked, what is shown, what is pressed.

import * as api from "./api.js";
import * as settings from "./settings.js";
import * as turns from "./turns.js";

const element = (id) => document.getElementById(id);
const [message, models, list] = [element("message"), element("model"), element("sessions")];
let current = null; // the conversation's name
let branch = null; // the place of the turn that is asked in another way
let running = null; // what stops the answer under way

const say = (text) => { element("said").textContent = text; };

function notice(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

function show() {
  element("send").disabled = running !== null;
  element("stop").disabled = running === null;
  element("again").disabled = running !== null || current === null || !turns.hasAnswer();
  element("branching").hidden = branch === null;
  for (const button of list.querySelectorAll("button[data-name]")) {
    button.setAttribute("aria-current", String(button.dataset.name === current));
  }
}

// ---- answers

async function ask(question) {
  notice("");
  const stopper = new AbortController();
  running = stopper;
  show();
  say("answering");
  let [asked, answer, ended, kept] = [null, null, false, true];
  try {
    const chosen = { model: models.value, settings: settings.chosen(), system: settings.system() };
    for await (const { name, data } of api.ask({ ...chosen, ...question }, stopper.signal)) {
      if (name === "begin") {
        current = data.session;
        history.replaceState(null, "", `#${current}`);
        if (!question.again) asked = turns.question(data.text, null, edit);
        answer = turns.answer();
      } else if (name === "text") {
        answer.grow(data.settled, data.open);
      } else if (name === "end") {
        ended = true;
        answer.end(data.remark);
        asked?.placed(data.at);
        element("timing").textContent = data.timing;
        say("the answer is complete");
      } else if (name === "error") {
        kept = data.kept;
        throw new api.Refused(data.message);
      }
    }
    if (!ended) throw new api.Refused("the connection to the server broke off");
  } catch (error) {
    if (!stopper.signal.aborted) notice(error instanceof api.Refused ? error.message : "the server does not answer");
    running = null;
    if (kept || question.session) await reload(question.text ?? "");
    else withdraw(question.text);
    say(stopper.signal.aborted ? "stopped" : "there was an error");
  }
  running = null;
  show();
  await refresh();
}

/** Show the conversation as the server has it, after an answer that did not end by itself. */
async function reload(text) {
  if (current !== null && (await open(current, true)).includes(text)) return;
  if (text && !message.value) message.value = text;
}

/** Give a question back that began a conversation of which nothing came. */
function withdraw(text) {
  turns.clear();
  current = null;
  history.replaceState(null, "", location.pathname);
  if (!message.value) message.value = text;
}

function send() {
  const text = message.value;
  if (running !== null || !text.trim()) return;
  message.value = "";
  const question = { text, session: current, at: branch };
  if (branch !== null) turns.cutFrom(branch);
  branch = null;
  ask(question);
}

function again() {
  if (running !== null || current === null) return;
  turns.dropLastAnswer();
  ask({ session: current, again: true });
}

function edit(text, at) {
  if (running !== null) return;
  message.value = text;
  branch = at;
  show();
  message.focus();
}

// ---- conversations

/** Show a conversation; returns what was asked in it. */
async function open(name, quiet = false) {
  let found;
  try {
    found = await api.session(name);
  } catch (error) {
    if (!quiet) notice(error.message);
    if (quiet) { turns.clear(); current = null; history.replaceState(null, "", location.pathname); }
    return [];
  }
  current = name;
  history.replaceState(null, "", `#${name}`);
  turns.clear();
  for (const { at, role, text, html, finish } of found.turns) {
    if (role === "user") turns.question(text, at, edit);
    else turns.answer(html, finish, text);
  }
  settings.fill(found.settings, found.system);
  if ([...models.options].some((option) => option.value === found.model)) models.value = found.model;
  branch = null;
  show();
  return found.turns.filter((turn) => turn.role === "user").map((turn) => turn.text);
}

function fresh() {
  if (running !== null) return;
  [current, branch] = [null, null];
  history.replaceState(null, "", location.pathname);
  turns.clear();
  notice("");
  element("timing").textContent = "";
  show();
  message.focus();
}

async function remove(name, title) {
  if (!confirm(`Delete the conversation “${title}”?`)) return;
  try {
    await api.remove(name);
  } catch (error) {
    notice(error.message);
  }
  if (name === current) fresh();
  await refresh();
}

async function refresh() {
  const found = await api.sessions().catch(() => []);
  list.replaceChildren(...found.map(({ name, title, problem }) => turns.make(
    "li", {},
    turns.make("button", { type: "button", "data-name": name, title: problem ?? title, onclick: () => running ?? open(name) }, title),
    turns.make("button", { type: "button", "aria-label": `Delete ${title}`, onclick: () => remove(name, title) }, "×"),
  )));
  show();
}

async function measure() {
  if (document.hidden) return;
  const { total_bytes, available_bytes, models: open_ } = await api.memory().catch(() => ({}));
  if (total_bytes === undefined) return;
  const used = Object.values(open_).reduce((sum, bytes) => sum + bytes, 0);
  const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
  element("memory").textContent = `models ${gib(used)} GiB · free ${gib(available_bytes)} of ${gib(total_bytes)} GiB`;
}

// ---- the beginning

element("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
element("stop").addEventListener("click", () => running?.abort());
element("again").addEventListener("click", again);
element("new").addEventListener("click", fresh);
element("cancel-branch").addEventListener("click", () => { branch = null; message.value = ""; show(); });
element("toggle-sessions").addEventListener("click", (event) => {
  const narrow = matchMedia("(max-width: 44rem)").matches;
  const on = document.body.classList.toggle(narrow ? "widened" : "narrowed");
  event.currentTarget.setAttribute("aria-expanded", String(narrow ? on : !on));
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running !== null) running.abort();
  else if (event.altKey && event.code === "KeyN") { event.preventDefault(); fresh(); }
  else if (event.altKey && event.code === "KeyR") { event.preventDefault(); again(); }
  else if (event.key === "/" && event.target === document.body) { event.preventDefault(); message.focus(); }
});

async function begin() {
  try {
    const found = await api.state();
    models.replaceChildren(...found.models.map(({ name }) => turns.make("option", { value: name }, name)));
    settings.prepare(found.defaults);
  } catch (error) {
    notice(error.message);
  }
  await refresh();
  const name = decodeURIComponent(location.hash.slice(1));
  if (name) await open(name, true);
  show();
  message.focus();
  await measure();
  setInterval(measure, 3000);
  document.documentElement.dataset.ready = "true";
}

begin();
