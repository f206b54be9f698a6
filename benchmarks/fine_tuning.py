"""Fine-tuning the built-in model on few stories: against training from scratch, with LoRA, and with replay.

    python benchmarks/fine_tuning.py --old FOLDER --runs runs/fine-tuning

FOLDER has `train.parquet` and `validation.parquet` of TinyStories (`python benchmarks/subset.py FOLDER`), on which
the built-in model was trained: they show what it forgets. The new stories are the synthetic ones of the package,
another style, with 50, 500 or 5,000 for training and 200 for validation.

- `minutes`: `tinystories train --minutes 2`, from scratch and from the built-in model.
- `methods`: the recipe `finetune` with all weights, with LoRA, and with a quarter of old rows.
- `same`: the longest 500 validation stories of TinyStories for training, others for validation: a text like that of
  the built-in model.

Each figure is one run. A run that is complete in the folder is not repeated.
"""

import argparse
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

from tinystories.data.corpus import load_texts
from tinystories.data.synthetic import sample_stories
from tinystories.utils.console import print_any_character


NEW_STORIES, VALIDATION, OLD_STORIES, LONGEST = (50, 500, 5_000), 200, 300, 500
QUIET = ("--prompts", "[]", "--check", "false", "--disable_tqdm", "true")


def write_stories(old: Path, folder: Path) -> dict[str, Path]:
    """Write the stories of all runs, one JSON object a line."""
    new = list(islice(sample_stories(seed=11), max(NEW_STORIES) + VALIDATION + 100))
    train, rest = new[: max(NEW_STORIES)], new[max(NEW_STORIES) :]
    known = {*train}
    texts = load_texts(str(old / "validation.parquet"))["text"][:]
    by_length = sorted(texts, key=lambda text: -len(text.encode()))
    others = by_length[LONGEST:]
    stories = {
        **{f"new-{number}": train[:number] for number in NEW_STORIES},
        "new-validation": [story for story in rest if story not in known][:VALIDATION],
        "longest": by_length[:LONGEST],
        "old": others[:: len(others) // OLD_STORIES][:OLD_STORIES],
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in stories}
    for name, file in files.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in stories[name])
        file.write_text("".join(lines), "utf-8")
    return files


def commands(old: Path, files: dict[str, Path]) -> dict[str, list[str]]:
    """The arguments of `tinystories` for each run."""
    found: dict[str, list[str]] = {}
    for number in NEW_STORIES:
        stories = [str(files[f"new-{number}"]), "--validation_corpus", str(files["new-validation"])]
        found[f"minutes {number} nothing"] = ["train", *stories, "--minutes", "2"]
        found[f"minutes {number} builtin"] = ["train", *stories, "--minutes", "2", "--init_from", "builtin"]
        tuned = ["finetune", *stories, "--epochs", "4" if number < 500 else "2", "--eval_steps", "0.2"]
        keep = {"corpus": str(old / "train.parquet"), "validation_corpus": str(files["old"]), "max_stories": 4_000}
        if number < 5_000:
            found[f"methods {number} all weights"] = [*tuned, "--keep_corpus", str(files["old"])]
            found[f"methods {number} lora"] = [
                *tuned, "--keep_corpus", str(files["old"]), "--lora", "{r: 8}", "--learning_rate", "1e-2"
            ]  # fmt: skip
            found[f"methods {number} replay"] = [*tuned, "--keep_corpus", json.dumps(keep), "--replay", "0.25"]
    same = ["finetune", str(files["longest"]), "--validation_corpus", str(files["old"]), "--epochs", "2"]
    for rate in ("2e-3", "5e-4"):
        found[f"same {rate}"] = [*same, "--learning_rate", rate]
    return found


def figures(run: Path) -> dict[str, float]:
    """Seconds, and bits per byte before and after, of a run that has ended."""
    history = json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]
    evaluations = [entry for entry in history if "eval_bits_per_byte" in entry]
    first, last = evaluations[0], evaluations[-1]
    found = {"seconds": max(entry.get("seconds", 0) for entry in history), "new": last["eval_bits_per_byte"]}
    if not first["step"]:
        found["new before"] = first["eval_bits_per_byte"]
    if "eval_old_bits_per_byte" in last:
        found |= {"old before": first["eval_old_bits_per_byte"], "old": last["eval_old_bits_per_byte"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, required=True, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--runs", type=Path, default=Path("runs/fine-tuning"), help="default: runs/fine-tuning")
    parser.add_argument("--only", default="", help="run those whose name contains this (default: all)")
    args = parser.parse_args()
    files = write_stories(args.old, args.runs / "stories")
    columns = ("new before", "new", "old before", "old", "seconds")
    print(f"| run | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, command in commands(args.old, files).items():
        if args.only not in name:
            continue
        run = args.runs / name.replace(" ", "-")
        if not (run / "eval_results.json").is_file():
            shutil.rmtree(run, ignore_errors=True)
            full = [sys.executable, "-m", "tinystories", *command, *QUIET, "--output_dir", str(run)]
            subprocess.run(full, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        row = figures(run)
        cells = (f"{row[key]:.0f}" if key == "seconds" else f"{row[key]:.3f}" if key in row else "" for key in columns)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    print_any_character()
    main()
