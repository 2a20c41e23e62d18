// The page: which view and run the address names, the menu of runs, and the token if the server wants one.
// An address is #/VIEW?run=NAME&text=...: what follows # stays in the browser, so that no log holds the texts.

import { ask, setToken } from "./api.js";
import * as attend from "./attend.js";
import * as classify from "./classify.js";
import * as compare from "./compare.js";
import { el, problem } from "./dom.js";
import * as read from "./read.js";
import * as train from "./train.js";
import * as write from "./write.js";

const VIEWS = { read, attend, write, classify, compare, train };
const CARRIED = ["run", "text", "more"]; // parameters that go from view to view
const OF_A_RUN = ["at", "path", "layer", "head", "sequence"]; // parameters that mean nothing to another run
const main = document.getElementById("main");
const menu = document.getElementById("run");
const nav = document.getElementById("views");
let runs = [];
let leaving = new AbortController();

function address() {
  const [path, query] = location.hash.slice(2).split("?");
  return [path in VIEWS ? path : "read", new URLSearchParams(query)];
}

/** Write parameters into the address; null removes one. With `redraw` the view starts anew, as after Back and Forward. */
function goTo(view, changes, redraw) {
  const [, params] = address();
  for (const [name, value] of Object.entries(changes)) {
    params.delete(name);
    for (const one of [value].flat()) if (one != null && one !== "") params.append(name, one);
  }
  const hash = `#/${view}?${params}`;
  if (redraw && location.hash === hash) draw();
  else if (redraw) location.hash = hash;
  else history.replaceState(null, "", hash);
  link(view, params);
}

function link(view, params) {
  const carried = new URLSearchParams([...params].filter(([name]) => CARRIED.includes(name)));
  nav.replaceChildren(
    ...Object.entries(VIEWS).map(([name, { title }]) =>
      el("a", { href: `#/${name}?${carried}`, "aria-current": name === view && "page" }, title),
    ),
  );
}

async function draw() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const focused = main.contains(document.activeElement) && nameOf(document.activeElement);
  const [view, params] = address();
  const run = params.has("run") ? runs.find((one) => one.id === params.get("run")) : runs[0];
  link(view, params);
  document.title = `${VIEWS[view].title} \u2013 gpt1`;
  const isNew = main.dataset.view && main.dataset.view !== view;
  main.dataset.view = view;
  main.replaceChildren(el("h1", {}, VIEWS[view].title), el("p", { class: "lead" }, VIEWS[view].about));
  if (isNew) main.focus(); // the link that led here is drawn anew
  if (!run) {
    const names = runs.map((one) => one.id).join(", ");
    menu.selectedIndex = -1; // else the first one could not be chosen
    main.append(problem({ message: `No run of the name ${params.get("run")} is served here; there are ${names}.` }));
    return;
  }
  menu.value = run.id;
  const place = main.appendChild(el("div", { class: view }));
  const go = (changes, redraw = false) => signal.aborted || goTo(view, changes, redraw);
  try {
    await VIEWS[view].show({ place, params, run, runs, go, signal });
    if (focused && document.activeElement === document.body)
      [...place.querySelectorAll("button, select, textarea")].find((field) => nameOf(field) === focused)?.focus();
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) askForToken();
    else place.append(problem(error));
  }
}

/** What tells a field or button from the others of a view, to find it again when the view is drawn anew. */
function nameOf(element) {
  const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.firstChild.textContent;
  return `${element.localName} ${label ?? element.textContent}`;
}

function askForToken() {
  const field = el("input", { type: "password", autocomplete: "off", required: true });
  const open = (event) => {
    event.preventDefault();
    setToken(field.value);
    start();
  };
  main.replaceChildren(
    el("h1", {}, "This server wants its token"),
    el(
      "p",
      { class: "lead" },
      "It was set when the server was started, with GPT1_TOKEN or --token. This tab keeps it until it is closed.",
    ),
    el("form", { class: "ask", on: { submit: open } }, el("label", {}, "Token ", field), el("button", {}, "Open")),
  );
  field.focus();
}

async function start() {
  try {
    runs = (await ask("/v1/models")).data;
  } catch (error) {
    if (error.status === 401) askForToken();
    else main.replaceChildren(el("h1", {}, "gpt1"), problem(error));
    return;
  }
  const groups = {};
  for (const one of runs) (groups[one.task ?? "pre-trained"] ??= []).push(el("option", { value: one.id }, one.id));
  menu.replaceChildren(...Object.entries(groups).map(([label, options]) => el("optgroup", { label }, options)));
  draw();
}

/** Say that something failed that should not have. */
function failed({ error, reason }) {
  const cause = error ?? reason;
  if (cause?.name !== "AbortError")
    main.append(problem({ message: `This page has failed: ${cause?.message ?? cause}.` }));
}

window.addEventListener("error", failed);
window.addEventListener("unhandledrejection", failed);
menu.addEventListener("change", () => {
  const without = Object.fromEntries(OF_A_RUN.map((name) => [name, null]));
  goTo(address()[0], { ...without, run: menu.value }, true);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what follows # is the view
  main.focus();
});
window.addEventListener("hashchange", draw);
start();
