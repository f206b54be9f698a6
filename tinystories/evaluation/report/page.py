"""The report as one self-contained page: `templates/page.html` with plots."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..grades import CRITERIA
from ..minimal_pairs import KINDS
from .figures import (
    BASELINES,
    DASH,
    FIGURES,
    LEGACY,
    RATES,
    TABLE_FIGURES,
    TITLES,
    Figure,
    Format,
    bits,
    count,
    kind_name,
    number,
    or_dash,
    percent,
    printable,
)
from .files import GENERATOR, JSON
from .plots import COLOURS, Group, Mark, curve, domain_of, dot_plot


SHOWN_SAMPLES = 3  # per preset
MAX_ROWS = 16  # of a plot of generated stories; with more, it shows the first preset only


def html_report(report: dict) -> str:
    """`report.html`: one page of well-formed markup that loads nothing and holds no script."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    styles = (("bits", bits), ("count", count), ("percent", percent), ("number", number))
    environment.filters |= {name: lambda value, style=style: or_dash(value, style) for name, style in styles}
    environment.filters |= {"cell": _cell, "integer": lambda n: or_dash(n, "{:,}".format)}
    presets = report["settings"]["presets"]
    shown = presets if len(presets) * len(report["models"]) <= MAX_ROWS else presets[:1]
    colours, runs = _colours(report), _runs(report)
    models = [model | {"colour": colours[model["model"]] if len(colours) > 1 else None} for model in report["models"]]
    minimal_pairs = [model["minimal_pairs"] for model in models]
    view = {
        "report": report,
        "models": models,
        "runs": [(Path(run).absolute().name, next(iter(steps.values()))) for run, steps in runs.items()],
        "title": _title(report),
        "generator": GENERATOR,
        "colours": colours,
        "colour_count": COLOURS,
        "preset": presets[0],
        "shown_presets": shown,
        "shown_samples": SHOWN_SAMPLES,
        "baselines": BASELINES,
        "criteria": CRITERIA,
        "json_name": JSON,
        "kinds": [
            (kind_name(kind), rule.description, next(pairs[kind]["pairs"] for pairs in minimal_pairs if kind in pairs))
            for kind, rule in KINDS.items()
            if any(kind in pairs for pairs in minimal_pairs)
        ],
        "legacy": LEGACY,
        "titles": TITLES,
        "table_figures": TABLE_FIGURES,
        "bits_plot": _bits_plot(report, colours),
        "pair_plots": _pair_plots(report, colours),
        "cards": [card for figure in FIGURES if (card := _card(report, figure, shown, colours))],
        "figure_tables": [(preset, _figure_rows(report, preset)) for preset in presets],
        "curves": _curves(report, runs, colours),
    }
    return environment.get_template("page.html").render(view)


def _title(report: dict) -> str:
    models = report["models"]
    if len(models) == 1:
        return models[0]["name"]
    runs = {model["run"] for model in models}
    run = f"{Path(next(iter(runs))).absolute().name}, " if len(runs) == 1 and None not in runs else ""
    return f"{run}{len(models)} models"


def _runs(report: dict) -> dict[str, dict[int, dict]]:
    """The models, by step, of each run of which several steps were evaluated."""
    runs: dict[str, dict[int, dict]] = {}
    for model in report["models"]:
        if model["step"] is not None:
            runs.setdefault(model["run"], {}).setdefault(model["step"], model)
    return {run: dict(sorted(models.items())) for run, models in runs.items() if len(models) > 1}


def _colours(report: dict) -> dict[str, int]:
    """A colour for each model; the checkpoints of a run share that of their curve."""
    runs = _runs(report)
    owners = [model["run"] if model["run"] in runs else model["model"] for model in report["models"]]
    order = list(dict.fromkeys(owners))
    return {
        model["model"]: order.index(owner) % COLOURS for model, owner in zip(report["models"], owners, strict=True)
    }


def _cell(figures: dict | None, key: str, style: Format | None = None) -> str | Markup:
    """A figure as the content of a table cell, with its interval."""
    figures = figures or {}
    style = style or (percent if key in RATES else number)
    value, low, high = figures.get(key), figures.get(f"{key}_low"), figures.get(f"{key}_high")
    if isinstance(value, str):
        return value
    if low is None or low == high:  # a bootstrap of events that never occurred has no width
        return or_dash(value, style)
    return Markup("{} <small>{} to {}</small>").format(style(value), style(low), style(high))


def _mark(model: dict, figures: dict, key: str, colours: dict[str, int]) -> list[Mark]:
    if figures.get(key) is None:
        return []
    ends = figures.get(f"{key}_low"), figures.get(f"{key}_high")
    return [Mark(model["name"], figures[key], *ends, colours[model["model"]])]


def _bits_plot(report: dict, colours: dict[str, int]) -> Markup:
    marks = [
        Mark(
            model["name"], *(model["bits_per_byte"][end] for end in ("value", "low", "high")), colours[model["model"]]
        )
        for model in report["models"]
    ]
    groups = [Group("", marks)]
    return dot_plot("Bits per byte", groups, bits, domain_of(groups, zero=len(marks) == 1))


def _pair_plots(report: dict, colours: dict[str, int]) -> list[tuple[str, Markup]]:
    plots = []
    for kind in KINDS:
        found = [(model, model["minimal_pairs"][kind]) for model in report["models"] if kind in model["minimal_pairs"]]
        marks = [Mark(m["name"], v["accuracy"], v["low"], v["high"], colours[m["model"]]) for m, v in found]
        if marks:
            plot = dot_plot(kind_name(kind), [Group("", marks, 0.5)], percent, _accuracy_domain(report))
            plots.append((kind_name(kind), plot))
    return plots


def _accuracy_domain(report: dict) -> tuple[float, float]:
    lows = [kind["low"] for model in report["models"] for kind in model["minimal_pairs"].values()]
    return min(0.4, math.floor(min(lows, default=1) * 10) / 10), 1.0


def _real(report: dict, figure: Figure, generated: dict) -> float | None:
    if figure.real is None:
        return None
    real = report["real_stories"] if figure.real == "whole" else generated["real_same_length"]
    return (real or {}).get(figure.key)


def _card(report: dict, figure: Figure, presets: Sequence[str], colours: dict[str, int]) -> dict | None:
    """A figure of generated stories with its plot; None if no model has it."""
    groups = []
    for preset in presets:
        marks, reals = [], []
        for model in report["models"]:
            generated = model["generation"][preset]
            marks += _mark(model, generated["raw"], figure.key, colours)
            reals.append(_real(report, figure, generated))
        reals = [real for real in reals if real is not None]
        groups.append(Group(preset, marks, sum(reals) / len(reals) if reals else None))
    if not any(group.marks for group in groups):
        return None
    references = sorted(group.reference for group in groups if group.reference is not None)
    ends = list(dict.fromkeys(map(figure.style, (references[0], references[-1])))) if references else []
    shuffled = (
        report["shuffled_stories"].get(figure.key) if figure.key in ("article_omission", "wrong_a_or_an") else None
    )
    return {
        "figure": figure,
        "real": " to ".join(ends),
        "shuffled": None if shuffled is None else figure.style(shuffled),
        "plot": dot_plot(figure.title, groups, figure.style),
    }


def _figure_rows(report: dict, preset: str) -> list[tuple[str, list]]:
    """All figures of one preset: a name, and a cell for each model, for real stories and for shuffled words."""
    generated = [model["generation"][preset] for model in report["models"]]
    keys = dict.fromkeys(key for each in generated for key in each["raw"] if not key.endswith(("_low", "_high")))
    real = [generated[0]["real_same_length"], *(report[name] for _, name in BASELINES)]
    rows = [
        (key.replace("_", " "), [_cell(figures, key) for figures in (*(each["raw"] for each in generated), *real)])
        for key in keys
        if key != "stories"
    ]
    for key in generated[0]["post_processed"]:
        cells = [_cell(each["post_processed"], key) for each in generated]
        rows.append((f"post-processed: {key.replace('_', ' ')}", [*cells, *[DASH] * 3]))
    speeds = [number(each["stories_per_second"]) for each in generated]
    return [*rows, ("stories per second", [*speeds, *[DASH] * 3])]


def _curves(report: dict, runs: dict[str, dict[int, dict]], colours: dict[str, int]) -> list[list[tuple[str, Markup]]]:
    """Two groups of curves over training: the main figures, and the kinds of minimal pairs."""
    preset = report["settings"]["presets"][0]

    def plot(title: str, style: Format, read: Callable[[dict], tuple], domain=None) -> list[tuple[str, Markup]]:
        series = []
        for run, models in runs.items():
            values = {step: read(model) for step, model in models.items()}
            name = Path(run).absolute().name
            marks = {
                step: Mark(name, *ends, colours[models[step]["model"]])
                for step, ends in values.items()
                if ends[0] is not None
            }
            series += [marks] if marks else []
        return [(title, curve(title, series, style, domain))] if series else []

    def generated(key: str) -> Callable[[dict], tuple]:
        names = (key, f"{key}_low", f"{key}_high")
        return lambda model: tuple(model["generation"][preset]["raw"].get(name) for name in names)

    def accuracy(kind: str) -> Callable[[dict], tuple]:
        names = ("accuracy", "low", "high")
        return lambda model: tuple(model["minimal_pairs"].get(kind, {}).get(name) for name in names)

    main = [
        *plot("Bits per byte", bits, lambda model: tuple(model["bits_per_byte"].values())),
        *plot("Minimal pairs, mean", percent, lambda model: (model["minimal_pair_accuracy"], None, None)),
    ]
    for figure in FIGURES:
        if figure.key in TABLE_FIGURES:
            main += plot(figure.title, figure.style, generated(figure.key))
    kinds = [
        each for kind in KINDS for each in plot(kind_name(kind), percent, accuracy(kind), _accuracy_domain(report))
    ]
    return [main, kinds]
