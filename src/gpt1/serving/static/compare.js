// Compare: two runs, or two texts, side by side; where one is surprised more than the other.

import { capital, card, el, minus, number, percent, section } from "./dom.js";
import { SAMPLE, textForm } from "./form.js";
import { explain, figures } from "./read.js";
import { bits, inText, legend, surprise, tokenList } from "./tokens.js";

export const title = "Compare";
export const about = "Two runs read the same text, or one run two texts.";
const FULL = 6; // bits of difference at which the colour is full

export async function show({ place, params, run, runs, go, signal }) {
  const text = params.get("text") ?? SAMPLE;
  const second = params.get("text2") ?? "";
  const other =
    runs.find((one) => one.id === params.get("other")) ?? (second ? run : (runs.find((one) => one !== run) ?? run));
  const menu = el(
    "select",
    {},
    runs.map((one) => el("option", { value: one.id }, one.id)),
  );
  menu.value = other.id;
  const field = el("textarea", { rows: 2, spellcheck: "false", placeholder: "another text, or nothing for the same" });
  field.value = second;
  menu.addEventListener("change", () => go({ other: menu.value }, true));
  place.append(
    textForm({
      text,
      label: "Text to read",
      verb: "Compare",
      send: (value) => go({ text: value, text2: field.value, other: menu.value }, true),
      more: [
        el("label", { class: "wide" }, `${run.id} against `, menu),
        el("label", { class: "wide" }, "that reads ", field),
      ],
    }),
  );
  const [one, two] = [await explain(run, text, signal), await explain(other, second || text, signal)];
  const names = run === other ? ["first text", "second text"] : [run.id, other.id];
  const isSame = one.text === two.text;
  const gain = one.bits_per_byte - two.bits_per_byte;
  place.append(
    el(
      "div",
      { class: "cards" },
      card(number(one.bits_per_byte), `bits per byte, ${names[0]}`),
      card(number(two.bits_per_byte), `bits per byte, ${names[1]}`),
      card(
        minus(`${gain > 0 ? "\u2212" : "+"}${number(Math.abs(gain))}`),
        `${names[1]} against ${names[0]}`,
        one.comparable && two.comparable
          ? `bits per byte; below 0, ${names[1]} ${isSame ? "reads it better" : "is easier to read"}`
          : "not comparable: a tokenizer loses text",
      ),
    ),
  );
  if (isSame) place.append(difference(one, two, names));
  place.append(
    el(
      "div",
      { class: "twice" },
      [one, two].map((result, n) =>
        section(
          run === other ? capital(names[n]) : names[n],
          null,
          reading(result, names[n]),
          legend(["heat least", "expected"], ["heat most", "12 bits of surprise, or more"]),
          figures(result),
        ),
      ),
    ),
  );
}

function reading(result, name) {
  const { positions } = result;
  return tokenList({
    tokens: positions,
    label: `Tokens as ${name} reads them`,
    choose: () => {},
    shade: (n) => surprise(positions[n].nats),
    describe: (n) => `${percent(positions[n].probability)}, ${bits(positions[n].nats).toFixed(1)} bits`,
  });
}

/**
 * The text in the smallest pieces at whose ends both tokenizations have a border, with the surprise of each; null if they
 * do not spell the same text. Spaces do not count, since some tokenizers lose them.
 */
export function commonPieces(one, two) {
  const size = (piece) => inText(piece).replace(/\s/g, "").length;
  const isBlank = (piece) => piece && size(piece) === 0; // belongs to what stands before it
  const found = [];
  let piece = { token: "", one: 0, two: 0 };
  let [i, j, ahead] = [0, 0, 0]; // ahead: by how many characters the first one is further on
  while (i < one.length || j < two.length) {
    if (j >= two.length || (i < one.length && (ahead < 0 || (ahead === 0 && !(j && isBlank(two[j])))))) {
      ahead += size(one[i]);
      piece.one += one[i].nats;
      piece.token += one[i].special ? "" : inText(one[i]);
      piece.special = one[i++].special;
    } else {
      ahead -= size(two[j]);
      piece.two += two[j++].nats;
    }
    if (ahead === 0 && i && j && !isBlank(one[i]) && !isBlank(two[j])) {
      found.push(piece);
      piece = { token: "", one: 0, two: 0 };
    }
  }
  return ahead === 0 ? found : null;
}

function difference(one, two, names) {
  const pieces = commonPieces(one.positions, two.positions);
  if (!pieces)
    return el("p", { class: "note" }, "These tokenizers do not spell the text alike, so its tokens cannot be matched.");
  const gain = pieces.map((piece) => bits(piece.one - piece.two));
  const words = (n) =>
    `${names[0]} ${bits(pieces[n].one).toFixed(1)} bits, ${names[1]} ${bits(pieces[n].two).toFixed(1)} bits`;
  const told = el("p", { class: "note", role: "status" }, "Choose a token for its two surprises.");
  const list = tokenList({
    tokens: pieces,
    label: "The text, coloured by the difference",
    choose: (n) => told.replaceChildren(words(n)),
    describe: words,
    shade: (n) => ({ kind: gain[n] > 0 ? "cool" : "heat", share: Math.min(1, Math.abs(gain[n]) / FULL) }),
  });
  return section(
    "The difference",
    null,
    list,
    legend(["cool most", `${names[1]} reads it better`], ["heat most", `${names[0]} reads it better`]),
    told,
  );
}
