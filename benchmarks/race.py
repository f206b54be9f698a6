"""The race: what a recipe learns in so many minutes, beside a plain Llama that has the same minutes.

    python benchmarks/race.py --corpus ../shared/data/tinystories --minutes 5

Rules and records are in `benchmarks/RACE.md`. Each contender starts from nothing, in a process of its own and with
empty caches: reading the stories, training the tokenizer, tokenising and compiling are on the clock, from the start of
the process to its end. The score is bits per byte on all held-out stories, by
`tinystories.evaluation.likelihood`, off the clock.

- `ours`: `train_hf.py` with `configs/race/MINUTES.yaml`, or with what `--recipe` names.
- `stock`: `LlamaForCausalLM` under a plain `Trainer`, AdamW at 2e-3 for every weight, blocks of 512 that stories are
  cut into, as `run_clm.py` does it (`benchmarks/stock_race.py`); its tokenizer is trained by `tokenizers` and has as
  many entries as that of `ours`.
- `stock-muon`: the same with `torch.optim.Muon` for the matrices inside the layers.

A contender first trains for some seconds, which tells what its start and end take; then it runs in earnest, with a
learning rate that falls by the clock. It is not tried again: one that took longer than its minutes is shown as late.
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

from figures import describe_machine, keep
from transformers import AutoModelForCausalLM, AutoTokenizer

import modeling_tinyllama  # noqa: F401  registers the architecture
from tinystories.data.corpus import load_corpus
from tinystories.evaluation.likelihood import bits_per_byte, score_stories
from tinystories.recipe import load_recipe
from tinystories.sizes import SIZES
from tinystories.utils.console import print_any_character


ROOT = Path(__file__).resolve().parent.parent
# Of training in a first run, which tells what the rest of a run takes.
TRIAL_SECONDS = 8.0
# Of the minutes, kept free: what comes before and after does not always take as long.
MARGIN = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="with its own held-out stories")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--recipe", help="of `ours` (configs/race/MINUTES.yaml)")
    parser.add_argument("--contenders", default="ours,stock", help="comma-separated: ours, stock, stock-muon")
    parser.add_argument("--limit", type=int, help="score no more than this many held-out stories")
    parser.add_argument("--keep", help="folder to keep the models in")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="last: overrides of the recipe of `ours`")
    options = parser.parse_args()

    recipe_path = options.recipe or str(ROOT / "configs" / "race" / f"{options.minutes:g}.yaml")
    recipe = load_recipe(recipe_path, ["--corpus", options.corpus, *options.set])
    stories = load_corpus(options.corpus, max_validation_stories=options.limit).validation["text"]
    results = []
    for contender in options.contenders.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if contender == "ours":
                command = [
                    *(sys.executable, str(ROOT / "train_hf.py"), recipe_path, "--corpus", options.corpus),
                    # What it was trained for is scored below, for all alike.
                    *("--max_validation_stories", "8", "--eval_strategy", "no", "--save_strategy", "no"),
                    *options.set,
                ]
            else:
                stock = json.dumps({"corpus": options.corpus, "shape": _shape(recipe), "muon": "muon" in contender})
                command = [sys.executable, str(ROOT / "benchmarks" / "stock_race.py"), stock]
            result = race(command, Path(folder), options.minutes)
            result |= score(Path(folder) / "run", stories)
            if options.keep:
                shutil.copytree(Path(folder) / "run", Path(options.keep) / contender, dirs_exist_ok=True)
        results.append({"contender": contender, **result})
        print(json.dumps(results[-1]), flush=True)

    print(f"\n{describe_machine()}; {len(stories):,} held-out stories of {options.corpus}\n")
    print(f"{'contender':12} {'bits per byte':>14} {'95 %':>15} {'minutes':>8} {'steps':>7} {'parameters':>11}")
    for result in results:
        late = "  (late)" if result["minutes"] > options.minutes else ""
        print(
            f"{result['contender']:12} {result['bits_per_byte']:14.4f} {result['low']:7.4f}-{result['high']:.4f} "
            f"{result['minutes']:8.2f} {result['steps']:7,} {result['parameters']:11,}{late}"
        )
    keep(options.json, minutes=options.minutes, results=results)


def _shape(recipe) -> dict:
    """The shape that `recipe` gives its model, for a stock Llama."""
    size = SIZES.get(recipe.size, {})
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {name: recipe.model.get(name, size.get(name)) for name in names}
    return {**shape, "vocab_size": recipe.vocab_size, "max_position_embeddings": recipe.max_length}


def race(command: list[str], folder: Path, minutes: float) -> dict:
    """Run `command` so that its process takes `minutes`; the model is in `folder / "run"` then."""
    trial = _run(command, folder, "trial", TRIAL_SECONDS)
    training = minutes * 60 * (1 - MARGIN) - (trial - TRIAL_SECONDS)
    print(f"{trial - TRIAL_SECONDS:.1f} s go by before training and after it", flush=True)
    if training < TRIAL_SECONDS:
        raise SystemExit(f"{minutes} minutes are too short.")
    seconds = _run(command, folder, "run", training)
    state = json.loads((folder / "run" / "trainer_state.json").read_text())
    return {"minutes": seconds / 60, "steps": state["global_step"]}


def _run(command: list[str], folder: Path, name: str, training: float) -> float:
    """Seconds that the process took, from nothing, with `training` seconds of training."""
    with tempfile.TemporaryDirectory() as caches:
        places = ("HF_DATASETS_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        environment = {**os.environ, **{place: f"{caches}/{place}" for place in places}, "HF_HUB_OFFLINE": "1"}
        arguments = ["--output_dir", str(folder / name), "--max_minutes", str(training / 60)]
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
