"""The report as one self-contained page."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..minimal_pairs import KINDS
from .figures import (
    FIGURES,
    LEGACY,
    TABLE_FIGURES,
    YARDSTICKS,
    Figure,
    bits,
    count,
    escaped,
    kind_name,
    number,
    or_dash,
    share,
)
from .plots import Group, Mark, curve, domain_of, dot_plot
from .style import COLOURS, STYLE


GENERATOR = "tinystories evaluate"
JSON, HTML = "report.json", "report.html"
SHOWN_SAMPLES = 3  # told stories of each preset
MOST_LINES = 16  # of a plot of told stories; where there would be more, it shows the first preset only


def html_report(report: dict) -> str:
    """`report.html`: one page of well-formed markup that loads nothing."""
    models = report["models"]
    runs = {model["run"] for model in models}
    title = models[0]["name"] if len(models) == 1 else f"{len(models)} models"
    if len(models) > 1 and len(runs) == 1 and None not in runs:
        title = f"{Path(runs.pop()).absolute().name}, {title}"
    sections = [
        _summary_section(report),
        _bits_section(report),
        _pairs_section(report),
        _told_section(report),
        _judge_section(report),
        _curves_section(report),
        _samples_section(report),
        _legacy_section(report),
        _notes_section(report),
        _method_section(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'{meta_generator()}<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta name="color-scheme" content="light dark"/><title>{escaped(title)}: tinystories evaluate</title>'
        f"<style>{STYLE}</style></head><body><main>{_header(report, title)}"
        f"{''.join(sections)}</main></body></html>\n"
    )


def meta_generator() -> str:
    return f'<meta name="generator" content="{GENERATOR}"/>'


def _header(report: dict, title: str) -> str:
    corpus = report["corpus"]
    return (
        f"<header><p class='eyebrow'>Evaluation</p><h1>{escaped(title)}</h1><p>Measured on {corpus['stories']:,} "
        f"held-out stories of <strong>{escaped(corpus['name'])}</strong> ({count(corpus['bytes'])} bytes), with seed "
        f"{report['seed']}. Intervals hold 95 %, over the choice of stories, pairs or prompts; they say nothing of "
        f"another training run.</p></header>"
    )


def _section(heading: str, lead: str, body: str) -> str:
    return f"<section><h2>{heading}</h2><p>{lead}</p>{body}</section>" if body else ""


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """`head` and `rows` are markup; a row is its class and its cells, of which the first names it."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for kind, (first, *rest) in rows
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _interval(figures: dict, key: str, style: Callable[[float], str]) -> str:
    """A figure as a cell of a table."""
    value, low, high = figures.get(key), figures.get(f"{key}_low"), figures.get(f"{key}_high")
    if value is None or low is None or low == high:
        # A bootstrap of what never happened has no width, which says nothing.
        return or_dash(value, style)
    return f"{style(value)} <small>{style(low)} to {style(high)}</small>"


def _swatch(report: dict, model: dict) -> str:
    if len(report["models"]) == 1:
        return escaped(model["name"])
    dot = f'<span class="swatch b{_colour(report, model)}"></span>'
    return f'<span class="name">{dot}<span>{escaped(model["name"])}</span></span>'


def _colour(report: dict, model: dict) -> int:
    """One for each model, but the checkpoints of a run share theirs, as their curve does."""
    runs = _runs(report)
    owners = [each["run"] if each["run"] in runs else each["model"] for each in report["models"]]
    return list(dict.fromkeys(owners)).index(model["run"] if model["run"] in runs else model["model"]) % COLOURS


def _runs(report: dict) -> dict[str, dict[int, dict]]:
    """The models of each run that has several steps, by step."""
    runs: dict[str, dict[int, dict]] = {}
    for model in report["models"]:
        if model["step"] is not None:
            runs.setdefault(model["run"], {}).setdefault(model["step"], model)
    return {run: dict(sorted(models.items())) for run, models in runs.items() if len(models) > 1}


def _mark(report: dict, model: dict, figures: dict, key: str) -> list[Mark]:
    if figures.get(key) is None:
        return []
    ends = figures.get(f"{key}_low"), figures.get(f"{key}_high")
    return [Mark(model["name"], figures[key], *ends, _colour(report, model))]


def _summary_section(report: dict) -> str:
    preset = report["settings"]["presets"][0]
    titles = {figure.key: figure.title for figure in FIGURES}
    head = ["Model", "Bits per byte", "Minimal pairs", *(titles[key] for key in TABLE_FIGURES)]
    rows = []
    for model in report["models"]:
        value, told = model["bits_per_byte"], model["generation"][preset]["raw"]
        cells = [
            _swatch(report, model),
            f"<strong>{bits(value['value'])}</strong> <small>{bits(value['low'])} to {bits(value['high'])}</small>",
            or_dash(model["minimal_pair_accuracy"], share),
            *(or_dash(told.get(key), share) for key in TABLE_FIGURES),
            count(model["parameters"]),
            bits(model["nats_per_token"]),
            number(model["perplexity"]),
            f"{model['bytes_per_token']:.2f}",
        ]
        rows.append(("", cells))
    for name, key in YARDSTICKS:
        given = [or_dash(report[key].get(each), share) for each in TABLE_FIGURES]
        chance = "50\N{NO-BREAK SPACE}%" if key == "shuffled_stories" else "–"
        rows.append(("yardstick", [name, "–", chance, *given, *["–"] * 4]))
    lead = (
        f"Fewest bits per byte first: the one figure that compares models of different tokenizers. Minimal pairs are "
        f"the mean over their kinds. The four columns behind it are of stories told as <em>{escaped(preset)}</em>, "
        f"before any post-processing."
    )
    return _section(
        "At a glance", lead, _table([*head, "Parameters", "Nats per token", "Perplexity", "Bytes per token"], rows)
    )


def _bits_section(report: dict) -> str:
    marks = [
        Mark(model["name"], *(model["bits_per_byte"][key] for key in ("value", "low", "high")), _colour(report, model))
        for model in report["models"]
    ]
    groups = [Group(mark.name, [mark]) for mark in marks]
    lead = "What the held-out stories cost, all their bytes counted once: fewer is better."
    if len(marks) > 1:
        lead += (
            " All models were scored on the same stories, so that a difference between two of them is surer than "
            "their intervals make it look. The scale does not begin at zero."
        )
    return _section("Bits per byte", lead, dot_plot(groups, bits, domain=domain_of(groups, zero=len(marks) == 1)))


def _pairs_section(report: dict) -> str:
    groups, rows = [], []
    for kind, rule in KINDS.items():
        found = [(model, model["minimal_pairs"][kind]) for model in report["models"] if kind in model["minimal_pairs"]]
        marks = [Mark(m["name"], v["accuracy"], v["low"], v["high"], _colour(report, m)) for m, v in found]
        groups.append(Group(kind_name(kind), marks, 0.5))
        if found:
            rows.append(("", [kind_name(kind), escaped(rule.description), f"{found[0][1]['pairs']:,}"]))
    if not rows:
        return ""
    lead = (
        "A sentence of a real story against the same sentence with one fault: how often the model finds the real one "
        "likelier. A model without grammar wins half of them (the upright line), and to be shorter is no advantage."
    )
    table = _table(["Kind", "Fault", "Pairs"], rows)
    body = dot_plot(groups, share, domain=_pairs_domain(report), reference="chance")
    return _section("Minimal pairs", lead, f"{body}<details><summary>The kinds</summary>{table}</details>")


def _pairs_domain(report: dict) -> tuple[float, float]:
    lows = [kind["low"] for model in report["models"] for kind in model["minimal_pairs"].values()]
    return min(0.4, math.floor(min(lows, default=1) * 10) / 10), 1.0


def _shown_presets(report: dict) -> list[str]:
    presets = report["settings"]["presets"]
    return presets if len(presets) * len(report["models"]) <= MOST_LINES else presets[:1]


def _told_section(report: dict) -> str:
    presets, shown = report["settings"]["presets"], _shown_presets(report)
    cards = [card for figure in FIGURES if (card := _figure_card(report, figure, shown))]
    tables = "".join(_preset_table(report, preset) for preset in presets)
    lead = (
        f"{report['settings']['prompts']} beginnings, each continued once with each preset. Figures are of what the "
        "model wrote, as it wrote it. The upright line is what real stories have; where the figure depends on the "
        "amount of text, these were cut to the length of the told ones."
    )
    if shown != presets:
        lead += f" Shown is <em>{escaped(shown[0])}</em>; the other presets are among all figures."
    body = f'<div class="cards">{"".join(cards)}</div><details><summary>All figures</summary>{tables}</details>'
    return _section("Generated stories", lead, body)


def _real(report: dict, figure: Figure, told: dict) -> float | None:
    if figure.real is None:
        return None
    return ((told["real_same_length"] or {}) if figure.real == "same_length" else report["real_stories"]).get(
        figure.key
    )


def _figure_card(report: dict, figure: Figure, presets: Sequence[str]) -> str:
    groups = []
    for preset in presets:
        marks, reals = [], []
        for model in report["models"]:
            told = model["generation"][preset]
            marks += _mark(report, model, told["raw"], figure.key)
            reals.append(_real(report, figure, told))
        reals = [real for real in reals if real is not None]
        groups.append(Group(preset, marks, sum(reals) / len(reals) if reals else None))
    if not any(group.marks for group in groups):
        return ""
    references = sorted(group.reference for group in groups if group.reference is not None)
    key = ""
    if references:
        ends = list(dict.fromkeys(map(figure.style, (references[0], references[-1]))))
        key = f"<p class='key'><span class='line'></span>real stories {' to '.join(ends)}"
        shuffled = report["shuffled_stories"].get(figure.key)
        if figure.key in ("article_omission", "wrong_a_or_an") and shuffled is not None:
            key += f"; words shuffled {figure.style(shuffled)}"
        key += "</p>"
    plot = dot_plot(groups, figure.style)
    return f'<article class="card"><h3>{figure.title}</h3><p>{figure.text}</p>{key}{plot}</article>'


def _preset_table(report: dict, preset: str) -> str:
    told = [(model, model["generation"][preset]) for model in report["models"]]
    keys = list(dict.fromkeys(key for _, each in told for key in each["raw"] if not key.endswith(("_low", "_high"))))
    keys.remove("stories")

    def cells(figures: dict | None, key: str) -> str:
        style = share if key in _SHARES else number
        value = (figures or {}).get(key)
        return escaped(value) if isinstance(value, str) else _interval(figures or {}, key, style)

    head = [*(_swatch(report, model) for model, _ in told), "real, same length", "real, whole", "words shuffled"]
    rows = []
    for key in keys:
        real = [cells(told[0][1]["real_same_length"], key), *(cells(report[name], key) for _, name in YARDSTICKS)]
        kind = "prose" if key == "longest_copied_words" else ""
        rows.append((kind, [key.replace("_", " "), *(cells(each["raw"], key) for _, each in told), *real]))
    for key in told[0][1]["post_processed"]:
        mended = [cells(each["post_processed"], key) for _, each in told]
        rows.append(("", [f"post-processed: {key.replace('_', ' ')}", *mended, *["–"] * 3]))
    speed = [number(each["stories_per_second"]) for _, each in told]
    rows.append(("", ["stories per second", *speed, *["–"] * 3]))
    if len(told) > 1:
        head[-3] += f" <small>as {escaped(told[0][0]['name'])}</small>"
    return f"<h3>{escaped(preset)}</h3>{_table(['', *head], rows)}"


_SHARES = {
    "final_punctuation", "finished", "stories_with_article", "article_omission", "wrong_a_or_an", "distinct_1",
    "distinct_2", "distinct_3", "repeated_4grams", "capitals", "outside_vocabulary", "changed",
}  # fmt: skip


def _judge_section(report: dict) -> str:
    judged = [model for model in report["models"] if model.get("judge", {}).get("presets")]
    if not judged:
        return ""
    criteria = ("grammar", "creativity", "consistency")
    rows = []
    for model in judged:
        for preset, grades in model["judge"]["presets"].items():
            cells = [_interval(grades, key, number) for key in criteria]
            name = f"{_swatch(report, model)} <small>{escaped(preset)}</small>"
            rows.append(("", [name, *cells, f"{grades['graded']:,}"]))
    if real := report["real_stories"].get("judge"):
        cells = [_interval(real, key, number) for key in criteria]
        rows.append(("yardstick", ["real stories", *cells, f"{real['graded']:,}"]))
    lead = (
        f"Grades from 1 to 10 by {escaped(judged[0]['judge']['model'])}, of the told part of each story; real stories "
        f"were given to it in the same way, from their seventh word on."
    )
    return _section("A judge's grades", lead, _table(["", *criteria, "graded"], rows))


def _curves_section(report: dict) -> str:
    runs = _runs(report)
    if not runs:
        return ""
    names = {run: Path(run).absolute().name for run in runs}
    colours = {run: _colour(report, next(iter(models.values()))) for run, models in runs.items()}
    preset = report["settings"]["presets"][0]

    def plot(title: str, style: Callable[[float], str], read: Callable[[dict], tuple], domain=None) -> str:
        series = []
        for run, models in runs.items():
            points = {step: read(model) for step, model in models.items()}
            marks = {
                step: Mark(names[run], *ends, colours[run]) for step, ends in points.items() if ends[0] is not None
            }
            series += [marks] if marks else []
        return curve(title, series, style, domain) if series else ""

    def told(key: str) -> Callable[[dict], tuple]:
        return lambda model: tuple(
            model["generation"][preset]["raw"].get(name) for name in (key, f"{key}_low", f"{key}_high")
        )

    def pairs(kind: str) -> Callable[[dict], tuple]:
        return lambda model: tuple(
            model["minimal_pairs"].get(kind, {}).get(name) for name in ("accuracy", "low", "high")
        )

    figures = [figure for figure in FIGURES if figure.key in TABLE_FIGURES]
    plots = [
        plot("Bits per byte", bits, lambda model: tuple(model["bits_per_byte"].values())),
        plot("Minimal pairs, mean", share, lambda model: (model["minimal_pair_accuracy"], None, None)),
        *(plot(figure.title, figure.style, told(figure.key)) for figure in figures),
    ]
    kinds = [plot(kind_name(kind), share, pairs(kind), _pairs_domain(report)) for kind in KINDS]
    swatches = "".join(
        f'<span class="name"><span class="swatch b{colours[run]}"></span>{escaped(names[run])}</span> ' for run in runs
    )
    lead = f"Each point is a checkpoint, the scale below is optimizer steps. Generated as <em>{escaped(preset)}</em>."
    body = f'<p class="key">{swatches}</p><div class="curves">{"".join(plots)}</div>'
    if any(kinds):
        body += f'<h3>Minimal pairs by kind</h3><div class="curves small">{"".join(kinds)}</div>'
    return _section("Over training", lead, body)


def _samples_section(report: dict) -> str:
    blocks = []
    for model in report["models"]:
        presets = []
        for preset, told in model["generation"].items():
            cards = "".join(_sample(sample) for sample in told["samples"][:SHOWN_SAMPLES])
            presets.append(f'<h3>{escaped(preset)}</h3><div class="samples">{cards}</div>')
        opened = ' open="open"' if not blocks else ""
        blocks.append(f"<details{opened}><summary>{_swatch(report, model)}</summary>{''.join(presets)}</details>")
    lead = (
        f"Of the first prompts of the list, so that no taste has chosen them, just as the model wrote them. All "
        f"{report['settings']['prompts']} are in {JSON}."
    )
    return _section("Stories", lead, "".join(blocks))


def _sample(sample: dict) -> str:
    prompt, text = sample["prompt"], sample["text"]
    end = "" if sample["ended"] else ' <span class="cut">cut off here</span>'
    return f"<blockquote><p><b>{escaped(prompt)}</b>{escaped(text[len(prompt) :])}{end}</p></blockquote>"


def _legacy_section(report: dict) -> str:
    rows = [
        ("yardstick", [name, *(or_dash(report[key]["legacy"][each], style) for each, _, style in LEGACY), "–"])
        for name, key in YARDSTICKS
    ]
    for model in report["models"]:
        for preset in _shown_presets(report):
            cells = [or_dash(model["generation"][preset]["legacy"][each], style) for each, _, style in LEGACY]
            name = f"{_swatch(report, model)} <small>{escaped(preset)}</small>"
            rows.append(("", [name, *cells, number(model["perplexity"])]))
    lead = (
        "What the first model of this kind was judged by, for those who want to compare. Look at the second row: "
        "stories whose words were shuffled have articles and good “grammar”, since that is a count of capitals and "
        "full stops made after post-processing has put them there. These two cannot fail. Perplexity compares models "
        "of one tokenizer only."
    )
    table = _table(["", *(title for _, title, _ in LEGACY), "perplexity"], rows)
    return _section("Columns that cannot fail", lead, table)


def _notes_section(report: dict) -> str:
    notes = [(model["name"], note) for model in report["models"] for note in model["notes"]]
    notes += [(failed["model"], f"Not measured, or not wholly: {failed['reason']}") for failed in report["failed"]]
    items = "".join(f"<li><strong>{escaped(name)}</strong> {escaped(note)}</li>" for name, note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""


def _method_section(report: dict) -> str:
    rows = []
    for model in report["models"]:
        limits = {told["max_new_tokens"] for told in model["generation"].values()}
        training = model["training_stories"]
        cells = [
            _swatch(report, model),
            f"<code>{escaped(model['model'])}</code>",
            escaped(model["architecture"]),
            or_dash(model["step"], lambda step: f"{step:,}"),
            f"{model['vocab_size']:,}",
            or_dash(model["context"], lambda context: f"{context:,}"),
            ", ".join(map(str, sorted(limits))),
            f"{model['dtype']}, {model['device']}",
            f"{training['stories']:,} of {escaped(training['name'])}" if training else "–",
        ]
        rows.append(("", cells))
    head = ["Model", "From", "Class", "Step", "Vocabulary", "Context", "Most new tokens", "Computed in"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    command = f"<p><code>{escaped(report['command'])}</code></p>" if report["command"] else ""
    lead = (
        f"tinystories {escaped(report['tinystories_version'])} with {escaped(versions)}. Stories measured on: "
        f"fingerprint "
        f"<code>{report['corpus']['fingerprint']}</code>; only reports with the same one can be compared."
    )
    return _section("How it was measured", lead, command + _table([*head, "Training stories compared with"], rows))
