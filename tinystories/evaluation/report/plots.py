"""Plots as rows of HTML with small drawings in percentages."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .figures import count, escaped, share


class Mark(NamedTuple):
    """One value of a plot: whose it is, and the ends of its interval where it has one."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: int


class Group(NamedTuple):
    """Lines of a plot that belong together, and what stands on their scale beside them."""

    label: str
    marks: list[Mark]
    reference: float | None = None


def dot_plot(
    groups: Iterable[Group],
    style: Callable[[float], str],
    *,
    domain: tuple[float, float] | None = None,
    reference: str = "real stories",
) -> str:
    """Dots with intervals on one scale; a group with one mark takes one line, another a line for each and a head."""
    groups = [group for group in groups if group.marks]
    low, high = domain or domain_of(groups)
    ticks = _ticks(low, high)

    def place(value: float) -> str:
        return f"{2 + 96 * (value - low) / ((high - low) or 1):.2f}%"

    grid = "".join(f'<line class="grid" x1="{place(tick)}" x2="{place(tick)}" y1="0" y2="100%"/>' for tick in ticks)
    lines = []
    for group in groups:
        named = len(group.marks) > 1
        if named:
            lines.append(f'<div class="row group">{escaped(group.label)}</div>')
        beside = ""
        if group.reference is not None and low <= group.reference <= high:
            at = place(group.reference)
            beside = (
                f'<line class="reference" x1="{at}" x2="{at}" y1="0" y2="100%"><title>{escaped(reference)}: '
                f"{style(group.reference)}</title></line>"
            )
        for mark in group.marks:
            label = mark.name if named else group.label
            said = f"{label}: {style(mark.value)}"
            whisker = ""
            if mark.low is not None:
                said += f", interval {style(mark.low)} to {style(mark.high)}"
                whisker = (
                    f'<line class="whisker k{mark.colour}" x1="{place(max(low, mark.low))}" '
                    f'x2="{place(min(high, mark.high))}" y1="50%" y2="50%"/>'
                )
            lines.append(
                f'<div class="row"><span class="label">{escaped(label)}</span>'
                f'<svg class="track" role="img" aria-label="{escaped(said)}"><title>{escaped(said)}</title>'
                f"{grid}{beside}"
                f'{whisker}<circle class="dot k{mark.colour}" cx="{place(mark.value)}" cy="50%" r="5"/></svg>'
                f'<span class="value">{style(mark.value)}</span></div>'
            )
    axis = "".join(
        f'<text x="{place(tick)}" y="13" text-anchor="middle">{_tick_label(tick, style)}</text>' for tick in ticks
    )
    lines.append(
        f'<div class="row axis"><span class="label"></span><svg class="track" aria-hidden="true">{axis}</svg>'
        f'<span class="value"></span></div>'
    )
    return f'<div class="plot">{"".join(lines)}</div>'


def curve(
    title: str,
    series: list[dict[int, Mark]],
    style: Callable[[float], str],
    domain: tuple[float, float] | None = None,
) -> str:
    """One figure over optimizer steps; a series is one run, its marks by their steps."""
    low, high = domain or domain_of([Group(title, list(marks.values())) for marks in series], zero=False)
    steps = [step for marks in series for step in marks]
    first, last = min(steps), max(steps)

    def x(step: float) -> str:
        return f"{18 + 78 * (step - first) / ((last - first) or 1):.2f}%"

    def y(value: float) -> str:
        return f"{84 - 78 * (min(high, max(low, value)) - low) / ((high - low) or 1):.2f}%"

    drawn = []
    for tick in _ticks(low, high, 4):
        drawn.append(f'<line class="grid" x1="16%" x2="98%" y1="{y(tick)}" y2="{y(tick)}"/>')
        drawn.append(f'<text x="14.5%" y="{y(tick)}" dy="4" text-anchor="end">{_tick_label(tick, style)}</text>')
    for tick in _ticks(first, last, 4):
        drawn.append(f'<text x="{x(tick)}" y="98%" text-anchor="middle">{count(tick)}</text>')
    for marks in series:
        for (one, before), (other, after) in itertools.pairwise(marks.items()):
            drawn.append(
                f'<line class="path k{after.colour}" x1="{x(one)}" y1="{y(before.value)}" x2="{x(other)}" '
                f'y2="{y(after.value)}"/>'
            )
        for step, mark in marks.items():
            said, at = f"{mark.name}, step {step:,}: {style(mark.value)}", x(step)
            if mark.low is not None:
                drawn.append(
                    f'<line class="whisker k{mark.colour}" x1="{at}" x2="{at}" y1="{y(mark.low)}" '
                    f'y2="{y(mark.high)}"/>'
                )
            drawn.append(
                f'<circle class="dot k{mark.colour}" cx="{at}" cy="{y(mark.value)}" r="4">'
                f"<title>{escaped(said)}</title>"
                "</circle>"
            )
    return (
        f'<figure class="curve"><figcaption>{escaped(title)}</figcaption><svg role="img" aria-label="{escaped(title)} '
        f'over optimizer steps">{"".join(drawn)}</svg></figure>'
    )


def domain_of(groups: Sequence[Group], *, zero: bool = True) -> tuple[float, float]:
    """A scale on which all of it has room, from zero or from a little below the lowest; no figure is below zero."""
    values = [
        value
        for group in groups
        for value in (group.reference, *(v for mark in group.marks for v in (mark.low, mark.value, mark.high)))
        if value is not None
    ]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.01
    return (0.0 if zero else max(0.0, low - margin)), high + margin


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_label(tick: float, style: Callable[[float], str]) -> str:
    return f"{100 * tick:.3g}\N{NO-BREAK SPACE}%" if style is share else f"{tick:.6g}"
