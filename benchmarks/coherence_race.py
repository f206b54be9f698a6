"""Which settings raise the coherence of a model at equal training tokens: bits per byte and coherence probes.

    python benchmarks/coherence_race.py --corpus FOLDER --minutes 5
    python benchmarks/coherence_race.py --table

Each variant of `VARIANTS` is the recipe `race/5` or `race/20` with other settings, trained for a fixed number of
steps, so that results do not depend on the machine or its load. The shapes and batches are those that the two recipes
had when the experiments began; the recipes have since taken over what helped.

- 2,000 stories of the training file are held out: all of them for the probes, 300 for bits per byte. The validation
  file is not used.
- Each run appends a line to `coherence_race.jsonl`; a run that is recorded there is not repeated.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from transformers import set_seed
from transformers.utils import logging

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.data.corpus import Corpus, load_texts
from tinystories.evaluation.coherence import KINDS, Probe, accuracy, make_probes, score_probes
from tinystories.evaluation.intervals import wilson_interval
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.recipe import load_recipe
from tinystories.training import build
from tinystories.training.arguments import training_arguments
from tinystories.utils.console import print_any_character


RESULTS = Path(__file__).with_name("coherence_race.jsonl")
HELD_OUT, SCORED = 2_000, 300
STEPS = {5: 1_368, 20: 1_120}  # in 5 and 20 minutes on two idle AVX2 cores
BASELINE: dict[str, dict[int, Any]] = {
    "hidden_size": {5: 128, 20: 192},
    "intermediate_size": {5: 384, 20: 512},
    "num_hidden_layers": {5: 4, 20: 6},
    "num_attention_heads": {5: 2, 20: 3},
    "per_device_train_batch_size": {5: 2, 20: 4},
    "copy_init": {5: None, 20: None},
}
HEADS = {5: 4, 20: 6}  # of dimension 32
QUIET = {
    "bf16": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "max_minutes": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "renamed characters": {"rename_characters": True},
    "heads of dimension 32": {"num_attention_heads": HEADS},
    "copy_init 1": {"copy_init": 1.0},
    "copy_init 1, heads of dimension 32": {"copy_init": 1.0, "num_attention_heads": HEADS},
    "copy_init 1, heads of dimension 32, renamed characters": {
        "copy_init": 1.0, "num_attention_heads": HEADS, "rename_characters": True
    },
    "context of 256": {"max_length": 256},
    "short stories first": {},
}  # fmt: skip
CURRICULUM = "short stories first"  # half of the steps on the shorter half of the stories, then on all


def settings(name: str, minutes: int, seed: int) -> dict[str, Any]:
    """The values that a variant sets in the recipe."""
    changes = BASELINE | VARIANTS[name]
    chosen = {key: value[minutes] if isinstance(value, dict) else value for key, value in changes.items()}
    return {**QUIET, "max_steps": STEPS[minutes], "seed": seed, **chosen}


def train(name: str, minutes: int, seed: int, texts: list[str]) -> tuple[TinyLlamaForCausalLM, Any]:
    """Train the model of a variant."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(f"race/{minutes}", {**settings(name, minutes, seed), "output_dir": folder})
        set_seed(seed)
        tokenizer = build.recipe_tokenizer(recipe, corpus_of(texts))
        model = TinyLlamaForCausalLM(build.model_config(recipe, tokenizer))
        build.zero_init_residual(model)
        if recipe.copy_init:
            build.copy_init(model, recipe.copy_init)
        for part, trainer_settings in phases(name, minutes, texts):
            recipe.trainer |= trainer_settings
            rows, few = build.pack_corpus(corpus_of(part), tokenizer, recipe, seed=seed)
            build.build_trainer(recipe, training_arguments(recipe), model, tokenizer, rows, few).train()
        return model, tokenizer


def phases(name: str, minutes: int, texts: list[str]) -> list[tuple[list[str], dict[str, Any]]]:
    """The training texts one after the other, with the settings of the trainer for each."""
    if name != CURRICULUM:
        return [(texts, {})]
    short = sorted(texts, key=len)[: len(texts) // 2]
    half = STEPS[minutes] // 2
    first = {"max_steps": half, "lr_scheduler_kwargs": {"min_lr_rate": 0.5}}
    second = {
        "max_steps": STEPS[minutes] - half,
        "learning_rate": 5e-3,
        "warmup_steps": 0,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.0},
    }
    return [(short, first), (texts, second)]


def corpus_of(texts: list[str]) -> Corpus:
    return Corpus(Dataset.from_dict({"text": texts}), Dataset.from_dict({"text": texts[:8]}), "race", str(len(texts)))


def score(model: TinyLlamaForCausalLM, tokenizer: Any, held_out: list[str], probes: list[Probe]) -> dict[str, Any]:
    model.eval()
    figure = bits_per_byte(score_stories(model, tokenizer, held_out[:SCORED], progress=False))
    kinds = accuracy(score_probes(model, tokenizer, probes, progress=False))
    correct = {kind: round(found["accuracy"] * found["pairs"]) for kind, found in kinds.items()}
    return {
        "bits_per_byte": round(figure.value, 4),
        "correct": correct,
        "probes": {kind: found["pairs"] for kind, found in kinds.items()},
        "parameters": model.num_parameters(),
    }


def recorded(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def print_table(results: Path) -> None:
    """The mean of the runs of each variant, with 95% intervals over all probes, in Markdown."""
    runs: dict[tuple[int, str], list[dict]] = defaultdict(list)
    for run in recorded(results):
        runs[run["minutes"], run["variant"]].append(run)
    print(f"| minutes | variant | runs | bits per byte | {' | '.join(KINDS)} | mean |\n|{'---|' * (len(KINDS) + 5)}")
    for (minutes, variant), found in sorted(runs.items(), key=lambda item: item[0][0]):
        bits = sum(run["bits_per_byte"] for run in found) / len(found)
        cells, rates = [], []
        for kind in KINDS:
            correct, number = (sum(run[key].get(kind, 0) for run in found) for key in ("correct", "probes"))
            if not number:
                cells.append("")
                continue
            _, low, high = wilson_interval(correct, number)
            rates.append(correct / number)
            cells.append(f"{rates[-1]:.1%} ({low:.1%}-{high:.1%})")
        mean = sum(rates) / len(rates)
        print(f"| {minutes} | {variant} | {len(found)} | {bits:.3f} | {' | '.join(cells)} | {mean:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="folder with train.parquet (benchmarks/subset.py writes it)")
    parser.add_argument("--minutes", type=int, choices=STEPS, default=5, help="recipe (default: 5)")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, help="variants (default: all)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[42, 43], help="one run each (default: 42 43)")
    parser.add_argument("--table", action="store_true", help="print the table of the results instead")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to and to resume from")
    options = parser.parse_args()
    if options.table:
        print_table(options.results)
        return
    if not options.corpus:
        parser.error("--corpus is needed")
    disable_progress_bar()
    logging.set_verbosity_error()
    texts = list(load_texts(f"{options.corpus}/train.parquet").shuffle(seed=0)["text"])
    held_out, rest = texts[:HELD_OUT], texts[HELD_OUT:]
    probes = make_probes(held_out, per_kind=500, progress=False)
    for seed in options.seeds:
        for name in options.only or VARIANTS:
            run = {"minutes": options.minutes, "variant": name, "seed": seed}
            if any(run.items() <= other.items() for other in recorded(options.results)):
                continue
            began = time.perf_counter()
            model, tokenizer = train(name, options.minutes, seed, rest)
            seconds = round(time.perf_counter() - began)
            result = {**run, **score(model, tokenizer, held_out, probes), "seconds": seconds}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    print_any_character()
    main()
