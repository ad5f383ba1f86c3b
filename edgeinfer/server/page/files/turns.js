// The conversation on the screen: turns that are there, and one that grows. Knows no server.

const list = document.getElementById("turns");
const scroll = document.getElementById("scroll");

// The one way by which HTML comes into the page: what our server has rendered and sanitised.
const rendered = window.trustedTypes?.createPolicy("rendered", { createHTML: (html) => html }) ?? { createHTML: (html) => html };
const put = (element, html) => { element.innerHTML = rendered.createHTML(html); };
const add = (element, html) => { element.insertAdjacentHTML("beforeend", rendered.createHTML(html)); };

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Do something to the conversation, and stay at its end where the reader is there. */
function following(change, anyway = false) {
  const atEnd = anyway || scroll.scrollTop + scroll.clientHeight >= scroll.scrollHeight - 32;
  change();
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}

function turn(role, heading, ...tools) {
  const head = make("div", { class: "head" }, make("h2", {}, heading), make("span", { class: "tools" }, ...tools));
  return make("li", { class: `turn ${role}` }, head);
}

export function clear() {
  list.replaceChildren();
}

/** A question. `edit` is called with the turn's text and place where its button is pressed. */
export function question(text, at, edit) {
  const button = make("button", { type: "button", "aria-label": `Edit this message: ${text.slice(0, 60)}` }, "Edit");
  const item = turn("user", "You", button);
  item.dataset.at = at ?? "";
  button.hidden = at == null;
  button.addEventListener("click", () => edit(text, Number(item.dataset.at)));
  item.append(make("div", { class: "said" }, text));
  following(() => list.append(item), true);
  return { placed(place) { item.dataset.at = place; button.hidden = false; } };
}

/** An answer, whole or to come. */
export function answer(html = "", finish = null, text = "") {
  let source = text;
  const copy = make("button", { type: "button", onclick: () => navigator.clipboard.writeText(source || body.innerText) }, "Copy");
  const item = turn("assistant", "Answer", copy);
  const settled = make("div", { class: "settled" });
  const open = make("div", { class: "open" });
  const body = make("div", { class: "said" }, settled, open);
  item.append(body);
  put(settled, html);
  reachable(settled);
  if (finish === "cancelled") item.append(make("p", { class: "remark" }, "stopped"));
  following(() => list.append(item));
  return {
    grow(forGood, forNow) {
      item.classList.add("growing");
      following(() => {
        add(settled, forGood);
        put(open, forNow);
        reachable(item);
      });
    },
    end(remark = "") {
      item.classList.remove("growing");
      following(() => {
        settled.append(...open.childNodes);
        if (remark) item.append(make("p", { class: "remark" }, remark));
      });
    },
    withdraw() { item.remove(); },
    set source(value) { source = value; },
  };
}

/** What scrolls sideways must be reachable by the keyboard. */
function reachable(element) {
  for (const wide of element.querySelectorAll("pre, table")) wide.tabIndex = 0;
}

/** Remove what follows on the turn of this place, and itself. */
export function cutFrom(at) {
  const items = [...list.children];
  const first = items.findIndex((item) => item.dataset.at === String(at));
  for (const item of first < 0 ? [] : items.slice(first)) item.remove();
}

export function dropLastAnswer() {
  const last = list.lastElementChild;
  if (last?.classList.contains("assistant")) last.remove();
}

export const hasAnswer = () => Boolean(list.querySelector(".turn.user"));
