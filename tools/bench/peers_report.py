"""The figures of ``scripts/bench peers`` as a table and as a plot."""

import statistics
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

BEGIN, END = "<!-- scripts/bench peers writes from here -->", "<!-- to here -->"
"""Around the table in docs/benchmarks.md."""

WIDTH, BAR, GAP, LEFT = 640, 22, 10, 150
"""Of the plot, in pixels."""

COLOURS: Final = {"diffusers": "#8a8a8a", "this service": "#2f6f4f", "IOPaint": "#b08040"}


def ratios(found: dict[str, Any], name: str, figure: str) -> list[float]:
    """How many times as long another takes as this service, round by round."""
    ours = found["rounds"]["this service"]
    return [theirs[figure] / own[figure] for theirs, own in zip(found["rounds"][name], ours, strict=True)]


def middle(found: dict[str, Any], name: str, figure: str) -> float:
    """The median over rounds."""
    return statistics.median(float(picture[figure]) for picture in found["rounds"][name])


def write_table(found: dict[str, Any]) -> str:
    """Returns Markdown: what ran where, a row for each contestant, and the rows that have no contestant."""
    facts, side, steps = found["facts"], found["side"], found["whole_steps"]
    how = "measured" if found["steps"] == steps else f"from {found['steps']} measured steps and what surrounds them"
    ours = facts["this service"]
    rounds = len(found["rounds"]["diffusers"])
    where = f"{found['date']}, {ours['device']}, {found['cpus']} CPUs ({found['machine']})"
    lines = [
        f"{where}, {rounds} rounds in turn; {side}×{side}, {steps} steps ({how}).",
        "",
        "| | format | load s | a step s | a picture s | peak memory GB | a picture, times ours: each round |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in found["rounds"]:
        about = facts[name]
        peak = found["peak_bytes"].get(name)
        load = found["load_seconds"].get(name)
        plan = found["rounds"][name][-1].get("plan") or about.get("dtype", "")
        lines.append(
            f"| {name} | {plan} | {'' if load is None else f'{load:.1f}'} | {middle(found, name, 'step_seconds'):.3f} "
            f"| {middle(found, name, 'whole_seconds'):.2f} | {'' if peak is None else f'{peak / 1e9:.2f}'} "
            f"| {', '.join(f'{ratio:.2f}' for ratio in ratios(found, name, 'whole_seconds'))} |"
        )
    return "\n".join([*lines, "", *_further(found)]) + "\n"


def _further(found: dict[str, Any]) -> list[str]:
    gemm = found["facts"]["this service"]["gemm"]
    limit = found["step_flops"] / gemm
    step = middle(found, "this service", "step_seconds")
    peaks = found["peak_bytes"]
    again, first = found["again"]["seconds"], found["rounds"]["this service"][-1]["seconds"]
    around = found["around_milliseconds"]
    work = f"A guided step is {found['step_flops'] / 1e12:.3g} TFLOP"
    pace = f"the best matrix product ran at {gemm / 1e9:,.0f} GFLOP/s, by which a step would take {limit:.3g} s"
    repeated = f"The same picture with another seed took {again:.2f} s, after {first:.2f} s the first time"
    empty = "The service around the model, over HTTP with a device that is done at once"
    lines = [
        f"- {work}; {pace}. Ours takes {step / limit:.2f} times that.",
        f"- Peak memory is {100 * peaks['this service'] / peaks['diffusers']:.0f}% of diffusers'.",
        f"- {repeated} ({found['steps']} steps).",
        f"- {empty}: {around['median']:.0f} ms, at best {around['least']:.0f}.",
    ]
    if (large := found["large"]) is not None:
        ratio = large["plain_seconds"] / large["ours_seconds"]
        how = f"{large['plain_seconds']:.2f} s"
        if large["is_bound"]:
            how = (
                f"at least {large['plain_seconds']:.0f} s (one row of the UNet at half the side took "
                f"{large['row_seconds']:.1f} s; each row of a step is at least four of them)"
            )
        lines.append(
            f"- {found['large_side']}×{found['large_side']} with a hole of {found['hole']} pixels: ours "
            f"{large['ours_seconds']:.2f} s, diffusers on the whole picture {how}: {ratio:.1f} times as long."
        )
    return lines


def draw(found: dict[str, Any]) -> str:
    """Returns an SVG: a bar for each contestant's picture."""
    bars = {name: middle(found, name, "whole_seconds") for name in found["rounds"]}
    longest = max(bars.values())
    device = found["facts"]["this service"]["device"]
    title = f"{found['side']}×{found['side']}, {found['whole_steps']} steps, seconds ({device}, {found['date']})"
    height = 40 + len(bars) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="20">{escape(title)}</text>',
    ]
    for number, (name, seconds) in enumerate(bars.items()):
        top = 34 + number * (BAR + GAP)
        length = (WIDTH - LEFT - 80) * seconds / longest
        parts += [
            f'<text x="10" y="{top + 16}">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[name]}"/>',
            f'<text x="{LEFT + length + 8:.1f}" y="{top + 16}">{seconds:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def put(folder: Path, table: str) -> None:
    """Writes the table into benchmarks.md, between its marks, or into a file of its own where there is none."""
    page = folder / "benchmarks.md"
    if not page.is_file():
        (folder / "peers.md").write_text(table, "utf-8")
        return
    text = page.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    plot = "![Seconds of a picture](peers.svg)"
    page.write_text(f"{before}{BEGIN}\n\n{table}\n{plot}\n\n{END}{after}", "utf-8")
