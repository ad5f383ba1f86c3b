// What can be chosen: sampling settings, system prompt, theme. Knows no conversation.

const names = ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "seed"];
const field = (name) => document.getElementById(name);
const dialog = field("settings");
let defaults = {};

export function prepare(values) {
  defaults = values;
  fill({});
  field("open-settings").addEventListener("click", () => dialog.showModal());
  field("defaults").addEventListener("click", () => fill({}));
  const theme = field("theme");
  theme.value = localStorage.getItem("theme") ?? "system";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const dark = theme.value === "dark" || (theme.value === "system" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  theme.addEventListener("change", () => { localStorage.setItem("theme", theme.value); show(); });
  system.addEventListener("change", show);
}

/** Show these settings; what is not among them gets its default. */
export function fill(settings, system = null) {
  for (const name of names) field(name).value = settings[name] ?? defaults[name] ?? "";
  if (system !== null) field("system").value = system;
}

/** What is chosen, for a request: null where a field is empty or holds no number. */
export function chosen() {
  const numbers = names.map((name) => [name, field(name).validity.valid ? field(name).valueAsNumber : NaN]);
  return Object.fromEntries(numbers.map(([name, value]) => [name, Number.isNaN(value) ? null : value]));
}

export const system = () => field("system").value;
