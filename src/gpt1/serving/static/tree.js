// A tree of tokens: every way that a text was continued.

import { el } from "./dom.js";
import { inText } from "./tokens.js";

/** The tokens from the root to a node. */
export function branch(node) {
  const found = [];
  for (let one = node; one?.parent; one = one.parent) found.unshift(one);
  return found;
}

/** Append a token to a node, unless it has it already; return its node. */
export function grow(parent, { id, token, special, logprob }) {
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
    el(
      "button",
      { type: "button", class: "chip", "aria-current": isHere && "true", on: { click: () => goTo(end) } },
      words || "\u2205",
    ),
    end.children.length > 1 &&
      el(
        "ul",
        {},
        end.children.map((child) => twig(child, here, goTo)),
      ),
  );
}

/** All branches, the one that holds the token `here` marked; `goTo(token)` is called for the one that is chosen. */
export function treeList(root, here, goTo) {
  if (!root.children.length) return el("p", { class: "note" }, "None yet.");
  return el(
    "ul",
    { class: "tree" },
    root.children.map((child) => twig(child, here, goTo)),
  );
}
