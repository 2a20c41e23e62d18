// Write: append the next token, repeat, until [end] or the context's limit. Branches are kept as a tree.

import { ask, stream } from "./api.js";
import { el, percent, problem, section } from "./dom.js";
import { textForm } from "./read.js";
import { stageTable } from "./stages.js";
import { alone, inText, legend, surprise, tokenList } from "./tokens.js";

export const title = "Write";
export const about = "The model writes by drawing the next token from its distribution and appending it, again and again. See each step of the draw, or be the sampler: choose a token yourself and go on from there.";
const SAMPLE = "Once upon a time";
const DEFAULTS = { t: 1, k: 0, p: 0.95 };
const TOP = 12;

export async function show({ place, params, run, go, signal }) {
  const settings = Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, Number(params.get(name) ?? value)]));
  const sampling = () => ({ temperature: settings.t, top_k: settings.k, top_p: settings.p });
  const text = params.get("text") ?? SAMPLE;
  place.append(textForm({ text, label: "Text to continue", verb: "Begin", send: (value) => go({ text: value, path: null }, true) }));

  const prompt = await ask("/v1/next", { model: run.id, prompt: text, top: 1 }, signal);
  const root = { children: [] };
  let here = root; // the last token of the branch that is shown
  let writing = null; // stops the generation in progress
  const ids = (node) => [...prompt.prompt, ...branch(node)].map((piece) => piece.id);

  const line = el("div");
  const ending = el("p", { class: "ending", role: "status" });
  const draw = el("div", { class: "draw", "aria-live": "off" });
  const tree = el("div");
  const buttons = {
    write: el("button", { type: "button", on: { click: () => (writing ? writing.abort() : write()) } }, "Write"),
    step: el("button", { type: "button", class: "second", on: { click: step } }, "Draw one token"),
    back: el("button", { type: "button", class: "second", on: { click: () => goTo(here.parent) } }, "Take back"),
  };
  place.append(
    el("div", { class: "controls" }, el("div", { class: "buttons" }, Object.values(buttons)), sliders(settings, (name, value) => {
      settings[name] = value;
      go({ [name]: value === DEFAULTS[name] ? null : value });
      stages();
    })),
    section("The text", "Written tokens are coloured by their surprise. Choose one to see how it was drawn, and what might have stood there.", line, ending, legend(["soft", "prompt"], ["heat least", "expected"], ["heat most", "surprising"])),
    draw,
    section("Branches", "Every way that was gone; choose one to go on from its end.", tree),
  );

  /** Show a branch, and the draw of its next token, or of one of its own. */
  function goTo(node) {
    here = node;
    go({ path: branch(here).map((piece) => piece.id).join(",") });
    showText();
    stages();
    showTree();
  }

  function showText() {
    const written = branch(here);
    const tokens = [...prompt.prompt.map((piece) => ({ ...piece, soft: true })), ...written];
    const first = prompt.prompt.length;
    line.replaceChildren(
      tokenList({
        tokens, label: "Tokens of the text",
        shade: (n) => (n >= first && written[n - first].logprob !== undefined ? surprise(-written[n - first].logprob) : null),
        describe: (n) => (n < first ? "prompt" : written[n - first].logprob === undefined ? "" : percent(Math.exp(written[n - first].logprob))),
        choose: (n) => stages(n >= first ? written[n - first] : undefined),
      }),
    );
    const why = here.special === "end" ? "[end]: the model has closed the document." : roomAfter(here) <= 0 ? `The context is full: the model reads at most ${run.context.toLocaleString("en")} tokens.` : "";
    ending.replaceChildren(why);
    buttons.write.disabled = Boolean(why) && !writing;
    buttons.step.disabled = Boolean(why) || Boolean(writing);
    buttons.back.disabled = here === root || Boolean(writing);
    buttons.write.textContent = writing ? "Stop" : "Write";
  }

  function roomAfter(node) {
    return prompt.room - branch(node).length;
  }

  /** Show how the token `node` was drawn; by default how the next one would be. */
  async function stages(node, uniform = null) {
    const before = node ? node.parent : here;
    if (!node && (here.special === "end" || roomAfter(here) <= 0 || writing)) return draw.replaceChildren();
    const body = { model: run.id, prompt: ids(before), top: TOP, ...sampling(), uniform, chosen: node?.id ?? null };
    try {
      const found = await ask("/v1/next", body, signal);
      if (!writing && here !== before && !node) return null; // another branch has been chosen since
      const shown = `after \u201c${[...prompt.prompt, ...branch(before)].slice(-6).map(inText).join("").trim()}\u201d`;
      const table = stageTable({ ...found, drawn: found.drawn }, { chosen: node?.id, pick: (piece) => goTo(grow(before, { ...piece, logprob: undefined })) });
      draw.replaceChildren(section(node ? `How ${alone(node)} was drawn` : "The next draw", `The most probable tokens ${shown}. Choose one to go on with it${node ? " on a branch of its own" : ""}.`, table));
      return found;
    } catch (error) {
      if (!signal.aborted) draw.replaceChildren(problem(error));
      return null;
    }
  }

  async function step() {
    const from = here;
    const found = await stages(undefined, Math.random());
    if (!found || here !== from) return;
    const piece = found.candidates.find((one) => one.id === found.drawn);
    goTo(grow(from, { ...piece, logprob: Math.log(piece.softmax) }));
  }

  async function write() {
    writing = new AbortController();
    signal.addEventListener("abort", () => writing?.abort());
    draw.replaceChildren();
    showText();
    try {
      const body = { model: run.id, prompt: ids(here), max_tokens: roomAfter(here), ...sampling() };
      for await (const event of stream("/v1/generate", body, writing.signal)) {
        here = grow(here, event);
        showText();
      }
    } catch (error) {
      if (error.name !== "AbortError") ending.after(problem(error));
    }
    writing = null;
    if (!signal.aborted) goTo(here);
  }

  function showTree() {
    tree.replaceChildren(root.children.length ? el("ul", { class: "tree" }, root.children.map((child) => twig(child, here, goTo))) : el("p", { class: "note" }, "None yet."));
  }

  const path = params.get("path")?.split(",").map(Number).filter(Number.isInteger) ?? [];
  if (path.length) {
    const { prompt: pieces } = await ask("/v1/next", { model: run.id, prompt: [...ids(root), ...path].slice(0, run.context), top: 1 }, signal);
    for (const piece of pieces.slice(prompt.prompt.length)) here = grow(here, piece);
  }
  goTo(here);
}

/** The tokens from the root to a node. */
function branch(node) {
  const found = [];
  for (let one = node; one?.parent; one = one.parent) found.unshift(one);
  return found;
}

/** Append a token to a node, unless it has it already; return its node. */
function grow(parent, { id, token, special, logprob }) {
  const known = parent.children.find((child) => child.id === id);
  if (known) return known;
  const node = { id, token, special, logprob, parent, children: [] };
  parent.children.push(node);
  return node;
}

/** A branch up to where it divides, then its branches. */
function twig(node, here, goTo) {
  const run = [node];
  while (run.at(-1).children.length === 1) run.push(run.at(-1).children[0]);
  const end = run.at(-1);
  const words = run.map(inText).join("");
  const isHere = run.includes(here);
  return el(
    "li",
    {},
    el("button", { type: "button", class: "chip", "aria-current": isHere && "true", on: { click: () => goTo(end) } }, words || "\u2205"),
    end.children.length > 1 && el("ul", {}, end.children.map((child) => twig(child, here, goTo))),
  );
}

function sliders(settings, change) {
  const row = (name, label, range, told) => {
    const out = el("output", {}, told(settings[name]));
    const field = el("input", { type: "range", ...range, value: settings[name], on: { input: () => (out.textContent = told(Number(field.value))), change: () => change(name, Number(field.value)) } });
    return el("label", {}, el("span", {}, label), field, out);
  };
  return el(
    "div",
    { class: "sliders" },
    row("t", "temperature T", { min: 0, max: 2, step: 0.05 }, (value) => (value ? value.toFixed(2) : "0: greedy")),
    row("k", "top-k", { min: 0, max: 50, step: 1 }, (value) => (value ? String(value) : "off")),
    row("p", "top-p", { min: 0.05, max: 1, step: 0.05 }, (value) => (value < 1 ? value.toFixed(2) : "off")),
  );
}
