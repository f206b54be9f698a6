"""Sweeps for `tinystories train TEXT --minutes M`: bits per byte for sizes of text, minutes and settings.

    python benchmarks/sweep.py --corpus FOLDER --queue queue.txt

Each line of the queue is one run: size of the text in KB, minutes, and settings that replace those of `BASE`:

    1000 5 --vocab_size 2048 --hidden_size 128 --num_hidden_layers 4 --weight_decay 0.5
    1000 5 plan

`plan` stands for the settings that `tinystories/training/plan.py` chooses for two AVX2 cores. `--table` compares them
with the best of the others.

- The same 300 stories of the training file are always held out for scoring. A text consists of the first other
  stories, in a fixed order. The validation file is not used.
- Minutes are converted to steps by the speed of two idle AVX2 cores (`plan.Speed()`), so that results do not
  depend on the machine or its load.
- Each run appends a line to `sweep.jsonl`. A line of the queue that is recorded there is skipped, and the queue is
  read again after each run, so a sweep can be stopped, resumed and extended.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from transformers import TrainerCallback, set_seed
from transformers.utils import logging

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.data.corpus import Corpus, load_texts
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.recipe import Recipe, build_recipe, parse_overrides
from tinystories.training import build
from tinystories.training.arguments import training_arguments
from tinystories.training.plan import Plan, Shape, Speed, Text, make_plan
from tinystories.utils.console import print_any_character


RESULTS = Path(__file__).with_name("sweep.jsonl")
SEED = 0  # of the order of the stories
HELD_OUT = 300
CURVE_STORIES, CURVE_POINTS = 60, 8  # of the curve of a run

BASE = {
    "optimizer": "muon",
    "zero_init_residual": True,
    "max_length": 512,
    "row_length": 768,
    "check": False,
    "prompts": [],
    "vocab_size": 4096,
    "model": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.5,
        "initializer_range": 0.04,
    },
    "trainer": {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.0},
        "warmup_steps": 40,
        "weight_decay": 0.1,
        "adam_beta2": 0.99,
        "bf16": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 50,
        "seed": 42,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="folder with train.parquet (benchmarks/subset.py writes it)")
    parser.add_argument("--queue", type=Path, help="file with one run per line")
    parser.add_argument("--table", action="store_true", help="print the table of the results instead")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines to append to and to resume from")
    options = parser.parse_args()
    if options.table:
        print_table(options.results)
        return
    if not (options.corpus and options.queue):
        parser.error("--corpus and --queue are needed")
    disable_progress_bar()
    logging.set_verbosity_error()
    stories = load_texts(f"{options.corpus}/train.parquet").shuffle(seed=SEED)
    texts = stories["text"]
    held_out, rest = list(texts[:HELD_OUT]), list(texts[HELD_OUT:])
    while line := next_line(options.queue, options.results):
        result = {"line": line, **run(line, rest, held_out)}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)


def next_line(queue: Path, results: Path) -> str | None:
    """The first line of the queue that is not recorded in the results."""
    recorded = results.read_text("utf-8").splitlines() if results.exists() else []
    done = {json.loads(result)["line"] for result in recorded}
    lines = (" ".join(line.split()) for line in queue.read_text("utf-8").splitlines())
    return next((line for line in lines if line and not line.startswith("#") and line not in done), None)


def first_kilobytes(texts: list[str], kilobytes: float) -> list[str]:
    total = 0
    for count, text in enumerate(texts, 1):
        total += len(text.encode())
        if total >= kilobytes * 1000:
            return texts[:count]
    return texts


class Curve(TrainerCallback):
    """Scores some held-out stories a few times in a run."""

    def __init__(self, tokenizer, stories: list[str], steps: int):
        self.tokenizer, self.stories, self.every = tokenizer, stories, max(1, steps // CURVE_POINTS)
        self.points: list[tuple[int, float]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            model.eval()
            figure = bits_per_byte(score_stories(model, self.tokenizer, self.stories)).value
            model.train()
            self.points.append((state.global_step, round(figure, 4)))


def run(line: str, rest: list[str], held_out: list[str]) -> dict:
    """Train as the line says, and score the held-out stories."""
    kilobytes, minutes, *options = line.split()
    text = first_kilobytes(rest, float(kilobytes))
    content, settings, steps = BASE, parse_overrides([] if options == ["plan"] else options), None
    if options == ["plan"]:
        lengths = np.array([len(story.encode()) for story in text])
        plan = make_plan(Text.of(lengths, has_validation=True), float(minutes))
        content, settings, steps = planned(plan), described(plan), plan.steps
    with tempfile.TemporaryDirectory() as folder:
        recipe = build_recipe(content, {**({} if steps else settings), "output_dir": folder})
        return {"settings": settings, **train(recipe, text, held_out, float(minutes), steps)}


def planned(plan: Plan) -> dict:
    """The recipe of a plan without its time limit, with the precision, evaluation and output of `BASE`."""
    content = {name: value for name, value in plan.recipe().items() if name != "max_minutes"}
    shared = ("bf16", "eval_strategy", "save_strategy", "report_to", "disable_tqdm", "logging_steps")
    trainer = {**content["trainer"], **{name: BASE["trainer"][name] for name in shared}}
    return {**content, "check": False, "prompts": [], "trainer": trainer}


def described(plan: Plan) -> dict:
    """What distinguishes the plan of a line from those of earlier rules."""
    names = ("vocab_size", "max_length", "batch_rows", "learning_rate", "weight_decay", "dropout", "bits_per_byte")
    return {**plan.shape._asdict(), **{name: getattr(plan, name) for name in names}}


def print_table(results: Path) -> None:
    """The best settings found by hand in at most so many minutes and those of the plan, by text, in Markdown."""
    runs = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    runs = [{**run, "point": tuple(map(float, run["line"].split()[:2]))} for run in runs]
    print("| text (KB) | minutes | runs | best by hand | bits per byte | plan | expected | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for point in sorted({run["point"] for run in runs}):
        plan = next((run for run in runs if run["line"].split()[2:] == ["plan"] and run["point"] == point), None)
        here = [
            run
            for run in runs
            if run["line"].split()[2:] != ["plan"] and run["point"][0] == point[0] and run["point"][1] <= point[1]
        ]
        best = min(here, key=lambda run: run["bits_per_byte"], default=None)
        hand = ("", "") if best is None else (" ".join(best["line"].split()[2:]), f"{best['bits_per_byte']:.3f}")
        ours, expected, difference = "", "", ""
        if plan:
            ours, expected = f"{plan['bits_per_byte']:.3f}", f"{plan['settings']['bits_per_byte']:.3f}"
            difference = f"{plan['bits_per_byte'] / best['bits_per_byte'] - 1:+.1%}" if best else ""
        print(
            f"| {point[0]:g} | {point[1]:g} | {len(here)} | {' | '.join(hand)} | {ours} | {expected} | {difference} |"
        )


def train(recipe: Recipe, text: list[str], held_out: list[str], minutes: float, steps: int | None) -> dict:
    set_seed(42)
    corpus = Corpus(*(Dataset.from_dict({"text": part}) for part in (text, held_out[:8])), "sweep", str(len(text)))
    tokenizer = build.recipe_tokenizer(recipe, corpus)
    rows, few = build.pack_corpus(corpus, tokenizer, recipe, seed=42)
    model = TinyLlamaForCausalLM(build.model_config(recipe, tokenizer))
    build.zero_init_residual(model)
    batch = recipe.trainer["per_device_train_batch_size"]
    tokens_per_step = batch * rows.tokens_per_row
    shape = Shape(**{name: getattr(model.config, name) for name in Shape._fields})
    flops = shape.flops_per_step(model.config.vocab_size, tokens_per_step)
    seconds = Speed().seconds_per_step(flops, model.config.num_hidden_layers)
    steps = steps or max(1, round(minutes * 60 / seconds))
    recipe.trainer["max_steps"] = steps
    trainer = build.build_trainer(recipe, training_arguments(recipe), model, tokenizer, rows, few)
    curve = Curve(tokenizer, held_out[:CURVE_STORIES], steps)
    trainer.add_callback(curve)
    began = time.perf_counter()
    trained = trainer.train()
    wall = time.perf_counter() - began
    figure = bits_per_byte(score_stories(model, tokenizer, held_out))
    return {
        "bits_per_byte": round(figure.value, 4),
        "low": round(figure.low, 4),
        "high": round(figure.high, 4),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "text_bytes": rows.bytes,
        "text_stories": len(text),
        "text_tokens": rows.tokens,
        "steps": steps,
        "tokens": round(steps * tokens_per_step),
        "epochs": round(steps * batch / len(rows), 2),
        "flops": flops * steps,
        "training_loss": round(trained.training_loss, 4),
        "curve": curve.points,
        "wall_seconds": round(wall, 1),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print_any_character()
    main()
