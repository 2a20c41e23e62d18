// A line chart: as wide as the page, with text that keeps its size.

import { el, minus, svg } from "./dom.js";

const VIEW = 1000; // width and height of the plot in its own units, which CSS stretches

/**
 * Lines by name, each a list of [x, y]; `marker` draws a vertical line at that x. `choose(x)` is called with the x that
 * was clicked. Returns null if there is nothing to draw.
 */
export function lineChart(lines, { x: xName, y: yName, marker = null, choose = null }) {
  const drawn = Object.entries(lines).filter(([, points]) => points.length);
  const all = drawn.flatMap(([, points]) => points);
  if (all.length < 2) return null;
  const [xs, ys] = [
    span(
      all.map(([x]) => x),
      0,
    ),
    span(
      all.map(([, y]) => y),
      0.04,
    ),
  ];
  const left = (x) => (x - xs[0]) / (xs[1] - xs[0]);
  const top = (y) => (ys[1] - y) / (ys[1] - ys[0]);
  const percent = (share) => `${(100 * share).toFixed(2)}%`;
  const said = drawn.map(
    ([name, points]) => `${name}: ${points[0][1].toPrecision(4)} to ${points.at(-1)[1].toPrecision(4)}.`,
  );
  const plot = svg(
    "svg",
    { role: "img", "aria-label": `${yName} by ${xName}. ${said.join(" ")}` },
    ticks(...ys).map((y) => [
      svg("line", { class: "grid", x2: "100%", y1: percent(top(y)), y2: percent(top(y)) }),
      svg("text", { x: -6, y: percent(top(y)), dy: 4, "text-anchor": "end" }, minus(String(y))),
    ]),
    ticks(...xs).map((x) =>
      svg("text", { x: percent(left(x)), y: "100%", dy: 16, "text-anchor": "middle" }, x.toLocaleString("en")),
    ),
    svg("text", { x: "100%", y: "100%", dy: 32, "text-anchor": "end" }, xName),
    svg(
      "svg",
      { viewBox: `0 0 ${VIEW} ${VIEW}`, preserveAspectRatio: "none" },
      drawn.map(([, points], n) =>
        svg("polyline", {
          class: `line-${n}`,
          points: points.map(([x, y]) => `${(VIEW * left(x)).toFixed(1)},${(VIEW * top(y)).toFixed(1)}`).join(" "),
        }),
      ),
    ),
  );
  if (marker !== null)
    plot.append(svg("line", { class: "marker", x1: percent(left(marker)), x2: percent(left(marker)), y2: "100%" }));
  if (choose)
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect();
      choose(xs[0] + ((event.clientX - box.left) / box.width) * (xs[1] - xs[0]));
    });
  const names = drawn.map(([name], n) => el("span", { class: `legend-${n}` }, `\u25cf ${name}`));
  return el("figure", { class: "chart" }, el("figcaption", {}, el("span", {}, yName), names), plot);
}

function span(values, share) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = high > low ? share * (high - low) : 0.5;
  return [low - margin, high + margin];
}

function ticks(low, high) {
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => unit * m).find((size) => size >= raw);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
    Number((step * (first + i)).toPrecision(10)),
  );
}
