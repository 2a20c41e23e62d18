// The forms for a text and for a row of a fine-tuned run, and the text that a view begins with.

import { el, problem } from "./dom.js";

export const SAMPLE =
  "Once upon a time there was a little girl who lived with her mother in a small house near the forest. One morning her mother gave her a basket of bread and said: take this to your grandmother, and do not speak to strangers on the way.";
const PAIRS = ["entailment", "similarity"]; // tasks whose rows are two texts
const MOST = 200_000; // characters that a browser keeps in an address

/** A form for one text; Ctrl+Enter sends it. */
export function textForm({ text, label, verb, more = [], send }) {
  const field = el("textarea", { rows: 2, spellcheck: "false", required: true, "aria-label": label });
  field.value = text;
  const told = el("div");
  const submit = (event) => {
    event.preventDefault();
    const characters = field.value.length.toLocaleString("en");
    const most = MOST.toLocaleString("en");
    if (field.value.length <= MOST) send(field.value);
    else
      told.replaceChildren(
        problem({ message: `The text has ${characters} characters; this page takes ${most} at most.` }),
      );
  };
  field.addEventListener(
    "keydown",
    (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event),
  );
  return el("form", { class: "ask", on: { submit } }, field, more, el("button", { title: "Ctrl+Enter" }, verb), told);
}

/** The texts that an address holds for a run: those its task reads, or fewer; one for a pre-trained run. */
export function rowTexts(run, params, sample = "") {
  const [text, ...more] = [params.get("text") ?? sample, ...params.getAll("more")];
  if (run.task === "multiple-choice") return [text, ...more.filter(Boolean)];
  return [text, ...more].slice(0, PAIRS.includes(run.task) ? 2 : 1);
}

/** Whether a row has all texts that its task reads. */
export function isWhole(run, texts) {
  const least = run.task === "multiple-choice" ? 3 : PAIRS.includes(run.task) ? 2 : 1;
  return texts.length >= least && texts.every((text) => text.trim());
}

/** A form with a field for each text of a row; `send(changes)` gets the address's parameters. */
export function rowForm({ run, texts, verb, send }) {
  const fields = textNames(run, texts.length).map((name, n) => {
    const field = el("textarea", { rows: n ? 2 : 3, spellcheck: "false" });
    field.value = texts[n] ?? "";
    return el("label", { class: "wide" }, name, field);
  });
  const submit = (event) => {
    event.preventDefault();
    const [text, ...more] = fields.map((label) => label.lastChild.value);
    send({ text, more: run.task === "multiple-choice" ? more.filter(Boolean) : more });
  };
  return el("form", { class: "ask", on: { submit } }, fields, el("button", {}, verb));
}

/** What the texts of a row are called: those of a run's columns. */
export function textNames(run, given) {
  const { texts = [] } = run.columns ?? {};
  if (PAIRS.includes(run.task)) return [texts[0] ?? "first text", texts[1] ?? "second text"];
  if (run.task !== "multiple-choice") return [texts[0] ?? "text"];
  return [texts[0] ?? "context", ...Array.from({ length: Math.max(4, given - 1) }, (_, n) => `answer ${n}`)];
}
