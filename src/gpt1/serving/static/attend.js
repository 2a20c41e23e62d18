// Attend: what each token looks at, in one head of one block.

import { ask } from "./api.js";
import { tokenBars } from "./bars.js";
import { count, el, percent, section } from "./dom.js";
import { isWhole, rowForm, rowTexts, SAMPLE, textForm } from "./form.js";
import { alone, legend, tokenList } from "./tokens.js";

export const title = "Attend";
export const about =
  "In each head of each block a token looks back at the tokens before it and itself, with weights that add up to 1. The future is masked: a model that predicts the next token must not see it.";
const MOST_BARS = 10;
const LEAST = 0.0005; // smaller weights are not listed
const LABELLED = 64; // tokens, at most, whose rows are named
const SIZE = 960; // pixels of the large triangle, about; CSS makes it fit

export async function show({ place, params, run, go, signal }) {
  const layer = natural(params.get("layer"));
  const texts = rowTexts(run, params, SAMPLE);
  const send = (changes) => go({ ...changes, at: null, sequence: null }, true);
  place.append(
    run.task
      ? rowForm({ run, texts, verb: "Read", send })
      : textForm({ text: texts[0], label: "Text to read", verb: "Read", send: (text) => send({ text }) }),
  );
  if (run.task && !isWhole(run, texts)) {
    place.append(el("p", { class: "note" }, "Give it all texts of a row, and see where each token looks."));
    return;
  }
  const row = run.task ? { more: texts.slice(1), as: "rows", sequence: natural(params.get("sequence")) } : {};
  const body = { model: run.id, text: texts[0], layer, encoding_format: "base64", ...row };
  const found = await ask("/v1/attention", body, signal);
  const { tokens, heads } = found;
  const weights = unpack(found.weights, heads, tokens.length);
  let head = Math.min(heads - 1, natural(params.get("head")));
  let at = Math.min(tokens.length - 1, natural(params.get("at") ?? tokens.length - 1));

  const [shown, looks] = ["text", "looks"].map((name) => el("div", { class: name }));
  const framed = el("p", { class: "note" });
  const small = weights.map(() => el("canvas", { "aria-hidden": "true" }));
  const large = el("canvas", { "aria-hidden": "true" });
  const buttons = small.map((canvas, n) =>
    el(
      "button",
      { type: "button", class: "head", "aria-label": `head ${n + 1}`, on: { click: () => choose(n, at) } },
      canvas,
      String(n + 1),
    ),
  );
  large.addEventListener("click", (event) => {
    const box = large.getBoundingClientRect();
    choose(head, Math.min(tokens.length - 1, Math.floor(((event.clientY - box.top) / box.height) * tokens.length)));
  });
  const blocks = Array.from({ length: found.layers }, (_, n) => `block ${n + 1} of ${found.layers}`);
  const sequences = Array.from({ length: found.sequences }, (_, n) => sequenceName(run, texts, n, found.sequences));
  place.append(
    el(
      "div",
      { class: "controls" },
      sequences.length > 1 && menu("Sequence ", sequences, found.sequence, (n) => go({ sequence: n, at: null }, true)),
      menu("Block ", blocks, layer, (n) => go({ layer: n }, true)),
      el("div", { class: "heads", role: "group", "aria-label": "Heads" }, el("span", {}, "Heads"), buttons),
    ),
    found.is_cut ? el("p", { class: "note" }, cutWords(found, run)) : "",
    el(
      "div",
      { class: "beside" },
      section(
        "From the chosen token back",
        `Choose a token; the others are coloured by how much it looks at them.${run.task ? "" : " [end] stands before every text: where one document ends, the next begins."}`,
        shown,
        legend(["cool least", "0"], ["cool most", "its largest weight"], ["soft", "masked: not read yet"]),
      ),
      looks,
    ),
    section(
      "All tokens at once",
      "Each row is a token and shows where it looks: the stronger the colour, the more. The triangle above the diagonal is the future, which is masked.",
      el("div", { class: "labelled" }, tokens.length <= LABELLED && rowNames(tokens), large),
      framed,
    ),
  );

  function choose(newHead, newAt, focus) {
    [head, at] = [newHead, newAt];
    go({ head, at });
    buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(n === head)));
    const list = lookedAt(tokens, weights[head][at], (n) => n !== at && choose(head, n, true));
    shown.replaceChildren(list);
    if (focus) list.querySelector("[aria-selected=true]").focus();
    looks.replaceChildren(
      el("h2", {}, "It looks at"),
      el(
        "p",
        { class: "after" },
        el("b", { class: "chip" }, alone(tokens[at])),
        ` in head ${head + 1} of block ${layer + 1}`,
      ),
      tokenBars(largest(tokens, weights[head][at]), { label: "Tokens it looks at", marked: at, words: "itself" }),
    );
    enlarge(large, small[head], tokens.length, at);
    framed.textContent = `Row ${at + 1} of ${tokens.length}, \u201c${alone(tokens[at])}\u201d, is framed. Click a row to choose its token.`;
  }

  const repaint = () => {
    small.forEach((canvas, n) => paint(canvas, weights[n]));
    choose(head, at);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint, { signal });
  repaint();
}

function natural(text) {
  return Math.max(0, Math.floor(Number(text)) || 0);
}

/** The weights of each head and token, from base64 of 16-bit integers in 65,535ths. */
function unpack(text, heads, tokens) {
  const all = new Uint16Array(Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)).buffer);
  let end = 0;
  return Array.from({ length: heads }, () =>
    Array.from({ length: tokens }, (_, t) => Array.from(all.subarray(end, (end += t + 1)), (part) => part / 65535)),
  );
}

/** A menu of names; `change(n)` is called for the one that is chosen. */
function menu(label, names, chosen, change) {
  const options = names.map((name, n) => el("option", { value: n, selected: n === chosen }, name));
  return el("label", {}, label, el("select", { on: { change: (event) => change(event.target.value) } }, options));
}

/** Which of the sequences that a row is read as: one for each answer or order, for each window. */
function sequenceName(run, texts, n, total) {
  const each = run.task === "multiple-choice" ? texts.length - 1 : run.task === "similarity" ? 2 : 1;
  const window = total > each ? `window ${Math.floor(n / each) + 1}` : "";
  const order = n % each ? "second text first" : "first text first";
  const kind = run.task === "multiple-choice" ? `answer ${n % each}` : run.task === "similarity" ? order : "";
  return [window, kind].filter(Boolean).join(", ");
}

function cutWords({ tokens, left_out: left }, run) {
  const context = run.context.toLocaleString("en");
  return run.task
    ? `The row is longer than the context of ${context} tokens; this is the part that is read.`
    : `The first ${count(tokens.length - 1, "token")} of the text fill the context of ${context}; ${left.toLocaleString("en")} more are left out.`;
}

/** The tokens, coloured by how much the last of `row` looks at them; `choose(n)` is called when one is chosen. */
function lookedAt(tokens, row, choose) {
  const at = row.length - 1;
  const most = Math.max(...row);
  return tokenList({
    tokens: tokens.map((piece, n) => ({ ...piece, soft: n > at })),
    label: "Tokens of the text",
    chosen: at,
    shade: (n) => (n <= at ? { kind: "cool", share: row[n] / most } : null),
    describe: (n) => (n <= at ? percent(row[n]) : "masked"),
    choose,
  });
}

/** The tokens that get the largest weights, for bars. */
function largest(tokens, row) {
  return row
    .map((weight, n) => ({ ...tokens[n], id: n, probability: weight }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, MOST_BARS)
    .filter(({ probability }, n) => !n || probability >= LEAST);
}

function rowNames(tokens) {
  return el(
    "ol",
    { class: "names", "aria-hidden": "true" },
    tokens.map((piece) => el("li", { class: "chip" }, alone(piece))),
  );
}

/** Draw the triangle of weights, a pixel a weight; a weight of 1 has the full colour. */
function paint(canvas, rows) {
  canvas.width = canvas.height = rows.length;
  const context = canvas.getContext("2d");
  const [paper, full, mask] = ["--paper", "--c0", "--mask"].map((name) => colour(context, name));
  const image = context.createImageData(rows.length, rows.length);
  rows.forEach((row, y) => {
    for (let x = 0; x < rows.length; x++) {
      const share = Math.sqrt(row[x] ?? 0); // else small weights could not be seen
      const from = x <= y ? paper : mask;
      const start = 4 * (y * rows.length + x);
      for (let n = 0; n < 3; n++) image.data[start + n] = from[n] + share * (full[n] - from[n]);
      image.data[start + 3] = 255;
    }
  });
  context.putImageData(image, 0, 0);
}

/** Red, green and blue of a colour of the style sheet. */
function colour(context, name) {
  context.fillStyle = getComputedStyle(document.body).getPropertyValue(name);
  return [1, 3, 5].map((n) => parseInt(context.fillStyle.slice(n, n + 2), 16)); // it is read as #rrggbb
}

/** Draw a small triangle of n rows large, with row `at` framed. */
function enlarge(canvas, small, n, at) {
  const size = Math.max(2, Math.floor(SIZE / n));
  canvas.width = canvas.height = n * size;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--c1");
  context.lineWidth = 3;
  context.strokeRect(1.5, Math.max(1.5, at * size - 0.5), canvas.width - 3, size + 1);
}
