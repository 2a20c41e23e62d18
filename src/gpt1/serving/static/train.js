// Train: the curves of a run and the texts it wrote, while it is trained too.

import { ask } from "./api.js";
import { lineChart } from "./chart.js";
import { capital, card, el, number, problem, section } from "./dom.js";

export const title = "Train";
export const about =
  "What was measured while the run was trained. If it is training now, the curves grow by themselves.";
const EVERY = 2000; // milliseconds between two looks
const NAMES = {
  val_nats_per_token: "validation loss",
  val_loss: "validation task loss",
  lr: "learning rate",
  grad_norm: "norm of the gradient",
};

export async function show({ place, run, signal }) {
  let seen = "";
  const look = async () => {
    const found = await ask(`/v1/models/${encodeURIComponent(run.id)}/curves`, null, signal);
    const now = JSON.stringify([found.steps, found.samples.length, Object.keys(found.curves).length]);
    if (now !== seen) draw(place, found);
    seen = now;
  };
  await look();
  const timer = setInterval(() => {
    look().catch((error) => {
      if (signal.aborted || !seen) return;
      seen = ""; // drawn anew when the server is back
      place.append(problem(error));
    });
  }, EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function words(name) {
  return NAMES[name] ?? name.replace("val_", "validation ").replaceAll("_", " ");
}

function draw(place, { curves, lm_coef: lambda, steps, samples }) {
  if (!steps) {
    place.replaceChildren(
      el("p", { class: "note" }, "This run's folder holds no measurements: it came without its metrics.jsonl."),
    );
    return;
  }
  const chart = (lines, y) =>
    lineChart(Object.fromEntries(Object.entries(lines).filter(([, points]) => points)), { x: "updates", y });
  const last = (name) => curves[name] && card(number(curves[name].at(-1)[1]), words(name));
  const losses = !curves.task
    ? [
        section(
          "Loss",
          "\u2212log P of the next token, on average over a step's tokens, and on text that it does not train on.",
          chart({ "training loss": curves.lm, "validation loss": curves.val_nats_per_token }, "nats per token"),
        ),
      ]
    : [
        section(
          "L2, the task",
          "\u2212log P of the right label, from the hidden state at the extract token.",
          chart({ "task loss": curves.task, "validation task loss": curves.val_loss }, "nats per example"),
        ),
        section(
          "L1, the language model",
          "The auxiliary loss: the run goes on predicting the next token of what it reads.",
          chart({ "LM loss": curves.lm }, "nats per token"),
        ),
        curves.l3 &&
          section(
            "L3 = L2 + \u03bb L1, what is minimised",
            lambda
              ? `\u03bb is ${lambda} here.`
              : "\u03bb is 0 here: this run was fine-tuned without the auxiliary loss.",
            chart({ L3: curves.l3, L2: curves.task }, "nats"),
          ),
      ];
  const metrics = Object.keys(curves).filter(
    (name) => name.startsWith("val_") && !["val_nats_per_token", "val_loss"].includes(name),
  );
  place.replaceChildren(
    el(
      "div",
      { class: "cards" },
      card(steps.toLocaleString("en"), "updates"),
      ...Object.keys(curves)
        .filter((name) => name.startsWith("val_"))
        .map(last),
    ),
    ...losses.filter(Boolean),
    ...metrics.map((name) => section(capital(words(name)), null, chart({ [words(name)]: curves[name] }, ""))),
    ...["lr", "grad_norm"]
      .filter((name) => curves[name])
      .map((name) => section(capital(words(name)), null, chart({ [words(name)]: curves[name] }, ""))),
    samples.length
      ? section(
          "What it wrote",
          "Texts written on the way, the newest first.",
          el(
            "ol",
            { class: "samples" },
            samples
              .slice(-20)
              .reverse()
              .map(([step, text]) =>
                el("li", {}, el("h3", {}, `after ${step.toLocaleString("en")} updates`), el("blockquote", {}, text)),
              ),
          ),
        )
      : "",
  );
}
