"""The text in front of each story, by the template of a recipe: the column `prompt` of a corpus.

Which lines are left out (`dropout`) depends only on the seed and the story, so that a resumed run leaves out the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value

from ..story_template import StoryTemplate
from ..utils.errors import UserError


Stories = TypeVar("Stories", Dataset, IterableDataset)
FEATURES = Features({"text": Value("string"), "prompt": Value("string")})
VERSION = 1  # in the key of the cache


@dataclass(frozen=True)
class Instructions:
    """The settings of a recipe for the text in front of stories.

    Attributes:
        template: text of a [`StoryTemplate`].
        dropout: probability with which a line is left out for a training story.
    """

    template: str
    dropout: float = 0.0

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(StoryTemplate(self.template).fields)


def require_fields(stories: Dataset, fields: Iterable[str], name: str) -> None:
    """Raise a UserError if a field is empty in every story of the corpus `name`."""
    arrow = stories.with_format("arrow")
    for field in fields:
        batches = arrow.select_columns(field).iter(10_000)
        if not any(pc.any(pc.not_equal(batch[field], "")).as_py() for batch in batches):
            raise UserError(
                f"The column {field} of {name}, a field of the template, is missing or empty in every story: remove "
                f"the field, or fill the column (`tinystories annotate` derives words, summary and features)."
            )


def with_prompts(stories: Stories, instructions: Instructions, *, seed: int, keep_lines: bool = False) -> Stories:
    """The stories with the column `prompt`, which may be empty, instead of the fields.

    Args:
        stories: with a column for each field of the template.
        keep_lines: leave out no lines.
    """
    dropout = 0.0 if keep_lines else instructions.dropout
    arguments: dict[str, Any] = {
        "batched": True,
        "features": FEATURES,
        "remove_columns": list(instructions.fields),
        "fn_kwargs": {"text": instructions.template, "dropout": dropout, "seed": seed, "version": VERSION},
    }
    arrow = stories.with_format("arrow")
    if isinstance(stories, Dataset):
        return arrow.map(_add_prompts, desc="Filling in the template", **arguments).with_format(None)
    return arrow.map(_add_prompts, **arguments).with_format(None)


def _add_prompts(table: pa.Table, text: str, dropout: float, seed: int, version: int) -> pa.Table:
    template = StoryTemplate(text)
    prompts = []
    for row in table.to_pylist():
        without: list[int] = []
        if dropout:
            random = Random(blake2b(f"{seed} {row['text']}".encode()).digest())
            without = [number for number in range(len(template.lines)) if random.random() < dropout]
            without = [number for number in without if template.lines[number].fields]
        prompts.append(template.render(row, without=without))
    return pa.table({"text": table["text"].cast(pa.string()), "prompt": pa.array(prompts, pa.string())})
