// Write: append the next token, repeat, until [end] or the context's limit. Branches are kept as a tree.

import { ask, stream } from "./api.js";
import { el, percent, problem, section } from "./dom.js";
import { textForm } from "./form.js";
import { STEPS_TOLD, stageTable } from "./stages.js";
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
  const text = params.get("text") ?? SAMPLE;
  const send = (value) => go({ text: value, path: null }, true);
  place.append(textForm({ text, label: "Text to continue", verb: "Begin anew", send }));
  const prompt = await ask("/v1/next", { model: run.id, prompt: text, top: 1 }, signal);
  const writer = new Writer({ run, go, signal, settings, prompt });
  place.append(
    el(
      "div",
      { class: "controls" },
      el("div", { class: "buttons" }, Object.values(writer.buttons)),
      sliders(settings, (name, value) => {
        settings[name] = value;
        go({ [name]: value === DEFAULTS[name] ? null : value });
        writer.showDraw();
      }),
    ),
    section(
      "The text",
      "Written tokens are coloured by their surprise. Choose one to see how it was drawn, and what might have stood there.",
      writer.line,
      writer.ending,
      writer.failure,
      legend(["soft", "prompt"], ["heat least", "expected"], ["heat most", "surprising"]),
    ),
    writer.draw,
    section("Branches", "Every continuation so far; choose one to go on from its end.", writer.tree),
  );
  await writer.open(params.get("path")?.split(",").map(Number).filter(Number.isInteger) ?? []);
}

/** A text that is being written: its tokens as a tree, the branch that is shown, and the draw of a token of it. */
class Writer {
  line = el("div");
  ending = el("p", { class: "ending", role: "status" });
  failure = el("div");
  draw = el("div", { class: "draw", "aria-live": "off" });
  tree = el("div");
  buttons = {
    write: el("button", { type: "button", on: { click: () => (this.writing ? this.writing.abort() : this.write()) } }),
    step: el("button", { type: "button", class: "second", on: { click: () => this.step() } }, "Draw one token"),
    back: el(
      "button",
      { type: "button", class: "second", on: { click: () => this.goTo(this.here.parent) } },
      "Take back",
    ),
  };
  root = { children: [] };
  here = this.root; // the last token of the branch that is shown
  writing = null; // stops the generation in progress
  asked = 0; // distributions asked for so far; only the last one is shown

  /** `prompt` is the answer of /v1/next for the text; `settings` are T, k and p, which the sliders change. */
  constructor({ run, go, signal, settings, prompt }) {
    Object.assign(this, { run, go, signal, settings, prompt: prompt.prompt, room: prompt.room });
    signal.addEventListener("abort", () => this.writing?.abort());
  }

  /** Show the branch that the address holds, as token ids. */
  async open(path) {
    if (path.length) {
      const ids = [...this.ids(this.root), ...path].slice(0, this.run.context);
      const { prompt: pieces } = await ask("/v1/next", { model: this.run.id, prompt: ids, top: 1 }, this.signal);
      for (const piece of pieces.slice(this.prompt.length)) this.here = grow(this.here, piece);
    }
    this.goTo(this.here);
  }

  /** Show a branch, and the draw of its next token. */
  goTo(node) {
    this.writing?.abort();
    this.move(node);
    this.showText(true);
    this.showDraw();
  }

  move(node) {
    this.here = node;
    const path = branch(node).map((piece) => piece.id);
    this.go({ path: path.join(",") });
    this.tree.replaceChildren(treeList(this.root, node, (other) => this.goTo(other)));
  }

  ids(node) {
    return [...this.prompt, ...branch(node)].map((piece) => piece.id);
  }

  sampling() {
    return { temperature: this.settings.t, top_k: this.settings.k, top_p: this.settings.p };
  }

  /** Tokens that may follow the branch. */
  left() {
    return this.room - branch(this.here).length;
  }

  whyEnded() {
    if (this.here.special === "end") return "[end]: the model has closed the document.";
    if (this.left() > 0) return "";
    return `The context is full: the model reads at most ${this.run.context.toLocaleString("en")} tokens.`;
  }

  /** Show the branch; its next token is chosen, or else its last one. */
  showText(isNext) {
    const { writing, here } = this;
    const written = branch(here);
    const first = this.prompt.length;
    const tokens = [...this.prompt.map((piece) => ({ ...piece, soft: true })), ...written];
    const logprob = (n) => written[n - first]?.logprob;
    const why = this.whyEnded();
    if (!why && !writing) tokens.push({ token: "", special: "?" });
    this.line.replaceChildren(
      tokenList({
        tokens,
        label: "Tokens of the text",
        chosen: writing ? -1 : tokens.length - (isNext || why ? 1 : 2),
        shade: (n) => (logprob(n) === undefined ? null : surprise(-logprob(n))),
        describe: (n) => (n < first ? "prompt" : logprob(n) === undefined ? "" : percent(Math.exp(logprob(n)))),
        choose: (n) => this.showDraw(written[n - first]),
      }),
    );
    this.ending.replaceChildren(why);
    const buttons = Object.values(this.buttons);
    const focused = buttons.find((button) => button === document.activeElement);
    this.buttons.write.textContent = writing ? "Stop" : "Write";
    this.buttons.write.disabled = Boolean(why) && !writing;
    this.buttons.step.disabled = Boolean(why || writing);
    this.buttons.back.disabled = here === this.root || Boolean(writing);
    if (focused?.disabled) buttons.find((button) => !button.disabled)?.focus();
  }

  /** Show how the token `node` was drawn, or how the next one would be; `uniform` draws it. Returns the distribution. */
  async showDraw(node, uniform = null) {
    const before = node ? node.parent : this.here;
    const mine = ++this.asked;
    if (!node && (this.writing || this.whyEnded())) return this.draw.replaceChildren();
    const asked = { ...this.sampling(), uniform, chosen: node?.id ?? null };
    const body = { model: this.run.id, prompt: this.ids(before), top: TOP, ...asked };
    try {
      const found = await ask("/v1/next", body, this.signal);
      if (mine !== this.asked) return null;
      const drawn = found.candidates.find((one) => one.id === found.drawn);
      const text = [...this.prompt, ...branch(before)].slice(-6).map(inText).join("").trim();
      const words = [
        `The most probable tokens after \u201c${text}\u201d.`,
        `Choose one to go on with it${node || drawn ? " on a branch of its own" : ""}.`,
        drawn && `The number ${uniform.toFixed(3)}, drawn from 0 to 1, fell into the part of ${alone(drawn)}.`,
      ];
      const heading = node || drawn ? `How ${alone(node ?? drawn)} was drawn` : "The next draw";
      const table = stageTable(found, { chosen: node?.id, pick: (piece) => this.goTo(grow(before, piece)) });
      const isFocused = this.draw.contains(document.activeElement);
      this.draw.replaceChildren(
        section(heading, words.filter(Boolean).join(" "), table, el("p", { class: "note" }, STEPS_TOLD)),
      );
      if (isFocused) table.querySelector("button").focus();
      return found;
    } catch (error) {
      if (!this.signal.aborted) this.draw.replaceChildren(problem(error));
      return null;
    }
  }

  /** Draw one token, and show how. */
  async step() {
    const from = this.here;
    const found = await this.showDraw(undefined, Math.random());
    if (!found || this.here !== from) return;
    this.move(
      grow(
        from,
        found.candidates.find((one) => one.id === found.drawn),
      ),
    );
    this.showText(false);
  }

  /** Let the model write until the text ends, or until it is stopped. */
  async write() {
    this.writing = new AbortController();
    this.draw.replaceChildren();
    this.failure.replaceChildren();
    this.showText(true);
    try {
      const body = { model: this.run.id, prompt: this.ids(this.here), max_tokens: this.left(), ...this.sampling() };
      for await (const event of stream("/v1/generate", body, this.writing.signal)) {
        this.here = grow(this.here, event);
        this.showText(true);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.failure.replaceChildren(problem(error));
    }
    this.writing = null;
    if (!this.signal.aborted) this.goTo(this.here);
  }
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
