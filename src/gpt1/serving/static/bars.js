// Named values as bars.

import { el, percent, signed } from "./dom.js";
import { alone } from "./tokens.js";

/** A bar: what it is called, its share of the full width, its value in words, and something below or beside. */
export function bar(name, share, text, kind = "", more = null) {
  return el(
    "div",
    { class: `row ${kind}` },
    name,
    el("i", { vars: { w: `${100 * share}%` } }),
    el("span", {}, text),
    more,
  );
}

/** Tokens with their probabilities; `marked` is the id of the true one. */
export function tokenBars(pieces, { label, marked, words = "actual token" }) {
  const largest = Math.max(...pieces.map((piece) => piece.probability)) || 1;
  const rows = pieces.map((piece) => {
    const name = el("span", { class: `chip ${piece.special ? "special" : ""}` }, alone(piece));
    const mark = piece.id === marked && el("span", { class: "hidden" }, words);
    return bar(name, piece.probability / largest, percent(piece.probability), mark ? "true" : "", mark);
  });
  return list(rows, label);
}

/** Values for and against, the largest first, so many at most: {name, note, value}. */
export function signedBars(values, label, most = Infinity) {
  const sorted = [...values].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, most);
  const largest = Math.abs(sorted[0]?.value ?? 0) || 1;
  const rows = sorted.map(({ name, note, value }) =>
    bar(
      el("span", { class: "chip" }, name),
      Math.abs(value) / largest,
      signed(value),
      value < 0 ? "against" : "for",
      note && el("span", { class: "where" }, note),
    ),
  );
  return list(rows, label);
}

function list(rows, label) {
  return el(
    "ol",
    { class: "bars", "aria-label": label },
    rows.map((row) => el("li", {}, row)),
  );
}
