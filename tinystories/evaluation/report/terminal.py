"""The report as a table for the terminal."""

from ...utils.console import counted
from ..coherence import DISTANCE_RANGES, KINDS_BY_DISTANCE
from .figures import BASELINES, TABLE_FIGURES, bits, count, kind_name, or_dash, percent
from .story_table import COLUMNS, GROUPS, story_columns


def terminal_table(report: dict) -> str:
    """A summary of the report, models sorted by bits per byte."""
    corpus, preset = report["corpus"], report["settings"]["presets"][0]
    stories = f"{corpus['stories']:,} held-out stories of {corpus['name']}, {corpus['bytes']:,} bytes"
    blocks = [f"{stories}, seed {report['seed']}"]
    head = [
        "",
        "parameters",
        "bits per byte",
        "nats/token",
        "pairs",
        "coherence",
        "omitted",
        "a/an",
        "repeated",
        "EOS",
    ]
    rows = []
    for model in report["models"]:
        generated = model["generation"][preset]["raw"]
        value = model["bits_per_byte"]
        rows.append(
            [
                model["name"],
                count(model["parameters"]),
                f"{bits(value['value'])} ({bits(value['low'])}-{bits(value['high'])})",
                bits(model["nats_per_token"]),
                or_dash(model["minimal_pair_accuracy"], percent),
                or_dash(model["coherence_accuracy"], percent),
                *(or_dash(generated.get(key), percent) for key in TABLE_FIGURES),
            ]
        )
    for name, key in BASELINES:
        texts = report[key]
        rows.append([name, *[""] * 5, *(or_dash(texts.get(key), percent) for key in TABLE_FIGURES[:3]), ""])
    blocks.append(_columns([head, *rows]))
    blocks.append(
        "pairs, coherence: accuracy on minimal pairs and on coherence probes, means over kinds (chance: 50%).\n"
        f'omitted, a/an, repeated, EOS: rates of omitted articles, wrong "a" or "an", repeated 4-grams and EOS in '
        f"stories generated with the preset {preset}."
    )
    blocks += _story_table(report)
    blocks += _accuracies(report, "minimal pairs", "minimal_pairs")
    blocks += _accuracies(report, "coherence", "coherence")
    blocks += _distances(report)
    notes = [f"{model['name']}: {note}" for model in report["models"] for note in model["notes"]]
    notes += [f"{failed['model']} failed: {failed['reason']}" for failed in report["failed"]]
    return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])])


def _accuracies(report: dict, title: str, key: str) -> list[str]:
    """A table of the accuracy of each kind."""
    kinds = list(dict.fromkeys(kind for model in report["models"] for kind in model[key]))
    rows = [
        [model["name"], *(or_dash(model[key].get(kind, {}).get("accuracy"), percent) for kind in kinds)]
        for model in report["models"]
    ]
    return [_columns([[title, *map(kind_name, kinds)], *rows])] if kinds else []


def _distances(report: dict) -> list[str]:
    """A table of the accuracy of names and objects by the distance from their previous mention."""
    rows = [
        [f"{model['name']}, {kind}"]
        + [or_dash(ranges.get(name, {}).get("accuracy"), percent) for name in DISTANCE_RANGES]
        for model in report["models"]
        for kind, ranges in model["coherence_by_distance"].items()
        if kind in KINDS_BY_DISTANCE
    ]
    return [_columns([["words since the previous mention", *DISTANCE_RANGES], *rows])] if rows else []


def _story_table(report: dict) -> list[str]:
    """The table "Does it write stories?", without the models that wrote none."""
    columns = [(name, figures) for name, figures in story_columns(report) if "faulty_stories" in figures]
    if len(columns) == len(COLUMNS):
        return []
    rows = [row for group in GROUPS.values() for row in group]
    lines = [["does it write stories?", *(row.short for row in rows)]]
    lines += [[name, *(or_dash(figures.get(row.key), row.style) for row in rows)] for name, figures in columns]
    written, preset = report["settings"]["unprompted"], report["settings"]["presets"][0]
    return [
        _columns(lines),
        f"{counted(written, 'story')} of each model without a prompt, preset {preset}.\n"
        "names, gender, things, repeated, no end, any: rates of stories with such a fault. openings, main names,\n"
        "shared, Lily: how different the stories are. copy: words of the longest sequence that a training story has.",
    ]


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
