// The tokens of a text, each a choice: a click or the arrow keys choose one.

import { el } from "./dom.js";

const FULL = 12; // bits of surprise at which the colour is full

/** A token as it stands in a text; a special one by its name. */
export function inText({ token, special }) {
  return special ? `[${special}]` : token.replace(/<\/w>$/, " ");
}

/** A token on its own: a space is shown. */
export function alone(piece) {
  return inText(piece).replaceAll(" ", "\u2423") || "\u2205";
}

export function bits(nats) {
  return nats / Math.LN2;
}

/** The colour of a surprise in nats. */
export function surprise(nats) {
  return { share: Math.min(1, bits(nats) / FULL), kind: "heat" };
}

/**
 * A list of tokens ({token, special}). `shade(n)` gives the colour of one, {share, kind}; `describe(n)` its words for a
 * tooltip and a screen reader; `choose(n)` is called when one is chosen.
 */
export function tokenList({ tokens, label, shade = () => null, describe = () => "", choose, chosen = -1 }) {
  const options = tokens.map((piece, n) => {
    const colour = shade(n);
    const kind = [colour?.kind, piece.special && "special", piece.soft && "soft"];
    return el(
      "span",
      {
        class: ["token", ...kind].filter(Boolean).join(" "),
        role: "option",
        tabindex: n === Math.max(0, chosen) ? 0 : -1,
        "aria-selected": String(n === chosen),
        "aria-label": `${alone(piece)}${describe(n) && `, ${describe(n)}`}`,
        title: describe(n) || null,
        vars: colour ? { s: `${(100 * colour.share).toFixed(1)}%` } : {},
      },
      inText(piece),
    );
  });
  const select = (n, focus) => {
    options.forEach((option, m) => {
      option.setAttribute("aria-selected", String(m === n));
      option.tabIndex = m === n ? 0 : -1;
    });
    if (focus) options[n].focus();
    choose(n);
  };
  const list = el(
    "div",
    { class: "tokens", role: "listbox", "aria-label": label, "aria-orientation": "horizontal" },
    options.map((option, n) => [option, /\\n$/.test(tokens[n].token) && el("br", { role: "presentation" })]),
  );
  list.addEventListener("click", (event) => {
    const n = options.indexOf(event.target.closest("[role=option]"));
    if (n >= 0) select(n, true);
  });
  list.addEventListener("keydown", (event) => {
    const now = options.indexOf(document.activeElement);
    const to = {
      ArrowRight: now + 1,
      ArrowLeft: now - 1,
      ArrowDown: below(options, now, 1),
      ArrowUp: below(options, now, -1),
      Home: 0,
      End: options.length - 1,
      Enter: now,
      " ": now,
    }[event.key];
    if (now < 0 || to === undefined) return;
    event.preventDefault();
    select(Math.min(options.length - 1, Math.max(0, to)), true);
  });
  return Object.assign(list, { select });
}

/** The token of the next line, or the one before, that is closest to token n. */
function below(options, n, direction) {
  if (n < 0) return n;
  const { left, top } = options[n].getBoundingClientRect();
  let line = null;
  let best = n;
  let distance = Infinity;
  for (let m = n + direction; options[m]; m += direction) {
    const box = options[m].getBoundingClientRect();
    if (Math.abs(box.top - top) < 4) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > 4) break;
    if (Math.abs(box.left - left) < distance) [best, distance] = [m, Math.abs(box.left - left)];
  }
  return best;
}

/** What the colours mean. */
export function legend(...entries) {
  return el(
    "p",
    { class: "legend" },
    entries.map(([kind, words]) => el("span", {}, el("i", { class: kind }), words)),
  );
}
