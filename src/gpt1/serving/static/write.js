// Write: append the next token, repeat, until [end] or the context's limit. Branches are kept as a tree.

import { ask, stream } from "./api.js";
import { el, percent, problem, section } from "./dom.js";
import { textForm } from "./form.js";
import { stageTable } from "./stages.js";
import { alone, inText, legend, surprise, tokenList } from "./tokens.js";
import { branch, grow, treeList } from "./tree.js";

export const title = "Write";
export const about =
  "The model writes by drawing the next token from its distribution and appending it, again and again. See each step of the draw, or be the sampler: choose a token yourself and go on from there.";
const SAMPLE = "Once upon a time";
const DEFAULTS = { t: 1, k: 0, p: 0.95 };
const TOP = 12;

export async function show({ place, params, run, go, signal }) {
  const settings = Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, value]) => [name, Number(params.get(name) ?? value)]),
  );
  const sampling = () => ({ temperature: settings.t, top_k: settings.k, top_p: settings.p });
  const text = params.get("text") ?? SAMPLE;
  place.append(
    textForm({
      text,
      label: "Text to continue",
      verb: "Begin",
      send: (value) => go({ text: value, path: null }, true),
    }),
  );

  const prompt = await ask("/v1/next", { model: run.id, prompt: text, top: 1 }, signal);
  const root = { children: [] };
  let here = root; // the last token of the branch that is shown
  let writing = null; // stops the generation in progress
  let asked = 0; // distributions asked for so far; only the last one is shown
  const ids = (node) => [...prompt.prompt, ...branch(node)].map((piece) => piece.id);

  const line = el("div");
  const ending = el("p", { class: "ending", role: "status" });
  const failure = el("div");
  const draw = el("div", { class: "draw", "aria-live": "off" });
  const tree = el("div");
  const buttons = {
    write: el("button", { type: "button", on: { click: () => (writing ? writing.abort() : write()) } }, "Write"),
    step: el("button", { type: "button", class: "second", on: { click: step } }, "Draw one token"),
    back: el("button", { type: "button", class: "second", on: { click: () => goTo(here.parent) } }, "Take back"),
  };
  place.append(
    el(
      "div",
      { class: "controls" },
      el("div", { class: "buttons" }, Object.values(buttons)),
      sliders(settings, (name, value) => {
        settings[name] = value;
        go({ [name]: value === DEFAULTS[name] ? null : value });
        stages();
      }),
    ),
    section(
      "The text",
      "Written tokens are coloured by their surprise. Choose one to see how it was drawn, and what might have stood there.",
      line,
      ending,
      failure,
      legend(["soft", "prompt"], ["heat least", "expected"], ["heat most", "surprising"]),
    ),
    draw,
    section("Branches", "Every way that was gone; choose one to go on from its end.", tree),
  );

  /** Show a branch, and the draw of its next token, or of one of its own. */
  function goTo(node) {
    writing?.abort();
    move(node);
    showText(true);
    stages();
  }

  function move(node) {
    here = node;
    go({
      path: branch(here)
        .map((piece) => piece.id)
        .join(","),
    });
    tree.replaceChildren(treeList(root, here, goTo));
  }

  /** Show the branch; its next token is chosen, or else its last one. */
  function showText(isNext) {
    const written = branch(here);
    const tokens = [...prompt.prompt.map((piece) => ({ ...piece, soft: true })), ...written];
    const first = prompt.prompt.length;
    const why = whyEnded();
    if (!why && !writing) tokens.push({ token: "", special: "?" });
    line.replaceChildren(
      tokenList({
        tokens,
        label: "Tokens of the text",
        chosen: writing ? -1 : tokens.length - (isNext || why ? 1 : 2),
        shade: (n) => (written[n - first]?.logprob !== undefined ? surprise(-written[n - first].logprob) : null),
        describe: (n) => {
          if (n < first) return "prompt";
          const logprob = written[n - first]?.logprob;
          return logprob === undefined ? "" : percent(Math.exp(logprob));
        },
        choose: (n) => stages(written[n - first]),
      }),
    );
    ending.replaceChildren(why);
    buttons.write.disabled = Boolean(why) && !writing;
    buttons.step.disabled = Boolean(why) || Boolean(writing);
    buttons.back.disabled = here === root || Boolean(writing);
    buttons.write.textContent = writing ? "Stop" : "Write";
  }

  function whyEnded() {
    if (here.special === "end") return "[end]: the model has closed the document.";
    if (roomAfter(here) > 0) return "";
    return `The context is full: the model reads at most ${run.context.toLocaleString("en")} tokens.`;
  }

  function roomAfter(node) {
    return prompt.room - branch(node).length;
  }

  /** Show how the token `node` was drawn; by default how the next one would be. */
  async function stages(node, uniform = null) {
    const before = node ? node.parent : here;
    const mine = ++asked;
    if (!node && (writing || whyEnded())) return draw.replaceChildren();
    const body = { model: run.id, prompt: ids(before), top: TOP, ...sampling(), uniform, chosen: node?.id ?? null };
    try {
      const found = await ask("/v1/next", body, signal);
      if (mine !== asked) return null;
      const drawn = found.candidates.find((one) => one.id === found.drawn);
      const text = [...prompt.prompt, ...branch(before)].slice(-6).map(inText).join("").trim();
      const words = [
        `The most probable tokens after \u201c${text}\u201d.`,
        `Choose one to go on with it${node || drawn ? " on a branch of its own" : ""}.`,
        drawn && `The number ${uniform.toFixed(3)}, drawn from 0 to 1, fell into the part of ${alone(drawn)}.`,
      ];
      const heading = node || drawn ? `How ${alone(node ?? drawn)} was drawn` : "The next draw";
      const table = stageTable(found, { chosen: node?.id, pick: (piece) => goTo(grow(before, piece)) });
      draw.replaceChildren(section(heading, words.filter(Boolean).join(" "), table));
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
    const drawn = found.candidates.find((one) => one.id === found.drawn);
    move(grow(from, drawn));
    showText(false);
  }

  async function write() {
    writing = new AbortController();
    signal.addEventListener("abort", () => writing?.abort());
    draw.replaceChildren();
    failure.replaceChildren();
    showText(true);
    try {
      const body = { model: run.id, prompt: ids(here), max_tokens: roomAfter(here), ...sampling() };
      for await (const event of stream("/v1/generate", body, writing.signal)) {
        here = grow(here, event);
        showText(true);
      }
    } catch (error) {
      if (error.name !== "AbortError") failure.replaceChildren(problem(error));
    }
    writing = null;
    if (!signal.aborted) goTo(here);
  }

  const path = params.get("path")?.split(",").map(Number).filter(Number.isInteger) ?? [];
  if (path.length) {
    const { prompt: pieces } = await ask(
      "/v1/next",
      { model: run.id, prompt: [...ids(root), ...path].slice(0, run.context), top: 1 },
      signal,
    );
    for (const piece of pieces.slice(prompt.prompt.length)) here = grow(here, piece);
  }
  goTo(here);
}

function sliders(settings, change) {
  const row = (name, label, range, told) => {
    const out = el("output", {}, told(settings[name]));
    const field = el("input", {
      type: "range",
      ...range,
      value: settings[name],
      on: {
        input: () => (out.textContent = told(Number(field.value))),
        change: () => change(name, Number(field.value)),
      },
    });
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
