// How a token is drawn: from the scores over temperature, softmax, top-k and top-p, each step as bars.

import { el, minus, percent } from "./dom.js";
import { alone } from "./tokens.js";

const STEPS = [
  ["logit", "logit z", "score of the token, h times its embedding"],
  ["scaled", "z / T", "divided by the temperature"],
  ["softmax", "softmax", "e to that, divided by the sum over all tokens"],
  ["top_k", "top-k", "after all but the k most probable were dropped"],
  ["top_p", "top-p", "after all but the fewest that add up to p were dropped: the token is drawn from these"],
];

/** The steps in a sentence each, which a finger that cannot hover over the headings reads too. */
export const STEPS_TOLD =
  "z is the score of a token, h times its embedding. It is divided by the temperature T; softmax makes probabilities of all scores. Top-k drops all but the k most probable tokens, top-p all but the fewest that add up to p; what is left adds up to 1 again, and the token is drawn from it.";

/** A table of candidates; `pick(candidate)` is called for the one to go on with, `chosen` is the id of the one that stands. */
export function stageTable({ candidates, kept, drawn }, { chosen, pick }) {
  const lowest = Math.min(...candidates.map((one) => one.logit));
  const width = { logit: share("logit", lowest), scaled: share("scaled", lowest) };
  const most = Math.max(...candidates.map((one) => Math.max(one.softmax, one.top_k, one.top_p)));
  for (const [step] of STEPS.slice(2)) width[step] = (one) => one[step] / most;
  function share(step, low) {
    const floor = low - 1;
    const top = Math.max(...candidates.map((one) => one.logit)) - floor;
    return (one) => (one[step] === null ? 0 : (one.logit - floor) / top);
  }
  const cell = (one, step) => {
    const value = one[step];
    const isScore = step === "logit" || step === "scaled";
    const text = value === null ? "\u2013" : isScore ? minus(value.toFixed(1)) : percent(value);
    return el(
      "td",
      { class: !isScore && value === 0 ? "dropped" : isScore ? "z" : "", vars: { w: `${100 * width[step](one)}%` } },
      el("i"),
      text,
    );
  };
  const rows = candidates.map((one) => {
    const marks = [one.id === drawn && "drawn", one.id === chosen && "chosen"].filter(Boolean);
    const words = marks.length ? ` (${marks.join(", ")})` : "";
    const button = el(
      "button",
      {
        type: "button",
        class: `chip ${one.special ? "special" : ""}`,
        "aria-label": `Go on with ${alone(one)}${words}, ${percent(one.top_p)}`,
        on: { click: () => pick(one) },
      },
      alone(one),
    );
    return el(
      "tr",
      { class: marks.join(" ") },
      el("th", { scope: "row" }, button),
      STEPS.map(([step]) => cell(one, step)),
    );
  });
  const rest = (step) => Math.max(0, 1 - candidates.reduce((sum, one) => sum + one[step], 0));
  return el(
    "table",
    { class: "stages", "aria-label": "The way from scores to the draw" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "token"),
        STEPS.map(([, name, words]) => el("th", { scope: "col", title: words }, name)),
      ),
    ),
    el(
      "tbody",
      {},
      rows,
      el(
        "tr",
        { class: "others" },
        el("th", { scope: "row" }, "all others"),
        el("td"),
        el("td"),
        STEPS.slice(2).map(([step]) => el("td", {}, percent(rest(step)))),
      ),
      el(
        "tr",
        { class: "others" },
        el("th", { scope: "row" }, "tokens kept"),
        el("td"),
        el("td"),
        STEPS.slice(2).map(([step]) => el("td", {}, kept[step].toLocaleString("en"))),
      ),
    ),
  );
}
