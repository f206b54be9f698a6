"""Plots as SVG that takes its fonts and its colours, in light and dark, from the style of the page."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import blended_transform_factory

from .figures import Format, count, percent, printable


COLOURS = 8
# matplotlib writes these colours, and `_svg` replaces them with variables of the style sheet.
_COLOURS = [f"#a0000{i}" for i in range(COLOURS)]
_INK, _RULE, _SOFT = "#a0000a", "#a0000b", "#a0000c"
_VARIABLES = dict(
    zip((*_COLOURS, _INK, _RULE, _SOFT), (*(f"k{i}" for i in range(COLOURS)), "ink", "rule", "soft"), strict=True)
)
_MAX_LABEL = 24  # characters that fit
_SETTINGS: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "font.family": "DejaVu Sans",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.spines.bottom": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": _RULE, "grid.linewidth": 0.8, "text.color": _INK,
    "xtick.color": _SOFT, "ytick.color": _SOFT, "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
}  # fmt: skip


class Mark(NamedTuple):
    """A value with its interval, if it has one."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: int


class Group(NamedTuple):
    """Marks with a common heading, and the value of real stories or of chance."""

    label: str
    marks: list[Mark]
    reference: float | None = None


def dot_plot(title: str, groups: Sequence[Group], style: Format, domain: tuple[float, float] | None = None) -> Markup:
    """A row for each mark: name, dot with interval, value. Several groups get headings."""
    rows: list[tuple[str, Mark | None]] = []
    references = []  # (value, first row, last row)
    for group in groups:
        single = len(group.marks) == 1
        if len(groups) > 1 and not single:
            rows.append((group.label, None))
        references.append((group.reference, len(rows) - 0.5, len(rows) + len(group.marks) - 0.5))
        rows += [(group.label or mark.name if single else mark.name, mark) for mark in group.marks]
    low, high = domain or domain_of(groups)
    height = 0.24 * len(rows) + 0.3
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.4, height))
        axes = figure.add_axes((0.37, 0.28 / height, 0.47, 1 - 0.3 / height))
        axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), yticks=[])
        for reference, *ends in references:
            if reference is not None and low <= reference <= high:
                axes.plot([reference] * 2, ends, color=_INK, linewidth=1.5, alpha=0.7, clip_on=False)
        margin = blended_transform_factory(figure.transFigure, axes.transData)
        for row, (label, mark) in enumerate(rows):
            axes.text(0, row, _shortened(label), transform=margin, va="center", weight="normal" if mark else "bold")
            if mark is None:
                continue
            if mark.low is not None and mark.high is not None:
                _interval(axes, (max(low, mark.low), min(high, mark.high)), (row, row), mark.colour)
            _dots(axes, [mark.value], [row], mark.colour)
            axes.text(1, row, style(mark.value), transform=margin, va="center", ha="right")
        _ticks(axes.xaxis, style, 5)
        values = "; ".join(f"{label} {style(mark.value)}" for label, mark in rows if mark)
        return _svg(figure, f"{title}: {values}")


def curve(
    title: str,
    series: Sequence[dict[int, Mark]],
    style: Format,
    domain: tuple[float, float] | None = None,
    labels: Sequence[str] | None = None,
) -> Markup:
    """A figure over optimizer steps; each of `series` is one run, with a mark for each step in order.

    Args:
        labels: of the horizontal positions 0, 1, ..., instead of steps.
    """

    def place(x: int) -> str:
        return f"step {x:,}" if labels is None else labels[x]

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(3.3, 1.9))
        axes = figure.add_axes((0.17, 0.13, 0.81, 0.83))
        axes.set_ylim(domain or domain_of([Group(title, list(marks.values())) for marks in series], zero=False))
        changes = []
        for marks in series:
            steps = list(marks)
            first, last = marks[steps[0]], marks[steps[-1]]
            begin, end = f"{style(first.value)} at {place(steps[0])}", f"{style(last.value)} at {place(steps[-1])}"
            changes.append(f"{first.name} from {begin} to {end}")
            values = [mark.value for mark in marks.values()]
            axes.plot(steps, values, color=_COLOURS[first.colour], linewidth=1.5, clip_on=False)
            for step, mark in marks.items():
                if mark.low is not None and mark.high is not None:
                    _interval(axes, (step, step), (mark.low, mark.high), mark.colour)
            _dots(axes, steps, values, first.colour)
        if labels is None:
            _ticks(axes.xaxis, count, 4)
        else:
            axes.set_xticks(range(len(labels)), labels)
            axes.set_xlim(-0.2, len(labels) - 0.8)
        _ticks(axes.yaxis, style, 4)
        return _svg(figure, f"{title}: {'; '.join(changes)}")


def domain_of(groups: Sequence[Group], *, zero: bool = True) -> tuple[float, float]:
    """The ends of a scale for all marks and references, from zero or from a little below the lowest."""
    values = [
        value
        for group in groups
        for value in (group.reference, *(v for mark in group.marks for v in (mark.low, mark.value, mark.high)))
        if value is not None
    ]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.01
    return (0.0 if zero else max(0.0, low - margin)), high + margin


def _dots(axes: Axes, x: Sequence[float], y: Sequence[float], colour: int) -> None:
    axes.plot(x, y, "o", color=_COLOURS[colour], markersize=6, clip_on=False, gid=f"dot k{colour}")


def _interval(axes: Axes, x: Sequence[float], y: Sequence[float], colour: int) -> None:
    axes.plot(x, y, color=_COLOURS[colour], linewidth=4.5, alpha=0.3, solid_capstyle="round", clip_on=False)


def _ticks(axis: Axis, style: Format, most: int) -> None:
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    for gridline in axis.get_gridlines():
        gridline.set_clip_on(False)
    formats: dict[Format, Format] = {percent: lambda value: f"{100 * value:.3g}%", count: count}
    label = formats.get(style, "{:.6g}".format)
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))


def _shortened(label: str) -> str:
    label = printable(label)
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"


def _svg(figure: Figure, description: str) -> Markup:
    """The figure as an element of the page, the same for the same figure."""
    description = printable(description)
    file = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": description}):
        warnings.simplefilter("ignore")  # of glyphs that matplotlib's font lacks and the reader's has
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r' id="(dot k\d)"', r' class="\1"', svg)
    svg = re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match[0]]})", svg)
    return Markup('<svg role="img" aria-label="{}"').format(description) + Markup(svg.removeprefix("<svg"))
