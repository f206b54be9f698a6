"""The figures of one model for the report of [`evaluate`]."""

import gc
import logging
import time
from itertools import islice
from typing import Any, NamedTuple

import torch

from ..generation.batch import GeneratedStory, generate_stories
from ..generation.generate import context_length
from ..runs.loading import load_model
from ..runs.run_folder import run_and_step
from ..utils.errors import UserError
from . import coherence
from .coherence import Probe
from .intervals import flatten
from .judge import Judge, JudgeReport, judge_stories
from .likelihood import bits_per_byte, score_stories
from .minimal_pairs import Pair, accuracy, mean_accuracy, score_pairs
from .samples import most_new_tokens, unprompted_stories
from .stories import TrainingStories, real_stories_of_same_length
from .story_figures import generated_figures, length_figures, training_figures, unprompted_figures
from .text_statistics import longest_copied_runs, vocabulary


logger = logging.getLogger(__name__)


class EvaluationTask(NamedTuple):
    """What all models are evaluated on."""

    stories: list[str]
    pairs: list[Pair]
    probes: list[Probe]
    prompts: list[str]
    unprompted: int
    presets: list[str]
    seed: int
    judge: Judge | None
    progress: bool


def evaluate_model(path: str, task: EvaluationTask, training: TrainingStories) -> tuple[dict, str | None]:
    """The model's entry in the report, and the error of the judge, if any."""
    started = time.perf_counter()
    model, tokenizer = load_model(path)
    run, step = run_and_step(path)
    scores = score_stories(model, tokenizer, task.stories, progress=task.progress)
    kinds = accuracy(score_pairs(model, tokenizer, task.pairs, progress=task.progress)) if task.pairs else {}
    probes = coherence.score_probes(model, tokenizer, task.probes, progress=task.progress)
    coherent = coherence.accuracy(probes)
    entry: dict[str, Any] = {
        "model": path,
        "name": path,
        "run": run,
        "step": step,
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "vocab_size": model.config.get_text_config().vocab_size,
        "context": context_length(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "bits_per_byte": bits_per_byte(scores, seed=task.seed)._asdict(),
        "nats_per_token": scores.nats_per_token,
        "perplexity": scores.perplexity,
        "bytes_per_token": scores.bytes_per_token,
        "notes": list(scores.notes),
        "minimal_pairs": kinds,
        "minimal_pair_accuracy": mean_accuracy(kinds),
        "coherence": coherent,
        "coherence_accuracy": mean_accuracy(coherent),
        "coherence_by_distance": coherence.accuracy_by_distance(probes),
        "generation": {},
    }
    max_new_tokens = most_new_tokens(model, tokenizer, task.prompts)
    generated: dict[str, list[GeneratedStory]] = {}
    for preset in task.presets:
        begun = time.perf_counter()
        generated[preset] = generate_stories(
            model,
            tokenizer,
            task.prompts,
            preset=preset,
            max_new_tokens=max_new_tokens,
            seed=task.seed,
            progress=task.progress,
        )
        speed = len(generated[preset]) / (time.perf_counter() - begun)
        entry["generation"][preset] = {"max_new_tokens": max_new_tokens, "stories_per_second": speed}
    try:
        unprompted = unprompted_stories(
            model, tokenizer, task.unprompted, preset=task.presets[0], seed=task.seed, progress=task.progress
        )
    except UserError as error:  # the tokenizer has no BOS token
        unprompted = []
        entry["notes"].append(f"No stories without a prompt: {str(error).rstrip('.')}.")
    del model
    free_memory()
    real: dict[str, list[str] | None] = {}
    for preset, stories in generated.items():
        completions = [story.completion for story in stories]
        same_length = real_stories_of_same_length(task.stories, task.prompts, completions, task.seed)
        real[preset] = same_length
        entry["generation"][preset] |= {
            **generated_figures(stories, task.seed),
            "real_same_length": length_figures(same_length, task.seed) if same_length else None,
        }
    entry["unprompted"] = unprompted_figures(unprompted, task.presets[0], task.seed) if unprompted else None
    groups = _groups(entry, task, generated, real, unprompted)
    try:
        entry["training_stories"] = _compare_with_training(entry, path, groups, task, training)
    except UserError as error:
        entry["training_stories"] = None
        reason = str(error).rstrip(".")
        entry["notes"].append(f"Copied text and unknown words are not measured: {reason}.")
    problem = None
    if task.judge is not None:
        entry["judge"] = {"model": task.judge.model, "presets": {}}
        try:
            for preset, stories in generated.items():
                entry["judge"]["presets"][preset] = grades_entry(judge_stories(task.judge, stories, task.progress))
        except UserError as error:
            problem = str(error)
    entry["seconds"] = time.perf_counter() - started
    return entry, problem


def _groups(
    entry: dict,
    task: EvaluationTask,
    generated: dict[str, list[GeneratedStory]],
    real: dict[str, list[str] | None],
    unprompted: list[GeneratedStory],
) -> list[tuple[dict, list[str]]]:
    """Figures and texts of all generated stories, and of real ones of the same lengths."""
    groups = []
    for preset, stories in generated.items():
        groups.append((entry["generation"][preset]["raw"], [story.completion for story in stories]))
        if same_length := real[preset]:
            groups.append((entry["generation"][preset]["real_same_length"], same_length))
    if unprompted:
        texts = [story.text for story in unprompted]
        groups.append((entry["unprompted"], texts))
        if same_length := real_stories_of_same_length(task.stories, [""] * len(texts), texts, task.seed):
            entry["unprompted"]["real_same_length"] = {}
            groups.append((entry["unprompted"]["real_same_length"], same_length))
    return groups


def _compare_with_training(
    entry: dict, path: str, groups: list[tuple[dict, list[str]]], task: EvaluationTask, training: TrainingStories
) -> dict:
    """Add the figures that need training stories to those of each group, and return a description of these stories."""
    name, texts = training.of(path)
    known = vocabulary([*texts, *task.prompts])  # the model did not make up the words of the prompts
    copied = iter(longest_copied_runs([text for _, group in groups for text in group], texts))
    for figures, group in groups:
        figures |= training_figures(group, list(islice(copied, len(group))), known, task.seed)
    shared = len(set(texts).intersection(task.stories))
    if shared:
        note = f"{shared:,} of the {len(task.stories):,} held-out stories are also training stories of this model."
        entry["notes"].append(note)
        logger.warning("%s: %s", path, note)
    return {"name": name, "stories": len(texts), "shared_with_held_out": shared}


def grades_entry(graded: JudgeReport) -> dict:
    return {
        **flatten(graded.criteria),
        "graded": len(graded.grades) - graded.missing,
        "missing": graded.missing,
        "problems": graded.problems,
    }


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
