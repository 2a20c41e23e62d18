"""Draw how far the best learning rate and batch depend on the size of the network: docs/images/transfer.svg.

    python benchmarks/recipes.py DATA --seeds 1 --only size-64x3,size-64x3-rate-0.5,...
    python benchmarks/transfer.py

Reads every set of results in results/recipes.json that has sizes at several rates or batches. Each line is one size:
how many bits per byte it loses against its own best, over multiples of the recipe's rate or of the preset's batch.
"""

import json
import math
import re
from pathlib import Path

from record import RESULTS

OUT = Path(__file__).parents[1] / "docs" / "images" / "transfer.svg"
NAME = re.compile(r"size-(?P<size>\d+x\d+)(?:-(?P<what>rate|batch)-(?P<times>[\d.]+))?")
PANELS = {"rate": "learning rates, times those of recipe fast", "batch": "batch, times the preset's"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 220, 52, 30, 70  # of a panel's plot, and the space around it
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # told apart with every kind of colour vision
MOST = 0.16  # bits per byte; a line above it leaves the plot
Curves = dict[str, dict[float, float]]  # of each size, the loss by the multiple


def main() -> None:
    results = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))["result"]
    panels = [panel(number, label, curves(results, what)) for number, (what, label) in enumerate(PANELS.items())]
    width, height = LEFT + 2 * WIDTH + GAP + 10, TOP + HEIGHT + 44
    style = "text{font:12px sans-serif;fill:#555}.grid{stroke:#bbb;stroke-width:.5}polyline{fill:none;stroke-width:2}"
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style}</style>{''.join(panels)}</svg>\n",
        encoding="utf-8",
    )
    print(OUT)


def curves(results: dict[str, dict[str, dict[str, dict[str, float]]]], what: str) -> Curves:
    """Return for each size its mean loss at each multiple, less the least of them."""
    found: Curves = {}
    for group in results.values():
        parts = {name: match for name in group if (match := NAME.fullmatch(name))}
        varied = {match["size"] for match in parts.values() if match["what"] == what}
        for name, match in parts.items():
            if match["size"] in varied and match["what"] in (None, what):
                bits = [one["bits_per_byte"] for one in group[name].values()]
                found.setdefault(match["size"], {})[float(match["times"] or 1)] = sum(bits) / len(bits)
    return {
        size: {times: loss - min(losses.values()) for times, loss in sorted(losses.items())}
        for size, losses in sorted(found.items(), key=lambda item: int(item[0].split("x")[0]))
    }


def panel(number: int, label: str, lines: Curves) -> str:
    """Draw one panel: a logarithmic x axis, a grid, and a line with dots for each size."""
    left = LEFT + number * (WIDTH + GAP)
    marks = sorted({times for line in lines.values() for times in line})
    low, high = math.log(marks[0]), math.log(marks[-1])

    def x(times: float) -> float:
        return left + WIDTH * (math.log(times) - low) / (high - low)

    def y(loss: float) -> float:
        return TOP + HEIGHT * (1 - min(loss, MOST * 1.05) / MOST)

    parts = [f'<text x="{left}" y="14">{"bits per byte above the size&#8217;s best" if number == 0 else ""}</text>']
    for step in range(5):
        loss = MOST * step / 4
        parts.append(f'<path class="grid" d="M{left} {y(loss):.1f}h{WIDTH}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>')
    for times in marks:
        parts.append(f'<text x="{x(times):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{times:g}</text>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">{label}</text>')
    for colour, line in zip(COLOURS, lines.values(), strict=False):
        points = [(x(times), y(loss)) for times, loss in line.items()]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
    for row, (colour, size) in enumerate(zip(COLOURS, lines, strict=False)):
        parts.append(f'<text x="{left + 90}" y="{TOP + 14 + 16 * row}" style="fill:{colour}">{size}</text>')
    return "".join(parts)


if __name__ == "__main__":
    main()
