"""What a model is measured by: one report for any number of causal language models, ours or not.

    report = evaluate_models(["runs/quickstart", "openai-community/gpt2"], corpus="stories.jsonl")

Design decisions
- **Each figure has something beside it that shows what it can tell.** The real held-out stories, and the same stories
  with their words shuffled, go through the same functions as what a model tells. Figures that give shuffled words a
  full score are kept apart, under "legacy": they are those that the first model of this kind was judged by.
- **Grammar is measured on what the model wrote, and only there.** The prompt is not counted, and post-processing comes
  after; what it changes stands apart.
- **Equal lengths where length matters.** Distinct n-grams, repetition and copied runs depend on how much text there
  is. Each told story is held against a real one: from behind as many words as its prompt has, and as many words.
- **One model at a time**, on the same stories, pairs, prompts and seed, and freed before the next is loaded. What
  fails is named and left out; the report so far is handed to `save` after each model, so that nothing measured is
  lost.
- **The stories that a run held out** are what it is measured on where no corpus is named. Where some of the stories
  are training stories of the model, its notes say so.
"""

import dataclasses
import filecmp
import gc
import glob
import hashlib
import json
import logging
import math
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import __version__
from ..data.corpus import load_texts, recipe_corpus
from ..generation.batch import PROMPTS, GeneratedStory, generate_stories
from ..generation.postprocess import post_process
from ..generation.presets import PRESETS, check_preset, preset_of
from ..generation.prompts import encode_prompt
from ..recipe import Recipe, load_recipe
from ..runs.checkpoints import STATE
from ..runs.loading import load_model
from ..utils.errors import UserError, first_line
from .judge import Judge, JudgeReport, judge_stories
from .likelihood import bits_per_byte, model_context, score_stories
from .minimal_pairs import Pair, accuracy, make_pairs, score_pairs, write_pairs
from .text_statistics import (
    article_statistics,
    count_articles,
    flatten,
    lengths_and_endings,
    longest_copied_runs,
    ratio_interval,
    repetition,
    share_outside,
    slice_words,
    vocabulary,
    words,
)


logger = logging.getLogger(__name__)

FORMAT = 1  # of the report; raised when a name in it changes its meaning
PAIRS_PER_KIND = 500
STORY_TOKENS = 384  # a told story ends after so many at the latest: three quarters of our context
TRAINING_STORIES = 100_000  # the first so many (about 90 MB) are looked through for copies
QUICK = {"stories": 100, "pairs": 50, "prompts": 5}


def evaluate_models(
    paths: Sequence[str | Path],
    *,
    corpus: str | None = None,
    text_column: str = "text",
    split: str = "auto",
    skip_bad_rows: bool = False,
    train_corpus: str | None = None,
    limit: int | None = None,
    quick: bool = False,
    presets: Sequence[str] | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    dump_pairs: str | Path | None = None,
    progress: bool = True,
    command: str | None = None,
    save: Callable[[dict], None] | None = None,
) -> dict:
    """Measure models and return the report, plain data that `json` writes. The same arguments give the same figures
    on the same machine, `seconds` and `stories_per_second` excepted.

    Args:
        paths: run folders, `checkpoint-*` folders, folders of any causal model of transformers, ids on the Hub.
        corpus: held-out stories, as [`load_texts`] takes them: the validation split, or all of what has no splits.
            By default what the models' own recipes held out, or `sample` where no model has a recipe.
        text_column, split, skip_bad_rows: how `corpus` and `train_corpus` are read, as in a [`Recipe`].
        train_corpus: training stories, to find copies and words that are not in them; by default those that a run's
            recipe names, where they are on this machine.
        limit: no more than so many stories, pairs of each kind, and prompts.
        quick: a first look: 100 stories, 50 pairs of each kind, 5 prompts, the models' own preset
            unless `presets` names others.
        presets: sampling settings by name, the one of the headline figures first; by default each of `PRESETS`, the
            models' own first.
        judge: also has the stories graded; real ones first, so that a wrong key costs nothing else.
        dump_pairs: file (.tsv or .jsonl) to write the minimal pairs to, for people to read.
        progress: bars with the time that is left, and what fails as it fails, on stderr.
        command: the command line, for the report.
        save: called with the report so far after each model.

    Returns:
        `models`, the one of the fewest bits per byte first, `failed` with a `reason` each, and what they were measured
        on and with. Shares lie between 0 and 1; x_low and x_high are the ends of the 95 % interval of x.

    Raises:
        UserError: for an argument that no model can be measured with. What is wrong with a single model is not raised.
    """
    if not paths:
        raise UserError("Name at least one model: a run folder, a checkpoint folder or an id on the Hub.")
    paths = list(dict.fromkeys(os.path.normpath(path) if os.path.exists(path) else str(path) for path in paths))
    if not presets:
        own = _own_preset(paths)
        presets = [own] if quick else [own, *PRESETS]
    presets = list(dict.fromkeys(presets))
    for preset in presets:
        check_preset(preset)
    most = _amounts(limit, quick)
    _check_pairs_file(dump_pairs)

    reading = {"text_column": text_column, "text_split": split, "skip_bad_rows": skip_bad_rows}
    name, stories = held_out_stories(paths, corpus, most["stories"], **reading)
    training = _TrainingStories(train_corpus, reading)
    pairs = make_pairs(stories, per_kind=most["pairs"], seed=seed, progress=progress)
    if dump_pairs is not None:
        write_pairs(pairs, dump_pairs)
    measures = _Measures(stories, pairs, PROMPTS[: most["prompts"]], presets, seed, judge, progress)
    report = {
        "format": FORMAT,
        "tinystories_version": __version__,
        "versions": _versions(),
        "command": command,
        "seed": seed,
        "settings": {"presets": presets, "prompts": len(measures.prompts), "pairs_per_kind": most["pairs"]},
        "corpus": {
            "name": name,
            "fingerprint": _fingerprint(stories),
            "stories": len(stories),
            "bytes": sum(len(story.encode()) for story in stories),
        },
        "real_stories": _whole_story_figures(stories, seed),
        "shuffled_stories": _whole_story_figures(shuffled_words(stories, seed), seed),
        "models": [],
        "failed": [],
    }
    if judge is not None:
        count = (1 + len(paths) * len(presets)) * len(measures.prompts)
        print(f"judge        at most {count:,} stories in all", file=sys.stderr, flush=True)
        report["real_stories"]["judge"] = _grades(judge_stories(judge, _begun(measures), progress))
    for number, path in enumerate(paths, 1):
        if progress and len(paths) > 1:
            print(f"model {number} of {len(paths)}: {path}", file=sys.stderr, flush=True)
        try:
            measured, problem = _measure(path, measures, training)
            report["models"].append(measured)
        except UserError as error:
            problem = str(error)
        except Exception as error:  # of any model's code: the others are measured all the same
            logger.debug("%s", path, exc_info=True)
            problem = f"{type(error).__name__}: {first_line(error)}."
        if problem:
            report["failed"].append({"model": path, "reason": problem})
            if progress:
                print(f"{path} failed: {problem}", file=sys.stderr, flush=True)
        _free_memory()
        _name(report["models"])
        report["models"].sort(key=lambda model: model["bits_per_byte"]["value"])
        report = _plain(report)
        if save is not None:
            save(report)
    return report


class _Measures(NamedTuple):
    """What all models have in common."""

    stories: list[str]
    pairs: list[Pair]
    prompts: list[str]
    presets: list[str]
    seed: int
    judge: Judge | None
    progress: bool


def _amounts(limit: int | None, quick: bool) -> dict[str, int | None]:
    if limit is not None and limit < 1:
        raise UserError(f"The limit must be at least 1, but is {limit}.")
    bounds = QUICK if quick else {"stories": None, "pairs": PAIRS_PER_KIND, "prompts": len(PROMPTS)}
    return {name: _smaller(bounds[name], limit) for name in ("stories", "pairs", "prompts")}


# What is measured on


def held_out_stories(
    paths: Sequence[str], corpus: str | None = None, limit: int | None = None, **reading
) -> tuple[str, list[str]]:
    """Name and texts of the stories to measure on: the first `limit` of `corpus`, or of what the recipes of the models
    held out. `reading` says how `corpus` is read, as for [`load_texts`].

    Raises:
        UserError: where they cannot be loaded, or the recipes name different ones.
    """
    if corpus is not None:
        found = load_texts(corpus, "validation", max_stories=limit, **reading)
        return Path(corpus).name if Path(corpus).exists() else corpus, found["text"][:]
    sources: dict[tuple, tuple[str, Recipe]] = {}
    for path in paths:
        if recipe := run_recipe(path):
            key = (*_source(recipe), recipe.max_validation_stories)
            sources.setdefault(key, (path, recipe))
    if len(sources) > 1:
        named = " and ".join(f"{path} ({recipe.corpus})" for path, recipe in list(sources.values())[:2])
        raise UserError(f"{named} held out different stories; say with --corpus which ones to measure on.")
    path, recipe = next(iter(sources.values()), (None, Recipe()))
    most = _smaller(recipe.max_validation_stories, limit)
    try:
        found = recipe_corpus(dataclasses.replace(recipe, max_validation_stories=most))
    except UserError as error:
        raise UserError(
            f"The stories that {path} held out cannot be loaded: {str(error).rstrip('.')}. Name others with --corpus."
        ) from None
    return found.name, found.validation["text"][:]


def _source(recipe: Recipe) -> tuple:
    return recipe.corpus, recipe.validation_corpus, recipe.text_column, recipe.split, recipe.skip_bad_rows


def run_recipe(path: str | Path) -> Recipe | None:
    """The recipe of the run that a folder is, or is a checkpoint of; None where there is none.

    Raises:
        UserError: where it cannot be read.
    """
    folder = Path(path)
    for place in (folder, folder.parent) if _is_checkpoint(folder) else (folder,):
        if (place / "recipe.yaml").is_file():
            return load_recipe(place / "recipe.yaml")
    return None


class _TrainingStories:
    """Training stories of one model after the other; those of the last one are kept, for the next checkpoint."""

    def __init__(self, corpus: str | None, reading: dict):
        self.corpus = corpus
        self.texts: list[str] = []
        self._key = None
        if corpus is not None:
            self.texts = load_texts(corpus, max_stories=TRAINING_STORIES, **reading)["text"][:]

    def of(self, path: str) -> tuple[str, list[str]]:
        """Name and texts.

        Raises:
            UserError: where there are none on this machine.
        """
        if self.corpus is not None:
            return self.corpus, self.texts
        recipe = run_recipe(path)
        if recipe is None:
            raise UserError("it has no recipe.yaml that names its training stories")
        source = recipe.corpus
        if source != "sample" and not Path(source).expanduser().exists() and not glob.has_magic(source):
            raise UserError(f"its training stories ({source}) are not on this machine")
        key = (*_source(recipe), recipe.max_stories)
        if key != self._key:
            most = _smaller(recipe.max_stories, TRAINING_STORIES)
            found = recipe_corpus(dataclasses.replace(recipe, max_stories=most, streaming=False))
            self.texts, self._key = found.train["text"][:], key
        return source, self.texts


def shuffled_words(stories: Sequence[str], seed: int = 0) -> list[str]:
    """Word salad: each story with its words, and what hangs on them, in random order."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(pieces, len(pieces))) for pieces in map(str.split, stories)]


def real_stories_of_same_length(
    stories: Sequence[str], prompts: Sequence[str], completions: Sequence[str], seed: int = 0
) -> list[str] | None:
    """For each completion a part of another real story, chosen at random among those that are long enough: from behind
    as many words as the prompt has, and as many words. Where none is long enough the longest that is left stands in;
    None where there are fewer stories than completions."""
    if len(stories) < len(completions):
        return None
    lengths = [len(words(story)) for story in stories]
    skipped, wanted = ([len(words(text)) for text in texts] for texts in (prompts, completions))
    left = random.Random(seed).sample(range(len(stories)), len(stories))
    chosen = {}
    for place in sorted(range(len(wanted)), key=lambda place: -skipped[place] - wanted[place]):
        needed = skipped[place] + wanted[place]
        story = next((story for story in left if lengths[story] >= needed), None)
        story = max(left, key=lengths.__getitem__) if story is None else story
        left.remove(story)
        chosen[place] = slice_words(stories[story], skipped[place], needed)
    return [chosen[place] for place in range(len(wanted))]


# Figures of texts


def text_figures(
    texts: Sequence[str], *, finished: Sequence[bool] | None = None, seed: int = 0
) -> dict[str, float | int]:
    """Articles, repetition, lengths and endings of stories as they are, by the names of `text_statistics`.

    `countable_nouns` is how many places the share `article_omission` is of: with few of them an interval of no width
    means nothing. `finished` says of each text whether the model ended it itself.
    """
    return {
        "stories": len(texts),
        **flatten(lengths_and_endings(texts, finished)),
        **flatten(article_statistics(texts, seed=seed)),
        "countable_nouns": sum(count_articles(text).nouns for text in texts),
        **flatten(repetition(texts, seed=seed)),
        "capitals": capitals(texts),
    }


_SENTENCE_BEGINNING = re.compile(r"(?<![.…])[.!?]\s+[\"“‘'(]*([^\W\d_])")


def capitals(texts: Sequence[str]) -> float:
    """Share of sentences with a capital in front, of those that follow another in their text."""
    letters = [match[1] for text in texts for match in _SENTENCE_BEGINNING.finditer(text)]
    return sum(letter.isupper() for letter in letters) / len(letters) if letters else math.nan


def legacy_figures(texts: Sequence[str]) -> dict[str, float]:
    """What the first model of this kind was judged by, over whole stories with their prompts.

    `has_articles` is the share of stories with any article, `unique_words` the mean share of different words in a
    story, `grammar_of_10` what a grade of post-processed text sees: capitals and full stops, after `post_process` has
    put them there. Its first and its last give word salad full marks, and say nothing of a model.
    """
    counts = [count_articles(text) for text in texts]
    found = [words(text) for text in texts]
    mended = [post_process(text) for text in texts]
    marks = [capitals(mended), flatten(lengths_and_endings(mended))["final_punctuation"]]
    different = [len(set(each)) / len(each) for each in found if each]
    return {
        "has_articles": float(np.mean([count.articles > 0 for count in counts])),
        "articles_per_story": float(np.mean([count.articles for count in counts])),
        "mean_words": float(np.mean([len(each) for each in found])),
        "unique_words": float(np.mean(different)) if different else math.nan,
        "grammar_of_10": 10 * float(np.nanmean(marks)),
    }


def training_figures(
    texts: Sequence[str], copied: Sequence[Sequence[str]], known: frozenset[str], seed: int = 0
) -> dict[str, float | str]:
    """`outside_vocabulary`, the share of words that are not `known`, and of the runs that [`longest_copied_runs`]
    found the mean length in words, the longest, and its words."""
    lengths = np.array([len(run) for run in copied])
    return {
        **flatten({"outside_vocabulary": share_outside(texts, known, seed=seed)}),
        **flatten({"longest_copied_run": ratio_interval(lengths, np.ones(len(lengths)), seed=seed)}),
        "longest_copied_run_max": int(lengths.max(initial=0)),
        "longest_copied_words": " ".join(max(copied, key=len, default=[])),
    }


def _whole_story_figures(stories: Sequence[str], seed: int) -> dict:
    figures = text_figures(stories, seed=seed)
    # These fall with the amount of text, and nothing else in the report has as much.
    kept = {name: value for name, value in figures.items() if not name.startswith("distinct_")}
    return {**kept, "legacy": legacy_figures(stories)}


# One model


def _own_preset(paths: Sequence[str]) -> str:
    """The preset that the first of the models on this machine has in its `generation_config.json`, or "balanced"."""
    for path in paths:
        try:
            settings = json.loads((Path(path) / "generation_config.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict) and (preset := preset_of(settings)):
            return preset
    return "balanced"


def _measure(path: str, measures: _Measures, training: _TrainingStories) -> tuple[dict, str | None]:
    """The model's part of the report, and what a judge failed at."""
    started = time.perf_counter()
    model, tokenizer = load_model(path)
    run, step = run_and_step(path)
    scores = score_stories(model, tokenizer, measures.stories, progress=measures.progress)
    entry = {
        "model": path,
        "name": path,
        "run": run,
        "step": step,
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "vocab_size": model.config.get_text_config().vocab_size,
        "context": model_context(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "bits_per_byte": bits_per_byte(scores, seed=measures.seed)._asdict(),
        "nats_per_token": scores.nats_per_token,
        "perplexity": scores.perplexity,
        "bytes_per_token": scores.bytes_per_token,
        "notes": list(scores.notes),
    }
    results = score_pairs(model, tokenizer, measures.pairs, progress=measures.progress) if measures.pairs else []
    entry["minimal_pairs"] = accuracy(results)
    shares = [kind["accuracy"] for kind in entry["minimal_pairs"].values()]
    entry["minimal_pair_accuracy"] = float(np.mean(shares)) if shares else None

    told: dict[str, list[GeneratedStory]] = {}
    tokens = _story_tokens(model, tokenizer, measures.prompts)
    entry["generation"] = {}
    for preset in measures.presets:
        begun = time.perf_counter()
        told[preset] = generate_stories(
            model,
            tokenizer,
            measures.prompts,
            preset=preset,
            max_new_tokens=tokens,
            seed=measures.seed,
            progress=measures.progress,
        )
        speed = len(told[preset]) / (time.perf_counter() - begun)
        entry["generation"][preset] = {"max_new_tokens": tokens, "stories_per_second": speed}
    del model
    _free_memory()
    real = {}
    for preset, stories in told.items():
        entry["generation"][preset] |= _told_figures(stories, measures.seed)
        completions = [story.completion for story in stories]
        real[preset] = real_stories_of_same_length(measures.stories, measures.prompts, completions, measures.seed)
        entry["generation"][preset]["real_same_length"] = real[preset] and _length_figures(real[preset], measures.seed)
    try:
        entry["training_stories"] = _compare_with_training(entry, path, told, real, measures, training)
    except UserError as error:
        entry["training_stories"] = None
        reason = str(error).rstrip(".")
        entry["notes"].append(f"Copies and words outside the training stories are not measured: {reason}.")
    problem = None
    if measures.judge is not None:
        entry["judge"] = {"model": measures.judge.model, "presets": {}}
        try:
            for preset, stories in told.items():
                entry["judge"]["presets"][preset] = _grades(judge_stories(measures.judge, stories, measures.progress))
        except UserError as error:
            problem = str(error)
    entry["seconds"] = time.perf_counter() - started
    return entry, problem


def _story_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> int:
    """Tokens that a told story may have: as many for every model, unless its context has less room."""
    context = model_context(model)
    longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)
    return max(1, STORY_TOKENS if context is None else min(STORY_TOKENS, context - longest))


def _told_figures(stories: Sequence[GeneratedStory], seed: int) -> dict:
    whole, mended = [story.text for story in stories], [post_process(story.text) for story in stories]
    figures = text_figures(
        [story.completion for story in stories], finished=[story.ended for story in stories], seed=seed
    )
    changed = [before != after for before, after in zip(whole, mended, strict=True)]
    return {
        "raw": figures,
        # No grammar in here: it would be a grade for `post_process`.
        "post_processed": {
            "changed": float(np.mean(changed)),
            "capitals": capitals(mended),
            "final_punctuation": flatten(lengths_and_endings(mended))["final_punctuation"],
            "mean_words": float(np.mean([len(words(text)) for text in mended])),
        },
        "legacy": legacy_figures(whole),
        "samples": [{"prompt": story.prompt, "text": story.text, "ended": story.ended} for story in stories],
    }


def _length_figures(texts: Sequence[str], seed: int) -> dict:
    mean_words = flatten(lengths_and_endings(texts))["mean_words"]
    return {"stories": len(texts), "mean_words": mean_words, **flatten(repetition(texts, seed=seed))}


def _compare_with_training(
    entry: dict,
    path: str,
    told: dict[str, list[GeneratedStory]],
    real: dict[str, list[str] | None],
    measures: _Measures,
    training: _TrainingStories,
) -> dict:
    """Put the figures that need training stories into `entry`, and return what these were."""
    name, texts = training.of(path)
    groups = [
        (entry["generation"][preset][kind], found)
        for preset in told
        for kind, found in (
            ("raw", [story.completion for story in told[preset]]),
            ("real_same_length", real[preset]),
        )
        if found is not None
    ]
    # What the prompts say is not made up by the model.
    known = vocabulary([*texts, *measures.prompts])
    copied = iter(longest_copied_runs([text for _, group in groups for text in group], texts))
    for figures, group in groups:
        figures |= training_figures(group, list(islice(copied, len(group))), known, measures.seed)
    shared = len(set(texts).intersection(measures.stories))
    if shared:
        note = (
            f"{shared:,} of the {len(measures.stories):,} stories that it is measured on are training stories of it."
        )
        entry["notes"].append(note)
        logger.warning("%s: %s", path, note)
    return {"name": name, "stories": len(texts), "shared_with_held_out": shared}


def _begun(measures: _Measures) -> list[tuple[str, str]]:
    """Real stories as a judge is given told ones: a beginning of six words, and the rest."""
    begun = [(slice_words(story, 0, 6), story) for story in measures.stories[: len(measures.prompts)]]
    return [(begin, story[story.index(begin) + len(begin) :]) for begin, story in begun]


def _grades(graded: JudgeReport) -> dict:
    return {
        **flatten(graded.criteria),
        "graded": len(graded.grades) - graded.missing,
        "missing": graded.missing,
        "problems": graded.problems,
    }


# Runs and checkpoints


def _is_checkpoint(folder: Path) -> bool:
    return re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name) is not None


def is_run_folder(path: str | Path) -> bool:
    """Whether a training run wrote this folder; a checkpoint in one is none."""
    folder = Path(path)
    return not _is_checkpoint(folder) and any((folder / name).is_file() for name in ("recipe.yaml", STATE))


def run_and_step(path: str | Path) -> tuple[str | None, int | None]:
    """The run folder that a model belongs to and the optimizer steps behind its weights; None where nothing says so.

    What a run folder holds may be its best checkpoint and not its last; it is, where the weights are the same.
    """
    folder = Path(path)
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
    except (OSError, ValueError):
        state = {}
    step = state.get("global_step") if isinstance(state, dict) else None
    if _is_checkpoint(folder):
        return str(folder.parent), int(folder.name.rpartition("-")[2]) if step is None else step
    if step is None:
        return None, None
    best = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.get('best_global_step')}"
    weights = [file.name for file in folder.glob("*.safetensors")]
    same = filecmp.cmpfiles(folder, best, weights, shallow=False)[0] if best.is_dir() else []
    return str(folder), state["best_global_step"] if weights and same == weights else step


def _name(models: list[dict]) -> None:
    """Give each model the shortest name that tells it from the others."""
    for model in models:
        folder = Path(model["model"]).absolute()
        if folder.exists():
            run, step = folder.parent.name, folder.name.rpartition("-")[2]
            model["name"] = f"{run} step {step}" if _is_checkpoint(folder) else folder.name
    for model in models:
        if sum(other["name"] == model["name"] for other in models) > 1:
            model["name"] = model["model"]


# The report as data


def _check_pairs_file(path: str | Path | None) -> None:
    """Find out before any work whether `write_pairs` may write there."""
    if path is None:
        return
    path = Path(path)
    starts = {".tsv": "kind\tstory\t", ".jsonl": '{"kind": '}
    if path.suffix not in starts:
        raise UserError(f"{path} must end in .tsv or .jsonl.")
    if path.is_dir():
        raise UserError(f"{path} is a folder.")
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(starts[path.suffix]):
        raise UserError(f"{path} holds something other than minimal pairs; choose another file.")


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((count for count in (one, other) if count is not None), default=None)


def _fingerprint(stories: Sequence[str]) -> str:
    """Two reports with the same one were measured on the same stories."""
    return hashlib.sha256("\0".join(stories).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "tokenizers", "datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def _plain(value):
    """As JSON can hold it: six significant digits, and None for what is not a number."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
