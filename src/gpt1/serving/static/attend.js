// Attend: what each token looks at, in one head of one block.

import { ask } from "./api.js";
import { tokenBars } from "./bars.js";
import { count, el, percent, section } from "./dom.js";
import { SAMPLE, textForm } from "./form.js";
import { alone, legend, tokenList } from "./tokens.js";

export const title = "Attend";
export const about =
  "In each head of each block a token looks back at the tokens before it and itself, with weights that add up to 1. The future is masked: a model that predicts the next token must not see it.";
const MOST_BARS = 10;
const LEAST = 0.0005; // smaller weights are not listed
const LABELLED = 64; // tokens, at most, whose rows are named

export async function show({ place, params, run, go, signal }) {
  const text = params.get("text") ?? SAMPLE;
  const layer = Math.max(0, Number(params.get("layer")) || 0);
  place.append(
    textForm({ text, label: "Text to read", verb: "Read", send: (value) => go({ text: value, at: null }, true) }),
  );
  const found = await ask("/v1/attention", { model: run.id, text, layer }, signal);
  const { tokens, weights } = found;
  let head = Math.min(found.heads - 1, Math.max(0, Number(params.get("head")) || 0));
  let at = Math.min(tokens.length - 1, Math.max(0, Number(params.get("at") ?? tokens.length - 1) || 0));

  const layers = el(
    "select",
    { on: { change: () => go({ layer: layers.value }, true) } },
    Array.from({ length: found.layers }, (_, n) => el("option", { value: n }, `block ${n + 1} of ${found.layers}`)),
  );
  layers.value = layer;
  const [shown, matrix, looks] = ["text", "matrix", "looks"].map((name) => el("div", { class: name }));
  const thumbs = weights.map((rows, n) => {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const button = el(
      "button",
      { type: "button", class: "head", "aria-label": `head ${n + 1}`, on: { click: () => choose(n, at) } },
      canvas,
      String(n + 1),
    );
    return { button, draw: () => paint(canvas, rows, 1) };
  });
  const large = el("canvas", { "aria-hidden": "true" });
  large.addEventListener("click", (event) => {
    const box = large.getBoundingClientRect();
    choose(head, Math.min(tokens.length - 1, Math.floor(((event.clientY - box.top) / box.height) * tokens.length)));
  });
  place.append(
    el(
      "div",
      { class: "controls" },
      el("label", {}, "Block ", layers),
      el(
        "div",
        { class: "heads", role: "group", "aria-label": "Heads" },
        thumbs.map(({ button }) => button),
      ),
    ),
    found.left_out === 0
      ? ""
      : el(
          "p",
          { class: "note" },
          `The first ${count(tokens.length - 1, "token")} of the text are read here; ${found.left_out.toLocaleString("en")} more are left out.`,
        ),
    el(
      "div",
      { class: "beside" },
      section(
        "From the chosen token back",
        "Choose a token; the others are coloured by how much it looks at them.",
        shown,
        legend(["cool least", "0"], ["cool most", "its largest weight"], ["soft", "masked: not read yet"]),
      ),
      looks,
    ),
    section(
      "All tokens at once",
      "Each row is a token and shows where it looks: the darker, the more. The triangle above the diagonal is the future, which is masked.",
      matrix,
    ),
  );
  const names =
    tokens.length <= LABELLED
      ? el(
          "ol",
          { class: "names", "aria-hidden": "true" },
          tokens.map((piece) => el("li", { class: "chip" }, alone(piece))),
        )
      : "";
  matrix.append(el("div", { class: "labelled" }, names, large), el("p", { class: "note" }));

  function choose(newHead, newAt, focus) {
    [head, at] = [newHead, newAt];
    go({ head, at });
    thumbs.forEach(({ button }, n) => button.setAttribute("aria-pressed", String(n === head)));
    const row = weights[head][at];
    const largest = Math.max(...row);
    const list = tokenList({
      tokens: tokens.map((piece, n) => ({ ...piece, soft: n > at })),
      label: "Tokens of the text",
      chosen: at,
      shade: (n) => (n <= at ? { kind: "cool", share: row[n] / largest } : null),
      describe: (n) => (n <= at ? percent(row[n]) : "masked"),
      choose: (n) => n !== at && choose(head, n, true),
    });
    shown.replaceChildren(list);
    if (focus) list.querySelector("[aria-selected=true]").focus();
    const best = row
      .map((weight, n) => ({ ...tokens[n], id: n, probability: weight }))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, MOST_BARS)
      .filter(({ probability }, n) => !n || probability >= LEAST);
    looks.replaceChildren(
      el("h2", {}, "It looks at"),
      el(
        "p",
        { class: "after" },
        el("b", { class: "chip" }, alone(tokens[at])),
        ` in head ${head + 1} of block ${layer + 1}`,
      ),
      tokenBars(best, { label: "Tokens it looks at", marked: at, words: "itself" }),
    );
    paint(large, weights[head], Math.max(4, Math.floor(960 / tokens.length)), at);
    matrix.lastChild.textContent = `Row ${at + 1} of ${tokens.length}, ${alone(tokens[at])}, is framed. Click a row to choose its token.`;
  }

  const repaint = () => {
    thumbs.forEach(({ draw }) => draw());
    choose(head, at);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint, { signal });
  repaint();
}

/** Draw the triangle of weights, `size` pixels a weight; each row is as dark as its largest weight allows. */
function paint(canvas, rows, size, framed = -1) {
  const style = getComputedStyle(document.body);
  canvas.width = canvas.height = rows.length * size;
  const context = canvas.getContext("2d");
  context.fillStyle = style.getPropertyValue("--mask");
  context.fillRect(0, 0, canvas.width, canvas.height);
  rows.forEach((row, y) => {
    context.globalAlpha = 1;
    context.fillStyle = style.getPropertyValue("--paper");
    context.fillRect(0, y * size, row.length * size, size);
    context.fillStyle = style.getPropertyValue("--c0");
    row.forEach((weight, x) => {
      context.globalAlpha = Math.sqrt(weight);
      context.fillRect(x * size, y * size, size, size);
    });
  });
  context.globalAlpha = 1;
  if (framed < 0) return;
  context.strokeStyle = style.getPropertyValue("--c1");
  context.lineWidth = 3;
  context.strokeRect(1.5, framed * size + 1.5, canvas.width - 3, size - 3);
}
