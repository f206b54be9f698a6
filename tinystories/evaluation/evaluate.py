"""One report on any number of causal language models, from this package or elsewhere.

    report = evaluate(["runs/quickstart", "openai-community/gpt2"], corpus="stories.jsonl")

- Held-out stories, and the same with their words shuffled, are measured like generated ones. Figures on which shuffled
  words get the maximum are separate, under "legacy".
- Grammar is measured on completions only: without the prompt, before post-processing.
- Figures that depend on the amount of text are compared with real stories of the same length.
- Models are loaded one at a time and evaluated on the same stories, pairs, prompts and seed. A model that fails is
  listed with the reason. `save` receives the report after each model, so that no result is lost.
"""

import hashlib
import json
import logging
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..generation.batch import PROMPTS
from ..generation.presets import PRESETS, check_preset, preset_of
from ..runs.run_folder import is_checkpoint, require_run
from ..utils.console import counted
from ..utils.errors import UserError, first_line
from . import coherence
from .agreement import rank_correlations
from .evaluate_model import EvaluationTask, evaluate_model, free_memory, grades_entry
from .judge import Judge, judge_stories
from .minimal_pairs import check_pairs_file, make_pairs, write_pairs
from .stories import (
    TrainingStories,
    held_out_stories,
    shuffled_sentences,
    shuffled_words,
    smaller,
)
from .story_figures import whole_story_figures
from .text_statistics import slice_words


logger = logging.getLogger(__name__)

FORMAT = 2  # of the report; to be increased when a key changes its meaning
# Stories, pairs and probes of each kind, prompts, stories without a prompt
QUICK = (100, 50, 5, 20)
FULL = (None, 500, len(PROMPTS), 100)


def evaluate(
    paths: str | Path | Sequence[str | Path],
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
    """Evaluate models and return the report as plain data for `json`.

    The same arguments give the same figures on the same machine, except `seconds` and `stories_per_second`.

    Args:
        paths: one or more run folders, `checkpoint-*` folders, folders of any causal model of transformers, ids on
            the Hub, or `builtin`.
        corpus: held-out stories, in any form that [`load_texts`] reads: the validation split, or all if there are no
            splits. By default the validation split of the models' recipes, or `sample` if no model has a recipe.
        text_column: column with the stories of `corpus` and `train_corpus`.
        split: how their .txt and .md files are split into stories, as in a recipe.
        skip_bad_rows: skip unreadable rows instead of raising an error.
        train_corpus: training stories, to find copies and made-up words; by default those of each run's recipe, if
            they are on this machine.
        limit: maximum number of stories, of pairs and probes of each kind, and of prompts.
        quick: 100 stories, 50 pairs and probes of each kind, 5 prompts, and the models' own preset unless `presets` is
            given.
        presets: names of sampling presets, that of the headline figures first; by default all of `PRESETS`, the
            models' own first.
        seed: of the minimal pairs, the coherence probes, the shuffled words, sampling and the intervals.
        judge: also grades the stories, real ones first, so that a wrong key is found before any other work.
        dump_pairs: .tsv or .jsonl file to write the minimal pairs and the coherence probes to.
        progress: show progress bars and failures on stderr.
        command: the command line, for the report.
        save: called after each model, with the report up to that model.

    Returns:
        `models`, lowest bits per byte first, `failed` with a `reason` each, and what they were evaluated on. Rates lie
        between 0 and 1; x_low and x_high are the ends of the 95% interval of x.

    Raises:
        UserError: for invalid arguments; errors of single models are in `failed`.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if not paths:
        raise UserError("Specify at least one model: a run folder, a checkpoint folder or an id on the Hub.")
    if limit is not None and limit < 1:
        raise UserError(f"`limit` must be at least 1, but is {limit}.")
    models = list(dict.fromkeys(os.path.normpath(path) if os.path.exists(path) else str(path) for path in paths))
    _require_any(models)
    if not presets:
        own = _own_preset(models)
        presets = [own] if quick else [own, *PRESETS]
    presets = list(dict.fromkeys(presets))
    for preset in presets:
        check_preset(preset)
    story_limit, pairs_per_kind, prompt_limit, unprompted = (
        smaller(most, limit) for most in (QUICK if quick else FULL)
    )
    if dump_pairs is not None:
        check_pairs_file(dump_pairs)

    reading = {"text_column": text_column, "text_split": split, "skip_bad_rows": skip_bad_rows}
    name, stories = held_out_stories(models, corpus, story_limit, **reading)
    training = TrainingStories(train_corpus, reading)
    pairs = make_pairs(stories, per_kind=pairs_per_kind or 0, seed=seed, progress=progress)
    probes = coherence.make_probes(stories, per_kind=pairs_per_kind or 0, seed=seed, progress=progress)
    if dump_pairs is not None:
        write_pairs([*pairs, *probes], dump_pairs)
    # As many as real stories at most: diversity depends on their number.
    unprompted = min(unprompted or 0, len(stories))
    task = EvaluationTask(stories, pairs, probes, PROMPTS[:prompt_limit], unprompted, presets, seed, judge, progress)
    report: dict[str, Any] = {
        "format": FORMAT,
        "tinystories_version": __version__,
        "versions": _versions(),
        "command": command,
        "seed": seed,
        "settings": {
            "presets": presets,
            "prompts": len(task.prompts),
            "unprompted": task.unprompted,
            "pairs_per_kind": pairs_per_kind,
        },
        "corpus": {
            "name": name,
            "fingerprint": hashlib.sha256("\0".join(stories).encode()).hexdigest()[:16],
            "stories": len(stories),
            "bytes": sum(len(story.encode()) for story in stories),
        },
        "real_stories": whole_story_figures(stories, seed, task.unprompted),
        "shuffled_sentences": whole_story_figures(shuffled_sentences(stories, seed), seed, task.unprompted),
        "shuffled_stories": whole_story_figures(shuffled_words(stories, seed), seed, task.unprompted),
        "models": [],
        "failed": [],
        "rank_correlations": None,
    }
    if judge is not None:
        count = (1 + len(models) * len(presets)) * len(task.prompts)
        print(f"judge        at most {counted(count, 'story')} in total", file=sys.stderr, flush=True)
        report["real_stories"]["judge"] = grades_entry(judge_stories(judge, _real_completions(task), progress))
    for number, path in enumerate(models, 1):
        if progress and len(models) > 1:
            print(f"model {number} of {len(models)}: {path}", file=sys.stderr, flush=True)
        try:
            entry, problem = evaluate_model(path, task, training)
            report["models"].append(entry)
        except UserError as error:
            problem = str(error)
        except Exception as error:  # in any model's code: the other models are still evaluated
            logger.debug("%s", path, exc_info=True)
            problem = f"{type(error).__name__}: {first_line(error)}."
        if problem:
            report["failed"].append({"model": path, "reason": problem})
            if progress:
                print(f"{path} failed: {problem}", file=sys.stderr, flush=True)
            free_memory()
        _set_names(report["models"])
        report["models"].sort(key=lambda model: model["bits_per_byte"]["value"])
        report["rank_correlations"] = rank_correlations(report)
        report = _json_values(report)
        if save is not None:
            save(report)
    return report


def _require_any(models: Sequence[str]) -> None:
    """Raise the error of the first model if none of the models can exist, before stories are read."""
    errors = []
    for path in models:
        try:
            return require_run(path)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _own_preset(paths: Sequence[str]) -> str:
    """The preset in the `generation_config.json` of the first model that is on this machine, or "balanced"."""
    for path in paths:
        try:
            settings = json.loads((Path(path) / "generation_config.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict) and (preset := preset_of(settings)):
            return preset
    return "balanced"


def _real_completions(task: EvaluationTask) -> list[tuple[str, str]]:
    """Real stories as pairs of a prompt (the first six words) and a completion, for the judge."""
    prompted = [(slice_words(story, 0, 6), story) for story in task.stories[: len(task.prompts)]]
    return [(prompt, story[story.index(prompt) + len(prompt) :]) for prompt, story in prompted]


def _set_names(models: list[dict]) -> None:
    """Give each model a short name, or its path if the short name is not unique."""
    for model in models:
        folder = Path(model["model"]).absolute()
        if folder.exists():
            run, step = folder.parent.name, folder.name.rpartition("-")[2]
            model["name"] = f"{run} step {step}" if is_checkpoint(folder) else folder.name
    for model in models:
        if sum(other["name"] == model["name"] for other in models) > 1:
            model["name"] = model["model"]


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "tokenizers", "datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def _json_values(value: Any) -> Any:
    """Values for JSON: floats with six significant digits, None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _json_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_values(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
