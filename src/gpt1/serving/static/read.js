// Read: how probable each token of a text is to the model (the paper, equation 1).

import { ask } from "./api.js";
import { tokenBars } from "./bars.js";
import { lineChart } from "./chart.js";
import { card, count, el, minus, number, percent, scientific, section } from "./dom.js";
import { SAMPLE, textForm } from "./form.js";
import { alone, bits, inText, legend, surprise, tokenList } from "./tokens.js";

export const title = "Read";
export const about =
  "At each position the model gives every token of its vocabulary a probability for being the next one. What really comes next shows how well it reads.";
const TOP = 10;
const WINDOWS_SHOWN = 24;

export async function show({ place, params, run, go, signal }) {
  const text = params.get("text") ?? SAMPLE;
  place.append(
    textForm({ text, label: "Text to read", verb: "Read", send: (value) => go({ text: value, at: null }, true) }),
  );
  const found = place.appendChild(el("div", { "aria-busy": "true" }, el("p", { class: "note" }, "Reading.")));
  const result = await explain(run, text, signal).catch((error) => {
    found.replaceChildren();
    throw error;
  });
  found.removeAttribute("aria-busy");
  const { positions } = result;
  const [panel, product, windows] = ["panel", "product", "windows"].map((name) => el("div", { class: name }));
  const at = Math.min(positions.length - 1, Math.max(0, Number(params.get("at") ?? mostSurprising(positions)) || 0));
  const choose = (n) => {
    panel.replaceChildren(...distribution(positions, n));
    product.replaceChildren(
      ...running(result, n, (m) => list.select(Math.min(positions.length - 1, Math.max(0, Math.round(m))), true)),
    );
    windows.replaceChildren(...windowStrips(result, n));
    go({ at: n });
  };
  const list = tokenList({
    tokens: positions,
    label: "Tokens of the text",
    chosen: at,
    choose,
    shade: (n) => surprise(positions[n].nats),
    describe: (n) => `${percent(positions[n].probability)}, ${bits(positions[n].nats).toFixed(1)} bits`,
  });
  found.replaceChildren(
    figures(result),
    el(
      "div",
      { class: "beside" },
      section(
        "The text, token by token",
        "Choose a token, by a click or with the arrow keys.",
        list,
        legend(["heat least", "expected"], ["heat half", "6 bits"], ["heat most", "12 bits of surprise, or more"]),
      ),
      panel,
    ),
    section(
      "A product that underflows, a sum that does not",
      "The probability of the whole text is the product of the probabilities of its tokens. It soon becomes smaller than any number that float32 can hold, so the logarithms are added instead.",
      product,
    ),
    section(`Windows of ${result.context.toLocaleString("en")} tokens`, windowWords(result), windows),
  );
  choose(at);
}

/** The explanation of a text; the end token, which is no text, is marked. */
export async function explain(run, text, signal) {
  const result = await ask("/v1/explain", { model: run.id, text, as: "text", top: TOP }, signal);
  const end = result.positions.at(-1).id;
  for (const position of result.positions)
    for (const piece of [position, ...position.alternatives]) if (piece.id === end) piece.special = "end";
  return result;
}

function mostSurprising(positions) {
  const nats = positions.slice(1, -1).map((position) => position.nats);
  return nats.length ? 1 + nats.indexOf(Math.max(...nats)) : 0;
}

export function figures(result) {
  return el(
    "div",
    { class: "cards" },
    card(number(result.nats_per_token), "loss, nats per token", "mean of \u2212log p"),
    card(number(result.perplexity), "perplexity", "e to the loss"),
    card(
      number(result.bits_per_byte),
      "bits per byte",
      result.comparable ? "comparable between tokenizers" : "not comparable: this tokenizer loses text",
    ),
    card(result.tokens.toLocaleString("en"), "tokens", `of ${count(result.bytes, "byte")}, [end] included`),
  );
}

/** What the model expected at position n, and what came. */
function distribution(positions, n) {
  const position = positions[n];
  const before = positions
    .slice(Math.max(0, n - 8), n)
    .map(inText)
    .join("");
  const isListed = position.alternatives.some((piece) => piece.id === position.id);
  const shown = isListed ? position.alternatives : [...position.alternatives, position];
  return [
    el("h2", {}, "What may come next"),
    el(
      "p",
      { class: "after" },
      n
        ? [n > 8 && "\u2026", el("q", {}, before), " \u2192 ", el("b", { class: "chip" }, alone(position))]
        : ["At the start \u2192 ", el("b", { class: "chip" }, alone(position))],
    ),
    tokenBars(shown, { label: "Most probable tokens here", marked: position.id }),
    el(
      "p",
      { class: "note" },
      `The actual token has rank ${position.rank.toLocaleString("en")}: \u2212log ${percent(position.probability)} is ${position.nats.toFixed(2)} nats, or ${bits(position.nats).toFixed(1)} bits, of surprise.`,
    ),
    legend(["other", "what may come"], ["actual", "the actual token"]),
    el("p", { class: "note" }, marks([...shown, ...positions])),
  ];
}

/** What the marks in tokens mean, of those that occur. */
function marks(pieces) {
  const has = (mark) => pieces.some((piece) => alone(piece).includes(mark));
  const meanings = [
    ["\u2423", "\u2423 is a space"],
    ["\\n", "\\n the end of a line"],
    ["\\x", "\\x and two digits a byte that is no character by itself"],
    ["[end]", "[end] the end of the document"],
  ];
  return `${meanings
    .filter(([mark]) => has(mark))
    .map(([, words]) => words)
    .join("; ")}.`;
}

/** The product and the sum up to position n. */
function running(result, n, choose) {
  const { positions, product_is_zero_at: zeroAt } = result;
  const last = positions.slice(Math.max(0, n - 2), n + 1);
  const dots = n > 2 ? "\u2026 " : "";
  const { product, sum } = positions[n];
  const isZero = zeroAt != null && n >= zeroAt;
  const line = (name, parts, sign, value, kind) =>
    el(
      "div",
      {},
      el("dt", {}, name),
      el(
        "dd",
        {},
        el("span", {}, `${dots}${n > 2 ? `${sign} ` : ""}${parts.join(` ${sign} `)} = `),
        el("b", { class: kind }, value),
      ),
    );
  return [
    el(
      "dl",
      { class: "running" },
      line(
        "P, in float32",
        last.map((p) => percent(p.probability)),
        "\u00d7",
        isZero ? "0" : scientific(product),
        isZero && "zero",
      ),
      line(
        "log P",
        last.map((p) => `(${minus((-p.nats).toFixed(2))})`),
        "+",
        minus(sum.toFixed(2)),
        null,
      ),
    ),
    zeroAt == null
      ? el("p", { class: "note" }, "This text is short enough for the product to stay above 1.4e\u221245.")
      : el(
          "p",
          { class: "note" },
          `At token ${zeroAt} the product falls below 1.4e\u221245 and is 0 from there on, as if the text were impossible. The sum goes on.`,
        ),
    lineChart(
      {
        "sum of log p": positions.map((p) => [p.position, p.sum]),
        "log of the product": positions.filter((p) => p.product > 0).map((p) => [p.position, Math.log(p.product)]),
      },
      { x: "tokens", y: "log P so far", marker: n, choose },
    ) ?? "",
  ];
}

function windowWords(result) {
  if (result.windows.length < 2)
    return `The model reads at most ${result.context.toLocaleString("en")} tokens at once; this text fits into one window. Paste a longer one to see more.`;
  return "A longer text is read in windows half a context apart. Each predicts only the tokens that the one before did not, from those it reads, so that every token is predicted once and all but the first with at least half a context before them.";
}

function windowStrips(result, n) {
  const strip = (kind, start, stop) =>
    el("i", {
      class: kind,
      vars: { l: `${(100 * start) / result.tokens}%`, w: `${(100 * (stop - start)) / result.tokens}%` },
    });
  const rows = result.windows.slice(0, WINDOWS_SHOWN).map((window, number) => {
    const [first, stop] = window.predicts;
    const isHere = first <= n && n < stop;
    const words = `Window ${number + 1} reads tokens ${window.start} to ${window.stop - 1} and predicts ${first} to ${stop - 1}${isHere ? "; the chosen token is one of them" : ""}`;
    return el(
      "div",
      { class: `window ${isHere ? "here" : ""}`, role: "img", "aria-label": words, title: words },
      strip("sees", window.start, window.stop),
      strip("predicts", first, stop),
      strip("at", n, n + 1),
    );
  });
  const left = result.windows.length - rows.length;
  return [
    ...rows,
    left > 0 && el("p", { class: "note" }, `and ${count(left, "more window")}`),
    legend(["sees", "read"], ["other", "read and predicted"], ["actual", "the chosen token"]),
  ].filter(Boolean);
}
