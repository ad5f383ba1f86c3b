// The server, as functions. Knows nothing of what is shown.

/** An error that may be shown to a person. */
export class Refused extends Error {}

async function json(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Refused(await reason(response));
  return response.json();
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers ${response.status}`;
  }
}

export const state = () => json("/page/state");
export const memory = () => json("/page/memory");
export const sessions = async () => (await json("/page/sessions")).sessions;
export const session = (name) => json(`/page/sessions/${encodeURIComponent(name)}`);
export const remove = (name) => json(`/page/sessions/${encodeURIComponent(name)}`, { method: "DELETE" });

/** Ask, and yield what comes: { name, data }, until it ends or `signal` stops it. */
export async function* ask(question, signal) {
  const response = await fetch("/page/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
    signal,
  });
  if (!response.ok) throw new Refused(await reason(response));
  let rest = "";
  for await (const text of pieces(response.body)) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event: "));
      const data = lines.find((line) => line.startsWith("data: "));
      if (name && data) yield { name: name.slice(7), data: JSON.parse(data.slice(6)) };
    }
  }
}

async function* pieces(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
