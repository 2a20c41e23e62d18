// The form for a text, and the text that a view begins with.

import { el, problem } from "./dom.js";

export const SAMPLE =
  "Once upon a time there was a little girl who lived with her mother in a small house near the forest. One morning her mother gave her a basket of bread and said: take this to your grandmother, and do not speak to strangers on the way.";
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
