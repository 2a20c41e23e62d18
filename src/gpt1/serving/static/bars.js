// Named values as bars.

import { el, percent } from "./dom.js";
import { alone } from "./tokens.js";

/** Tokens with their probabilities; `marked` is the id of the true one, `pick` makes each a button. */
export function tokenBars(pieces, { label, marked, words = "actual token", pick }) {
  const largest = Math.max(...pieces.map((piece) => piece.probability)) || 1;
  const rows = pieces.map((piece) => {
    const isTrue = piece.id === marked;
    const inside = [
      el("span", { class: `chip ${piece.special ? "special" : ""}` }, alone(piece)),
      el("i", { vars: { w: `${(100 * piece.probability) / largest}%` } }),
      el("span", {}, percent(piece.probability)),
      isTrue && el("span", { class: "hidden" }, words),
    ];
    const kind = `row ${isTrue ? "true" : ""}`;
    return el(
      "li",
      {},
      pick
        ? el("button", { type: "button", class: kind, on: { click: () => pick(piece) } }, inside)
        : el("div", { class: kind }, inside),
    );
  });
  return el("ol", { class: "bars", "aria-label": label }, rows);
}

/** Signed values around a middle line, the largest first: {name, note, value, text}. */
export function signedBars(rows, label) {
  const largest = Math.max(...rows.map((row) => Math.abs(row.value))) || 1;
  const sorted = [...rows].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  return el(
    "ol",
    { class: "bars", "aria-label": label },
    sorted.map((row) =>
      el(
        "li",
        {},
        el(
          "div",
          { class: `row ${row.value < 0 ? "against" : "for"}` },
          el("span", { class: "chip" }, row.name),
          el("i", { vars: { w: `${(100 * Math.abs(row.value)) / largest}%` } }),
          el("span", {}, row.text),
          row.note && el("span", { class: "where" }, row.note),
        ),
      ),
    ),
  );
}
