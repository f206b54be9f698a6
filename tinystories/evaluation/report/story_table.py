"""The table "Does it write stories": each model beside real stories and real stories with their sentences shuffled."""

from collections.abc import Sequence
from typing import NamedTuple

from .figures import Format, number, percent


class Row(NamedTuple):
    """A figure of stories that a model began by itself; `short` is its title in the terminal."""

    key: str
    title: str
    short: str
    style: Format = percent


# The accuracies are figures of the model, the others are those of its stories.
GROUPS: dict[str, Sequence[Row]] = {
    "Grammar": (
        Row("minimal_pair_accuracy", "Minimal pairs, mean accuracy", "pairs"),
        Row("article_omission", "Omitted articles", "omitted"),
        Row("wrong_a_or_an", "Wrong “a” or “an”", "a/an"),
    ),
    "Coherence": (
        Row("coherence_accuracy", "Coherence probes, mean accuracy", "probes"),
        Row("unintroduced_names", "Stories with a name never introduced", "names"),
        Row("gender_changes", "Stories with a pronoun of the wrong gender", "gender"),
        Row("unintroduced_objects", "Stories with “the” before a thing never introduced", "things"),
        Row("repeated_sentences", "Stories with a repeated sentence", "repeated"),
        Row("missing_endings", "Stories without an ending", "no end"),
        Row("faulty_stories", "Stories with any of these faults", "any"),
    ),
    "Diversity": (
        Row("distinct_openings", "Different first sentences", "openings"),
        Row("distinct_names", "Different first names", "main names"),
        Row("shared_4grams", "4-grams shared with another story of the sample", "shared"),
        Row("lily_openings", "Stories that begin with “… a little girl named Lily”", "Lily"),
    ),
    "Memorisation": (
        Row("longest_copied_run", "Longest copy from a training story, in words", "copy", number),
        Row("outside_vocabulary", "Words that no training story has", "unknown"),
    ),
}
_ACCURACIES = ("minimal_pair_accuracy", "coherence_accuracy")
COLUMNS = (("real stories", "real_stories"), ("sentences shuffled", "shuffled_sentences"))


def story_columns(report: dict) -> list[tuple[str, dict]]:
    """Title and figures of each column: the models, real stories, and real stories with shuffled sentences."""
    columns = [
        (model["name"], {key: model[key] for key in _ACCURACIES} | (model["unprompted"] or {}))
        for model in report["models"]
    ]
    # Copies and unknown words depend on the training stories, here those of the first model that has any.
    lengths = (model["unprompted"] or {} for model in report["models"])
    trained: dict = next((each["real_same_length"] for each in lengths if each.get("real_same_length")), {})
    real, shuffled = ((title, report[key]) for title, key in COLUMNS)
    return [*columns, (real[0], {**real[1], **trained}), shuffled]
