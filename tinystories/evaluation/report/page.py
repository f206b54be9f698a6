"""The report as one self-contained HTML page: `templates/page.html` with plots."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import coherence
from ..grades import CRITERIA
from ..minimal_pairs import KINDS, ErrorKind
from .figures import (
    BASELINES,
    DASH,
    FIGURES,
    LEGACY,
    RATES,
    SHUFFLED_FIGURES,
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
from .names import GENERATOR, JSON
from .plots import COLOURS, Group, Mark, curve, domain_of, dot_plot
from .story_table import COLUMNS, GROUPS, story_columns


MAX_SAMPLES = 3  # per preset
MAX_ROWS = 16  # of a plot of generated stories; with more, it shows the first preset only
Value = tuple[float | None, float | None, float | None]  # with the ends of its interval


class _Measure(NamedTuple):
    """A figure to plot, and how to read it from the entry of a model."""

    title: str
    style: Format
    read: Callable[[dict], Value]
    domain: tuple[float, float] | None = None


def html_report(report: dict) -> str:
    """The content of `report.html`: well-formed markup that loads nothing and has no scripts."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    styles = (
        ("bits", bits),
        ("count", count),
        ("percent", percent),
        ("number", number),
        ("integer", "{:,}".format),
        ("correlation", "{:.2f}".format),
    )
    environment.filters |= {name: lambda value, style=style: or_dash(value, style) for name, style in styles}
    environment.filters["cell"] = _cell
    presets = report["settings"]["presets"]
    shown = presets if len(presets) * len(report["models"]) <= MAX_ROWS else presets[:1]
    runs = _runs(report)
    colours = _colours(report, runs)
    pairs = _accuracies(report, "minimal_pairs", KINDS, colours)
    probes = _accuracies(report, "coherence", coherence.KINDS, colours)
    cards = [_card(report, figure, shown, colours) for figure in FIGURES]
    view = {
        "report": report,
        "models": [
            model | {"colour": colours[model["model"]] if len(colours) > 1 else None} for model in report["models"]
        ],
        "runs": [(_run_name(run), colours[next(iter(steps.values()))["model"]]) for run, steps in runs.items()],
        "title": _title(report),
        "generator": GENERATOR,
        "colour_count": COLOURS,
        "preset": presets[0],
        "shown_presets": shown,
        "max_samples": MAX_SAMPLES,
        "baselines": BASELINES,
        "criteria": CRITERIA,
        "json_name": JSON,
        "pairs": pairs,
        "probes": probes,
        "distance_curves": _distance_curves(report, colours),
        "legacy": LEGACY,
        "titles": TITLES,
        "table_figures": TABLE_FIGURES,
        "story_baselines": [title for title, _ in COLUMNS],
        "story_groups": _story_groups(report),
        "bits_plot": _bits_plot(report, colours),
        "cards": [card for card in cards if card],
        "figure_tables": [(preset, _figure_rows(report, preset)) for preset in presets],
        "curves": [
            ("", _curves(_main_measures(presets[0]), runs, colours)),
            ("Minimal pairs by kind", _curves(pairs.measures, runs, colours)),
            ("Coherence by kind", _curves(probes.measures, runs, colours)),
        ],
    }
    return environment.get_template("page.html").render(view)


def _story_groups(report: dict) -> list[tuple[str, list[tuple[str, list]]]]:
    """The groups of the table of stories, each with its rows: a title and a cell for each column."""
    columns = story_columns(report)
    return [
        (group, [(row.title, [_cell(figures, row.key, row.style) for _, figures in columns]) for row in rows])
        for group, rows in GROUPS.items()
    ]


def _run_name(run: str) -> str:
    return Path(run).absolute().name


def _title(report: dict) -> str:
    models = report["models"]
    if len(models) == 1:
        return models[0]["name"]
    runs = {model["run"] for model in models}
    run = f"{_run_name(next(iter(runs)))}, " if len(runs) == 1 and None not in runs else ""
    return f"{run}{len(models)} models"


def _runs(report: dict) -> dict[str, dict[int, dict]]:
    """The models, by step, of each run of which several steps were evaluated."""
    runs: dict[str, dict[int, dict]] = {}
    for model in report["models"]:
        if model["step"] is not None:
            runs.setdefault(model["run"], {}).setdefault(model["step"], model)
    return {run: dict(sorted(models.items())) for run, models in runs.items() if len(models) > 1}


def _colours(report: dict, runs: dict[str, dict[int, dict]]) -> dict[str, int]:
    """A colour for each model; the checkpoints of a run share that of their curve."""
    owners = {model["model"]: model["run"] if model["run"] in runs else model["model"] for model in report["models"]}
    order = list(dict.fromkeys(owners.values()))
    return {model: order.index(owner) % COLOURS for model, owner in owners.items()}


def _cell(figures: dict | None, key: str, style: Format | None = None) -> str | Markup:
    """A figure as the content of a table cell, with its interval."""
    style = style or (percent if key in RATES else number)
    value, low, high = _value(figures or {}, key)
    if isinstance(value, str):
        return value
    if value is None or low is None or high is None or low == high:  # no width: an event that never occurred
        return or_dash(value, style)
    return Markup("{} <small>{} to {}</small>").format(style(value), style(low), style(high))


def _value(figures: dict, key: str) -> Value:
    return figures.get(key), figures.get(f"{key}_low"), figures.get(f"{key}_high")


# Measures


def _bits_per_byte(model: dict) -> Value:
    value = model["bits_per_byte"]
    return value["value"], value["low"], value["high"]


class _Accuracies(NamedTuple):
    """The accuracies of all kinds of minimal pairs or probes.

    Attributes:
        plots: title and plot of each kind.
        rows: name and description of each kind, and the number of its pairs.
    """

    measures: list[_Measure]
    plots: list[tuple[str, Markup]]
    rows: list[tuple[str, str, int]]


def _accuracies(
    report: dict, key: str, known: Mapping[str, ErrorKind | coherence.ProbeKind], colours: dict[str, int]
) -> _Accuracies:
    """The accuracies under `key` in the entry of each model."""
    found = [model[key] for model in report["models"]]
    pairs = {kind: rates["pairs"] for kinds in reversed(found) for kind, rates in kinds.items()}
    lows = [rates["low"] for kinds in found for rates in kinds.values()]
    kinds = [kind for kind in known if kind in pairs]
    domain = (min(0.4, math.floor(min(lows, default=1) * 10) / 10), 1.0)

    def measure(kind: str) -> _Measure:
        return _Measure(kind_name(kind), percent, lambda model: _interval(model[key].get(kind)), domain)

    measures = [measure(kind) for kind in kinds]
    plots = [
        (each.title, dot_plot(each.title, [Group("", _marks(report, each, colours), 0.5)], percent, domain))
        for each in measures
    ]
    return _Accuracies(measures, plots, [(kind_name(kind), known[kind].description, pairs[kind]) for kind in kinds])


def _interval(rates: dict | None) -> Value:
    return (rates["accuracy"], rates["low"], rates["high"]) if rates else (None, None, None)


def _distance_curves(report: dict, colours: dict[str, int]) -> list[tuple[str, Markup]]:
    """For each kind of probe, a curve of each model over the distance from the previous mention."""
    curves = []
    for kind in coherence.KINDS_BY_DISTANCE:
        measures = [_distance_measure(kind, name) for name in coherence.DISTANCE_RANGES]
        series = []
        for model in report["models"]:
            marks = [_mark(model, model["name"], measure, colours) for measure in measures]
            series.append({place: mark for place, mark in enumerate(marks) if mark})
        if any(series):
            title = f"{kind_name(kind)}, by distance"
            known = [marks for marks in series if marks]
            curves.append((title, curve(title, known, percent, (0.4, 1.0), coherence.DISTANCE_RANGES)))
    return curves


def _distance_measure(kind: str, distances: str) -> _Measure:
    return _Measure(
        kind, percent, lambda model: _interval(model["coherence_by_distance"].get(kind, {}).get(distances))
    )


def _generated_measure(figure: Figure, preset: str) -> _Measure:
    return _Measure(figure.title, figure.style, lambda model: _value(model["generation"][preset]["raw"], figure.key))


def _main_measures(preset: str) -> list[_Measure]:
    return [
        _Measure("Bits per byte", bits, _bits_per_byte),
        _Measure("Minimal pairs, mean", percent, lambda model: (model["minimal_pair_accuracy"], None, None)),
        _Measure("Coherence, mean", percent, lambda model: (model["coherence_accuracy"], None, None)),
        *(_generated_measure(figure, preset) for figure in FIGURES if figure.key in TABLE_FIGURES),
    ]


# Plots


def _mark(model: dict, name: str, measure: _Measure, colours: dict[str, int]) -> Mark | None:
    value, low, high = measure.read(model)
    return None if value is None else Mark(name, value, low, high, colours[model["model"]])


def _marks(report: dict, measure: _Measure, colours: dict[str, int]) -> list[Mark]:
    marks = [_mark(model, model["name"], measure, colours) for model in report["models"]]
    return [mark for mark in marks if mark]


def _bits_plot(report: dict, colours: dict[str, int]) -> Markup:
    groups = [Group("", _marks(report, _Measure("Bits per byte", bits, _bits_per_byte), colours))]
    return dot_plot("Bits per byte", groups, bits, domain_of(groups, zero=len(report["models"]) == 1))


def _curves(
    measures: Sequence[_Measure], runs: dict[str, dict[int, dict]], colours: dict[str, int]
) -> list[tuple[str, Markup]]:
    """A curve over training for each measure that a run has."""
    curves = []
    for measure in measures:
        series = []
        for run, models in runs.items():
            marks = {step: _mark(model, _run_name(run), measure, colours) for step, model in models.items()}
            series.append({step: mark for step, mark in marks.items() if mark})
        if any(series):
            plot = curve(measure.title, [marks for marks in series if marks], measure.style, measure.domain)
            curves.append((measure.title, plot))
    return curves


def _card(report: dict, figure: Figure, presets: Sequence[str], colours: dict[str, int]) -> dict | None:
    """A figure of generated stories with its plot; None if no model has it."""
    groups = []
    for preset in presets:
        real = [_real(report, figure, model["generation"][preset]) for model in report["models"]]
        known = [value for value in real if value is not None]
        marks = _marks(report, _generated_measure(figure, preset), colours)
        groups.append(Group(preset, marks, sum(known) / len(known) if known else None))
    if not any(group.marks for group in groups):
        return None
    references = sorted(group.reference for group in groups if group.reference is not None)
    ends = dict.fromkeys(figure.style(value) for value in (*references[:1], *references[-1:]))
    shuffled = report["shuffled_stories"].get(figure.key) if figure.key in SHUFFLED_FIGURES else None
    return {
        "figure": figure,
        "real": " to ".join(ends),
        "shuffled": None if shuffled is None else figure.style(shuffled),
        "plot": dot_plot(figure.title, groups, figure.style),
    }


def _real(report: dict, figure: Figure, generated: dict) -> float | None:
    if figure.real is None:
        return None
    real = report["real_stories"] if figure.real == "whole" else generated["real_same_length"]
    return (real or {}).get(figure.key)


def _figure_rows(report: dict, preset: str) -> list[tuple[str, list]]:
    """All figures of one preset: a name, and a cell for each model, for real stories and for shuffled words."""
    generated = [model["generation"][preset] for model in report["models"]]
    keys = dict.fromkeys(key for each in generated for key in each["raw"] if not key.endswith(("_low", "_high")))
    real = [generated[0]["real_same_length"], *(report[name] for _, name in BASELINES)]
    rows = [
        (_title_of(key), [_cell(figures, key) for figures in (*(each["raw"] for each in generated), *real)])
        for key in keys
        if key != "stories"
    ]
    for key in generated[0]["post_processed"]:
        cells = [_cell(each["post_processed"], key) for each in generated]
        rows.append((f"{_title_of(key)}, post-processed", [*cells, *[DASH] * len(real)]))
    speeds = [number(each["stories_per_second"]) for each in generated]
    return [*rows, ("Stories per second", [*speeds, *[DASH] * len(real)])]


def _title_of(key: str) -> str:
    return TITLES.get(key) or key.replace("_", " ").capitalize()
