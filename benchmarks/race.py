"""The race: bits per byte of a recipe after a fixed number of minutes, compared with a plain Llama.

    python benchmarks/race.py --corpus FOLDER --minutes 5

`benchmarks/RACE.md` has the rules and the records. Each contender is trained in a separate process with empty caches.
The time limit covers the whole process: imports, reading, training the tokenizer, tokenization, compilation, training
and saving. The score is bits per byte on all held-out stories (`tinystories.evaluation.likelihood`); scoring is not
timed.

- `ours`: `train_hf.py` with the recipe `race/MINUTES`, or with `--recipe`.
- `stock`: `LlamaForCausalLM` under a plain `Trainer`, AdamW at 2e-3 for all weights, concatenated stories in blocks of
  512 as in `run_clm.py` (`benchmarks/stock_race.py`); its tokenizer is trained by `tokenizers`, with the vocabulary
  size of `ours`.
- `stock-muon`: the same with `torch.optim.Muon` for the matrices of the layers.

A short trial run first measures the time of everything except training. The scored run then trains for the remaining
time. It runs once; a contender that exceeds the time limit is marked as late.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import describe_machine, save_json
from transformers import AutoModelForCausalLM, AutoTokenizer

import modeling_tinyllama  # noqa: F401  registers the architecture
from tinystories.data.corpus import load_corpus
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.recipe import load_recipe
from tinystories.runs.run_folder import run_and_step
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


ROOT = Path(__file__).resolve().parent.parent
# Training time of the trial, which measures the time of everything else.
TRIAL_SECONDS = 8.0
# Fraction of the minutes kept free, because start and end vary between runs.
MARGIN = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="corpus with held-out stories (default: sample)")
    parser.add_argument("--minutes", type=float, default=5, help="time limit of each contender (default: 5)")
    parser.add_argument("--recipe", help="recipe of `ours` (default: race/MINUTES)")
    parser.add_argument(
        "--contenders", default="ours,stock", help="comma-separated: ours, stock, stock-muon (default: ours,stock)"
    )
    parser.add_argument("--limit", type=int, help="maximum number of held-out stories to score (default: all)")
    parser.add_argument("--keep", help="folder to save the models in (default: they are deleted)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    parser.add_argument(
        "--set",
        nargs=argparse.REMAINDER,
        default=[],
        help="overrides of the recipe of `ours`; must be the last option",
    )
    options = parser.parse_args()

    recipe_path = options.recipe or f"race/{options.minutes:g}"
    recipe = load_recipe(recipe_path, ["--corpus", options.corpus, *options.set])
    stories = load_corpus(options.corpus, max_validation_stories=options.limit).validation["text"]
    results = []
    for contender in options.contenders.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if contender == "ours":
                command = [
                    *(sys.executable, str(ROOT / "train_hf.py"), recipe_path, "--corpus", options.corpus),
                    # All contenders are scored below.
                    *("--max_validation_stories", "8", "--eval_strategy", "no", "--save_strategy", "no"),
                    *options.set,
                ]
            else:
                stock = json.dumps({"corpus": options.corpus, "shape": _shape(recipe), "muon": "muon" in contender})
                command = [sys.executable, str(ROOT / "benchmarks" / "stock_race.py"), stock]
            run = Path(folder) / contender
            result = {**race(command, run, options.minutes), **score(run, stories)}
            if options.keep:
                shutil.copytree(run, Path(options.keep) / contender, dirs_exist_ok=True)
        results.append({"contender": contender, **result})
        print(json.dumps(results[-1]), flush=True)

    print(f"\n{describe_machine()}; {len(stories):,} held-out stories of {options.corpus}\n")
    print(f"{'contender':12} {'bits per byte':>14} {'95%':>15} {'minutes':>8} {'steps':>7} {'parameters':>11}")
    for result in results:
        late = "  (late)" if result["minutes"] > options.minutes else ""
        print(
            f"{result['contender']:12} {result['bits_per_byte']:14.4f} {result['low']:7.4f}-{result['high']:.4f} "
            f"{result['minutes']:8.2f} {result['steps']:7,} {result['parameters']:11,}{late}"
        )
    save_json(options.json, minutes=options.minutes, results=results)


def _shape(recipe) -> dict:
    """The shape of the recipe's model, for `LlamaConfig`."""
    size = SIZES.get(recipe.size, {})
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: recipe.model.get(name, size.get(name)) for name in names}
    return {**shape, "vocab_size": recipe.vocab_size, "max_position_embeddings": recipe.max_length}


def race(command: list[str], run: Path, minutes: float) -> dict:
    """Run `command` so that its process takes `minutes`; it saves the model in the folder `run`."""
    trial = _run(command, run.with_name("trial"), TRIAL_SECONDS)
    training = minutes * 60 * (1 - MARGIN) - (trial - TRIAL_SECONDS)
    print(f"everything except training takes {trial - TRIAL_SECONDS:.1f} s", flush=True)
    if training < TRIAL_SECONDS:
        raise SystemExit(f"{minutes} minutes leave less than {TRIAL_SECONDS:g} s for training: set --minutes higher.")
    seconds = _run(command, run, training)
    return {"minutes": seconds / 60, "steps": run_and_step(run)[1]}


def _run(command: list[str], run: Path, training: float) -> float:
    """Seconds of the process, with empty caches and `training` seconds of training."""
    with tempfile.TemporaryDirectory() as caches:
        variables = ("HF_DATASETS_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        environment = {**os.environ, **{name: f"{caches}/{name}" for name in variables}, "HF_HUB_OFFLINE": "1"}
        arguments = ["--output_dir", str(run), "--max_minutes", str(training / 60)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        began = time.perf_counter()
        done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, **streams)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout[-3000:]}")
    return seconds


def score(run: Path, stories: list[str]) -> dict:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    scores = score_stories(model, tokenizer, stories)
    figure = bits_per_byte(scores)
    return {
        "bits_per_byte": figure.value,
        "low": figure.low,
        "high": figure.high,
        "nats_per_token": scores.nats_per_token,
        "parameters": model.num_parameters(),
        "stories": len(stories),
    }


if __name__ == "__main__":
    print_any_character()
    main()
