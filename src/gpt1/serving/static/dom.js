// Elements and numbers. Text is only ever set as text, never parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Of `props`, `on` holds listeners, `vars` CSS variables, the others are attributes; false and null are left out. */
export function el(name, props = {}, ...children) {
  return fill(document.createElement(name), props, children);
}

/** Make an SVG element. */
export function svg(name, props = {}, ...children) {
  return fill(document.createElementNS(SVG, name), props, children);
}

function fill(element, { on = {}, vars = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes))
    if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  for (const [type, listener] of Object.entries(on)) element.addEventListener(type, listener);
  for (const [name, value] of Object.entries(vars)) element.style.setProperty(`--${name}`, value);
  element.append(...children.flat(2).filter((child) => child != null && child !== false));
  return element;
}

/** A section with a heading and a sentence that says what is seen. */
export function section(title, about, ...children) {
  return el("section", {}, el("h2", {}, title), about && el("p", { class: "note" }, about), ...children);
}

/** A figure on a card. */
export function card(value, name, about) {
  return el("div", {}, el("b", {}, value), el("span", {}, name), about && el("small", {}, about));
}

/** What went wrong, where it went wrong. */
export function problem(error) {
  return el("p", { class: "error", role: "alert" }, error.message);
}

/** A probability; a tiny one by its power of ten. */
export function percent(p) {
  return p >= 0.001 ? `${(100 * p).toFixed(1)}%` : p === 0 ? "0" : scientific(p, 0);
}

/** A number with about three digits. */
export function number(value) {
  const size = Math.abs(value);
  if (size >= 10000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size && size < 0.001) return scientific(value, 1);
  return minus(value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3));
}

export function scientific(value, digits = 2) {
  return minus(value.toExponential(digits).replace("e+", "e"));
}

export function minus(text) {
  return text.replace(/-/g, "\u2212");
}

/** A number with its sign. */
export function signed(value) {
  return `${value > 0 ? "+" : "\u2212"}${Math.abs(value).toFixed(3)}`;
}

/** W_y h, the scores of the linear layer. */
export function wyh() {
  return el("i", {}, "W", el("sub", {}, "y"), "h");
}

/** A text with its first letter as a capital. */
export function capital(text) {
  return text.replace(/^./u, (letter) => letter.toUpperCase());
}

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
