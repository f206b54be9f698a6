"""Load stories from a dataset on the Hub, from local files, or from the built-in sample, one story per row.

    corpus = load_corpus("roneneldan/TinyStories")     # on the Hub: owner/name[:config][@revision]
    corpus = load_corpus("stories.txt")                # a file, a folder or a glob
    corpus = load_corpus("sample")                     # generated
    stories = load_texts("stories.txt", "validation")  # one split, nothing held out

- Rows have the column `text`, trimmed and never empty, and with a template `prompt`, the text in front of the story.
  They are cached as Arrow by `datasets` under keys of each file's path, size and modification time, or of the
  dataset's commit, and of the options.
- Splits are those of the source. Without a validation split, "test" is used; without either, `validation_fraction` of
  the distinct stories is held out, chosen by hashes of the texts and the seed and not by their place in the corpus.
- A training story that is also a validation story is dropped. Then `max_stories` and `max_validation_stories` keep the
  first stories of each.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher

from ..recipe import Recipe
from ..utils.console import counted
from ..utils.errors import UserError
from .held_out import hold_out, story_keys, without_keys
from .instructions import Instructions, require_fields, with_prompts
from .readers import ReadOptions
from .sources.hub import hub_errors
from .sources.open import open_source
from .sources.source import VERSION, SourceOptions
from .story_dataset import story_features
from .text_split import AUTO


logger = logging.getLogger(__name__)

STREAM_VALIDATION_STORIES = 1_000  # held out of a stream, whose length is unknown


@dataclass
class Corpus:
    """Training and validation stories, none in common, each with the column "text", and with a template the column
    "prompt", the text in front of the story.

    Attributes:
        train: an `IterableDataset` when streaming.
        name: for reports.
        fingerprint: a hash of the stories, for cache keys; of a stream, of the validation stories and the settings.
    """

    train: Dataset | IterableDataset
    validation: Dataset
    name: str
    fingerprint: str


def load_corpus(
    source: str,
    *,
    validation: str | None = None,
    text_column: str = "text",
    max_stories: int | None = None,
    max_validation_stories: int | None = None,
    validation_fraction: float | None = None,
    seed: int = 0,
    num_proc: int | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
    text_split: str = AUTO,
    skip_bad_rows: bool = False,
    instructions: Instructions | None = None,
) -> Corpus:
    """Load `source` as training and validation stories.

    Args:
        validation: another source for validation: its own validation split if it has one, otherwise all of it.
        text_column, text_split, skip_bad_rows: as of [`ReadOptions`].
        validation_fraction: of the distinct stories that are held out; by default 2%, but at least 50 stories or 10%,
            whichever is less.
        seed: chooses the stories that are held out, and those of `sample`.
        streaming: read a Hub dataset during training instead of downloading it first; its validation split, or its
            first stories, are stored. For other sources, `train` is an `IterableDataset`, and nothing else changes.
        instructions: the template of the text in front of each story.

    Raises:
        UserError: if the source cannot be found or read, lacks a column, or has too few stories.
    """
    if validation_fraction is not None and not 0 < validation_fraction < 1:
        raise UserError(f"`validation_fraction` must be between 0 and 1, but is {validation_fraction}.")
    _require_positive(max_stories=max_stories, max_validation_stories=max_validation_stories)
    fields = () if instructions is None else instructions.fields
    read = ReadOptions(text_column, text_split, skip_bad_rows, fields)
    options = SourceOptions(read, seed, streaming, num_proc, cache_dir)
    found = open_source(source, options)
    train, held_out = found.read("train"), None
    if validation is not None:
        held_out = open_source(validation, replace(options, streaming=False)).read_validation()
    elif found.splits.keys() & {"validation", "test"}:
        held_out = found.read("validation")
    if isinstance(train, IterableDataset):
        settings = [VERSION, found.revision, source, validation, options.read, max_stories]
        corpus = _stream(train, held_out, found.name, settings, max_stories, max_validation_stories, cache_dir)
        return corpus if instructions is None else _instructed(corpus, instructions, seed)

    keys = story_keys(train)
    origin = "from a separate split" if validation is None else f"from {validation}"
    if held_out is None:
        origin = "held out from the training stories"
        rows = hold_out(keys, validation_fraction, seed, found.name)
        held_out, held_out_keys = train.select(rows), keys[rows]
    else:
        held_out_keys = story_keys(held_out)
        if shared := int(np.isin(keys, held_out_keys).sum()):
            number = counted(shared, "training story")
            logger.warning("%s: removed %s contained in the validation split", found.name, number)
    keep = np.flatnonzero(~np.isin(keys, held_out_keys))
    if not len(keep):
        raise UserError(
            f"Every training story of {found.name} is also a validation story, so none is left to train on: use other "
            f"validation stories."
        )
    if len(keep) < len(train):  # otherwise no `select`: a contiguous memory map reads faster than selected rows
        train, keys = train.select(keep), keys[keep]
    train, held_out = _first(train, max_stories), _first(held_out, max_validation_stories)
    numbers = f"{counted(len(train), 'training story')}, {counted(len(held_out), 'validation story')}"
    logger.info("%s: %s %s", found.name, numbers, origin)
    kept_keys = keys[:max_stories], held_out_keys[:max_validation_stories]
    fingerprint = Hasher.hash([VERSION, *(part.tobytes() for part in kept_keys)])
    corpus = Corpus(train, held_out, found.name, fingerprint)
    if instructions is not None:
        require_fields(train, fields, found.name)
        corpus = _instructed(corpus, instructions, seed)
    return replace(corpus, train=corpus.train.to_iterable_dataset()) if streaming else corpus


def _instructed(corpus: Corpus, instructions: Instructions, seed: int) -> Corpus:
    """The corpus with prompts instead of fields; lines are left out only of training stories."""
    train = with_prompts(corpus.train, instructions, seed=seed)
    held_out = with_prompts(corpus.validation, instructions, seed=seed, keep_lines=True)
    prompts = [story_keys(part, "prompt").tobytes() for part in (train, held_out) if isinstance(part, Dataset)]
    fingerprint = Hasher.hash([corpus.fingerprint, instructions, seed, *prompts])
    return Corpus(train, held_out, corpus.name, fingerprint)


def recipe_corpus(recipe: Recipe) -> Corpus:
    """The corpus of a recipe."""
    return load_corpus(
        recipe.corpus,
        validation=recipe.validation_corpus,
        text_column=recipe.text_column,
        text_split=recipe.split,
        skip_bad_rows=recipe.skip_bad_rows,
        max_stories=recipe.max_stories,
        max_validation_stories=recipe.max_validation_stories,
        validation_fraction=recipe.validation_fraction,
        num_proc=recipe.num_proc,
        streaming=recipe.streaming,
        instructions=None if recipe.template is None else Instructions(recipe.template, recipe.template_dropout),
    )


def training_stories(recipe: Recipe) -> tuple[Dataset, bool]:
    """The training stories of a recipe's corpus before any are held out, and whether it has validation stories."""
    read = ReadOptions(recipe.text_column, recipe.split, recipe.skip_bad_rows)
    found = open_source(recipe.corpus, SourceOptions(read, 0, False, recipe.num_proc, None))
    has_validation = recipe.validation_corpus is not None or bool(found.splits.keys() & {"validation", "test"})
    return _first(found.read("train"), recipe.max_stories), has_validation


def load_texts(
    source: str,
    split: str = "train",
    *,
    text_column: str = "text",
    max_stories: int | None = None,
    seed: int = 0,
    num_proc: int | None = None,
    cache_dir: str | None = None,
    text_split: str = AUTO,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Load one split of `source`, nothing held out: "train", or "validation", which is all of a source without splits.

    Raises:
        UserError: as `load_corpus`.
    """
    _require_positive(max_stories=max_stories)
    options = SourceOptions(ReadOptions(text_column, text_split, skip_bad_rows), seed, False, num_proc, cache_dir)
    found = open_source(source, options)
    return _first(found.read_validation() if split == "validation" else found.read(split), max_stories)


def _require_positive(**counts: int | None) -> None:
    for option, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"`{option}` must be at least 1, but is {count}.")


def _first(stories: Dataset, count: int | None) -> Dataset:
    return stories if count is None or count >= len(stories) else stories.select(range(count))


def _stream(
    train: IterableDataset,
    held_out: Dataset | IterableDataset | None,
    name: str,
    settings: list,
    max_stories: int | None,
    max_validation_stories: int | None,
    cache_dir: str | None,
) -> Corpus:
    features = story_features(settings[4])
    if not isinstance(held_out, Dataset):
        count = max_validation_stories or (STREAM_VALIDATION_STORIES if held_out is None else None)
        rows = train if held_out is None else held_out
        rows = rows if count is None else rows.take(count)
        key = Hasher.hash([settings[:-1], count])
        with hub_errors(name):
            held_out = Dataset.from_generator(rows.__iter__, features=features, fingerprint=key, cache_dir=cache_dir)
    keys = story_keys(held_out)
    train = train.with_format("arrow").map(without_keys, batched=True, features=features, fn_kwargs={"keys": keys})
    train = train.with_format(None)
    with hub_errors(name):
        first = next(iter(train), None)
    if first is None:
        raise UserError(
            f"{name} has no stories besides the {len(held_out):,} validation stories: load it without streaming."
        )
    train = train if max_stories is None else train.take(max_stories)
    fingerprint = Hasher.hash([settings, keys[:max_validation_stories].tobytes()])
    return Corpus(train, _first(held_out, max_validation_stories), name, fingerprint)
