#!/usr/bin/env python3
"""Draws what `kvbench engine --json` wrote, as SVG, with the standard library only.

    tools/kvbench/plot.py FIGURES.json DIRECTORY

rates.svg: operations per second by workload, a bar per engine (median of the runs).
latency.svg: p50, p99, p99.9 and maximum by workload and engine, on a logarithmic scale.
WORKLOAD-timeline.svg: for open loops, the worst latency of every 100 ms, which is where checkpoints show.
"""

import html
import json
import math
import pathlib
import statistics
import sys

COLOURS = {"pando": "#1b7837", "rocksdb": "#d6604d", "lmdb": "#4393c3", "wiredtiger": "#9970ab", "fio": "#222222",
           "pando-4k": "#d9f0d3", "pando-8k": "#1b7837", "pando-16k": "#7fbf7b", "pando-32k": "#00441b"}
OTHER_COLOUR = "#777777"
SLICE_S = 0.1  # DriveTally::kSliceNs
PERCENTILES = [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9"), ("max_us", "max")]


class Svg:
    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = []
        self.text(width / 2, 18, title, anchor="middle", size=14)

    def text(self, x, y, text, anchor="start", size=11, colour="#222222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
                          f'fill="{colour}">{html.escape(text)}</text>')

    def rect(self, x, y, width, height, colour, hint=""):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}" '
                          f'fill="{colour}"><title>{html.escape(hint)}</title></rect>')

    def line(self, points, colour, width=1.0):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def legend(self, engines, x, y):
        for engine in engines:
            self.rect(x, y - 9, 10, 10, colour_of(engine))
            self.text(x + 14, y, engine)
            x += 30 + 7 * len(engine)

    def write(self, path):
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(self.parts) + "\n</svg>\n", encoding="utf-8")
        print(path)


def colour_of(engine):
    return COLOURS.get(engine, OTHER_COLOUR)


def in_order(names):
    return list(dict.fromkeys(names))


def short(value):
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def median_of(lines, workload, engine, field):
    values = [line[field] for line in lines if line["workload"] == workload and line["system"] == engine]
    return statistics.median(values) if values else None


def draw_rates(lines, path):
    """One panel per workload, each with its own scale: the rates differ by orders of magnitude."""
    lines = [l for l in lines if l["rate"] == 0]  # an open loop's rate is what was asked for
    workloads, engines = in_order(l["workload"] for l in lines), in_order(l["system"] for l in lines)
    panel, height, columns = 190, 200, 4
    rows = math.ceil(len(workloads) / columns)
    svg = Svg(40 + columns * panel, 60 + rows * height, "operations per second")
    svg.legend(engines, 20, 40)
    for i, workload in enumerate(workloads):
        left, top = 20 + i % columns * panel, 60 + i // columns * height
        rates = {e: median_of(lines, workload, e, "ops_per_s") for e in engines}
        highest = max((r for r in rates.values() if r), default=1)
        svg.text(left + 80, top + 10, workload, anchor="middle", size=12)
        for j, (engine, rate) in enumerate(rates.items()):
            if rate is None:
                continue
            tall = 120 * rate / highest
            svg.rect(left + 8 + j * 40, top + 150 - tall, 32, tall, colour_of(engine), f"{engine} {rate:.0f}/s")
            svg.text(left + 24 + j * 40, top + 145 - tall, short(rate), anchor="middle", size=10)
        svg.line([(left, top + 150), (left + 168, top + 150)], "#222222")
    svg.write(path)


def log_scale(low_us, high_us, top, bottom):
    low, high = math.log10(low_us), math.log10(high_us)
    return lambda us: bottom - (math.log10(min(max(us, low_us), high_us)) - low) / (high - low) * (bottom - top)


def draw_axis(svg, scale, low_us, high_us, left, right):
    for power in range(int(math.log10(low_us)), int(math.log10(high_us)) + 1):
        us = 10 ** power
        label = f"{us} us" if us < 1000 else f"{us // 1000} ms" if us < 1_000_000 else f"{us // 1_000_000} s"
        svg.line([(left, scale(us)), (right, scale(us))], "#dddddd")
        svg.text(left - 4, scale(us) + 4, label, anchor="end", size=10)


def draw_latency(lines, path):
    workloads = in_order(l["workload"] for l in lines if not l["workload"].startswith("load"))
    engines = in_order(l["system"] for l in lines)
    group = 22 * len(engines) + 24
    svg = Svg(80 + group * max(len(workloads), 3), 360, "latency: p50, p99, p99.9 and maximum")
    svg.legend(engines, 60, 40)
    low, high = 1, 10_000_000
    scale = log_scale(low, high, 60, 310)
    draw_axis(svg, scale, low, high, 60, svg.width - 10)
    for i, workload in enumerate(workloads):
        left = 70 + i * group
        svg.text(left + group / 2 - 12, 332 + 14 * (i % 2), workload, anchor="middle", size=10)
        for j, engine in enumerate(engines):
            values = [median_of(lines, workload, engine, field) for field, _ in PERCENTILES]
            if values[0] is None:
                continue
            x = left + 22 * j + 8
            svg.line([(x, scale(values[0])), (x, scale(values[-1]))], colour_of(engine))
            for (_, name), value, wide in zip(PERCENTILES, values, (14, 11, 8, 5)):
                svg.rect(x - wide / 2, scale(value) - 1.5, wide, 3, colour_of(engine), f"{engine} {name} {value:.0f} us")
    svg.write(path)


def draw_timeline(lines, workload, path):
    runs = [l for l in lines if l["workload"] == workload and l["run"] == 1]
    svg = Svg(900, 70 + 150 * len(runs), f"{workload}: worst latency of every 100 ms")
    longest = max(len(run["timeline_max_us"]) for run in runs)
    low, high = 10, 10_000_000
    for i, run in enumerate(runs):
        top, bottom = 50 + 150 * i, 170 + 150 * i
        scale = log_scale(low, high, top, bottom)
        draw_axis(svg, scale, low, high, 60, 890)
        svg.text(66, top - 4, f"{run['system']}, {run['rate']:.0f}/s asked for", size=12)
        step = 820 / max(longest, 1)
        for j, us in enumerate(run["timeline_max_us"]):
            svg.rect(64 + j * step, scale(us), max(step - 0.3, 0.3), bottom - scale(us), colour_of(run["system"]),
                     f"{j * SLICE_S:.1f} s: {us:.0f} us")
    svg.text(475, svg.height - 8, f"{longest * SLICE_S:.0f} s", anchor="middle")
    svg.write(path)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines() if line]
    directory = pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    if not lines:
        sys.exit(f"{sys.argv[1]}: no measurements")
    draw_rates(lines, directory / "rates.svg")
    draw_latency(lines, directory / "latency.svg")
    for workload in in_order(l["workload"] for l in lines if l["rate"] > 0):
        draw_timeline(lines, workload, directory / f"{workload}-timeline.svg")


if __name__ == "__main__":
    main()
