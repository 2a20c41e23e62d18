// Classify: what a fine-tuned run predicts of a row, and why.

import { ask } from "./api.js";
import { bar, signedBars } from "./bars.js";
import { card, el, number, percent, section, svg, wyh } from "./dom.js";
import { rowForm, rowTexts, textNames } from "./form.js";
import { alone, inText, legend } from "./tokens.js";

export const title = "Classify";
export const about =
  "The input is written as one sequence between special tokens. A linear layer, W_y, makes scores of h, the hidden state at the last one, extract.";
const MOST_WORDS = 15;

export async function show({ place, params, run, runs, go, signal }) {
  if (!run.task) {
    const tuned = runs.filter((one) => one.task).map((one) => one.id);
    const which = tuned.length
      ? `Choose ${tuned.join(" or ")} in the menu of runs.`
      : "None of the runs that are served is.";
    place.append(
      el(
        "p",
        { class: "note" },
        `${run.id} is pre-trained: it knows no classes. This view is for fine-tuned runs. ${which}`,
      ),
    );
    return;
  }
  const texts = rowTexts(run, params);
  place.append(rowForm({ run, texts, verb: "Classify", send: (changes) => go(changes, true) }));
  if (!texts.some(Boolean)) {
    place.append(el("p", { class: "note" }, "Give it a text, and see what it predicts and why."));
    return;
  }
  const body = { model: run.id, text: texts[0], more: texts.slice(1), as: "rows" };
  const found = await ask("/v1/explain", body, signal);
  place.append(verdict(found), sequences(found), outputs(found), decisive(found, textNames(run, texts.length)));
  if (found.words_alone) place.append(wordsAlone(found, textNames(run, texts.length)));
}

function label(found, value) {
  if (Array.isArray(value)) return value.join(", ") || "none of the labels";
  if (found.task === "multiple-choice") return `answer ${value}: ${found.texts[Number(value) + 1]}`;
  return typeof value === "number" ? number(value) : String(value);
}

function verdict(found) {
  const best = found.outputs.find((one) => one.name === found.about);
  return el(
    "div",
    { class: "cards" },
    card(label(found, found.predicted_label), "predicted"),
    best.probability != null && card(percent(best.probability), "its probability"),
    found.words_alone && card(label(found, found.words_alone.predicted_label), "predicted by words alone"),
  );
}

function sequences(found) {
  return section(
    "What the model reads",
    found.is_cut
      ? `The row is longer than the context of ${found.context} tokens; this is the part that is read.`
      : null,
    found.sequences.slice(0, 8).map(({ tokens, h, scores }) => [
      el(
        "p",
        { class: "tokens" },
        tokens.map((piece) =>
          el(
            "span",
            { class: `token ${piece.role === "text" ? "" : "special"}` },
            piece.role === "text" ? inText(piece) : piece.role,
          ),
        ),
      ),
      el("p", { class: "note" }, [`h at extract, ${h.length} numbers, drawn below; the scores, `, wyh(), ` = ${scores.map(number).join(", ")}`]),
      hidden(h),
    ]),
  );
}

function hidden(h) {
  const largest = Math.max(...h.map(Math.abs)) || 1;
  const d = h.map((value, i) => `M${i} 0h1v${(-value / largest).toFixed(3)}h-1z`).join("");
  return svg(
    "svg",
    { class: "strip", viewBox: `0 -1 ${h.length} 2`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "mark", d }),
  );
}

function outputs(found) {
  if (found.outputs[0].probability == null)
    return section("The number", [
      wyh(),
      ` is ${number(found.outputs[0].score)}, in standard deviations from the mean of the training rows.`,
    ]);
  const largest = Math.max(...found.outputs.map((one) => Math.abs(one.score))) || 1;
  const line = (name, share, text, kind) => bar(el("span", {}, name), share, text, kind);
  const rows = [...found.outputs].sort((a, b) => b.probability - a.probability).slice(0, 20);
  const how =
    found.task === "multi-label"
      ? "A sigmoid makes each score a probability."
      : "Softmax makes the scores probabilities.";
  const both = found.words_weight ? `The scores of words alone, times ${number(found.words_weight)}, are added. ` : "";
  const heat = found.temperature !== 1 ? `All is divided by the temperature ${number(found.temperature)}. ` : "";
  return section(
    "From scores to probabilities",
    both + heat + how,
    el(
      "ol",
      { class: "outputs" },
      rows.map((one) =>
        el(
          "li",
          {},
          el("p", {}, el("b", {}, found.task === "multiple-choice" ? label(found, one.name) : one.name)),
          line(wyh(), Math.abs(one.score) / largest, number(one.score), one.score < 0 ? "against" : "score"),
          line(found.words_weight ? "both" : "probability", one.probability, percent(one.probability), ""),
          one.words_probability != null &&
            line("words alone", one.words_probability, percent(one.words_probability), "words"),
        ),
      ),
    ),
  );
}

/** The name of word n; of a word that occurs again, with a number. */
function nth(words, n) {
  const same = words.map((one, m) => [one.word, m]).filter(([word]) => word === words[n].word);
  return same.length > 1 ? `${words[n].word} (${1 + same.findIndex(([, m]) => m === n)})` : words[n].word;
}

function decisive(found, names) {
  const largest = Math.max(...found.words.map((one) => Math.abs(one.change)), 1e-9);
  const texts = found.texts.map((text, n) => {
    const parts = [];
    let end = 0;
    const characters = [...text]; // positions count characters, not UTF-16 units
    for (const one of found.words.filter((word) => word.text === n)) {
      parts.push(characters.slice(end, one.start).join(""));
      parts.push(
        el(
          "mark",
          {
            class: one.change > 0 ? "cool" : "heat",
            title: one.change.toFixed(3),
            vars: { s: `${(100 * Math.abs(one.change)) / largest}%` },
          },
          one.word,
        ),
      );
      end = one.stop;
    }
    return el("blockquote", {}, parts, characters.slice(end).join(""));
  });
  const isNumber = found.outputs[0].probability == null;
  const about = isNumber ? "a higher number" : found.task === "multiple-choice" ? `answer ${found.about}` : found.about;
  const rows = found.words.map((one, n) => ({
    name: nth(found.words, n),
    note: names.length > 1 && names[one.text],
    value: one.change,
  }));
  const together = found.together > 1 ? `, ${found.together} neighbours at a time,` : "";
  return section(
    "Which words decided",
    `Each word was left out in turn${together} and the row predicted again. A bar is how much ${isNumber ? "the score" : `the log-odds of ${about}`} fell without it; below 0 it rose.`,
    texts,
    legend(["cool most", `speaks for ${about}`], ["heat most", "against it"]),
    signedBars(rows, "The words that decided", MOST_WORDS),
  );
}

function wordsAlone(found, names) {
  const named = (of) => ({ "first text": names[0], "second text": names[1] })[of] ?? of;
  const { words_alone: words } = found;
  const rows = words.evidence.map((one) => ({
    name: alone({ token: one.feature }),
    note: found.texts.length > 1 ? `${named(one.of)}, ${one.kind}` : "",
    value: one.contribution,
  }));
  const isPair = words.evidence.some((one) => one.feature === "cosine" && one.of === "both texts");
  const likeness = isPair ? " The cosine is how alike both texts are." : "";
  return section(
    "What words alone say",
    `TF-IDF of words and of parts of words, and a linear model, fitted on the same rows, say ${label(found, words.predicted_label)}.${likeness} The constant ${number(words.constant)} and all features add up to ${number(words.score)}.`,
    signedBars(rows, "Evidence of words alone"),
  );
}
