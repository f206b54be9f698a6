"""Time and memory from the command `tinystories train` to the first step, on a corpus as large as TinyStories.

    python benchmarks/full_size.py --corpus FOLDER
    python benchmarks/full_size.py --corpus FOLDER --numbers --format txt --folder /tmp/full-size

Stories of a corpus are replicated, each with a sentence of its own; with `--numbers`, the sentence has a number that
occurs nowhere else, so that all caches of words meet millions of them. The training of a small model is started twice,
each time in a process of its own, which ends after the first step; the second start finds the caches of the first.

Memory is that of the process and all its children, sampled every 0.2 s: `RssAnon` is the sum of what /proc shows, in
which pages that processes share count several times, and `Pss` counts them once. Memory-mapped files are in neither.
Only for Linux.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import datasets
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from figures import describe_machine, save_json

from tinystories.data.corpus import load_corpus
from tinystories.data.names import FIRST_NAMES
from tinystories.recipe import parse_overrides
from tinystories.utils.console import print_any_character
from tinystories.utils.errors import UserError


RECIPE = """\
corpus: {corpus}
overwrite_output_dir: true
prompts: []
model: {{hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 1}}
trainer: {{output_dir: {run}, max_steps: 2, per_device_train_batch_size: 4, learning_rate: 1.0e-3}}
"""
CORPUS, STEP = "duplicates, held-out stories", "first step"
# The functions that a phase consists of; a phase inside another is not counted in it.
PHASES = {
    "reading": ["tinystories.data.sources.open:stored_stories"],
    CORPUS: ["tinystories.data.corpus:load_corpus"],
    "tokenizer": ["tinystories.training.build:recipe_tokenizer"],
    "tokenizing": ["tinystories.training.build:tokenize_stories"],
    "packing": ["tinystories.data.packing:PackedStories.__init__"],
    "checks": ["tinystories.commands.train:_report_text_quality", "tinystories.commands.train:_check"],
    STEP: ["transformers:Trainer.training_step"],
}
OTHER = "imports, settings, model"
NAMES = sorted(FIRST_NAMES)
ROW_GROUP = 500_000  # many writers put a million rows into a group of a parquet file


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        sys.exit(child(*sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="stories to replicate")
    parser.add_argument("--stories", type=int, default=2_100_000, help="training stories (default: 2,100,000)")
    parser.add_argument("--numbers", action="store_true", help="a distinct number in each story")
    parser.add_argument("--format", choices=("parquet", "txt"), default="parquet")
    parser.add_argument("--one-split", action="store_true", help="no validation split: 2%% are held out")
    parser.add_argument("--folder", help="keep the corpus and the caches here (8 GB); the corpus is made once")
    parser.add_argument("--starts", type=int, default=2, help="starts to measure (default: 2)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="settings of the recipe, as for `train`")
    options = parser.parse_args()
    parse_overrides(options.set)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        numbers, splits = "-numbers" * options.numbers, "-one-split" * options.one_split
        corpus = folder / f"{options.format}{numbers}{splits}-{options.stories}"
        try:
            make_corpus(corpus, options)
        except UserError as error:
            parser.error(str(error))
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            recipe = Path(cache, "recipe.yaml")
            recipe.write_text(RECIPE.format(corpus=corpus, run=Path(cache, "run")), "utf-8")
            load = [os.getloadavg()[0]]
            starts = []
            for number in range(options.starts):
                starts.append(measure_start(recipe, options.set))
                print(f"start {number + 1}: {starts[-1]['seconds']:.1f} s to the first step", flush=True)
                load.append(os.getloadavg()[0])

    print(f"\n{describe_machine()}")
    size = sum(file.stat().st_size for file in corpus.iterdir()) if corpus.exists() else 0
    settings = f"; {' '.join(options.set)}" if options.set else ""
    print(f"{options.stories:,} stories{numbers.replace('-', ' with distinct ')}, {options.format}"
          f"{f', {size / 1e9:.2f} GB' if size else ''}{settings}")  # fmt: skip
    print(f"load average (1 minute) before each start and at the end: {', '.join(f'{value:.1f}' for value in load)}")
    for number, start in enumerate(starts):
        print(f"\n{f'start {number + 1}':30} {'seconds':>8} {'peak RssAnon (MB)':>18} {'peak Pss (MB)':>14}")
        for phase, (seconds, anonymous, shared) in start["phases"].items():
            print(f"{phase:30} {seconds:8.1f} {anonymous:18,.0f} {shared:14,.0f}")
        print(f"{'to the end of the first step':30} {start['seconds']:8.1f} {start['anonymous']:18,.0f} "
              f"{start['shared']:14,.0f}")  # fmt: skip
        print(*start["summary"], sep="\n")
    save_json(options.json, starts=starts, load=load)


def make_corpus(folder: Path, options: argparse.Namespace) -> None:
    """Write train and validation files, if they are not there yet."""
    if folder.exists():
        return
    corpus = load_corpus(options.corpus)
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    write_copies(corpus.train, partial / f"train.{options.format}", options.stories, options.numbers)
    if not options.one_split:
        held_out = corpus.validation
        write_copies(held_out, partial / f"validation.{options.format}", len(held_out), options.numbers)
    partial.rename(folder)


def write_copies(stories: datasets.Dataset, path: Path, count: int, numbers: bool) -> None:
    texts, schema = stories["text"][:], pa.schema([("text", pa.string())])
    if path.suffix == ".txt":
        file = path.open("w", encoding="utf-8")
    else:
        file = pq.ParquetWriter(path, schema)
    with file:
        for begin in range(0, count, ROW_GROUP):
            batch = [replicated(texts, number, numbers) for number in range(begin, min(count, begin + ROW_GROUP))]
            if path.suffix == ".txt":
                file.writelines(f"{text}\n<|endoftext|>\n" for text in batch)
            else:
                file.write_table(pa.table({"text": batch}, schema), ROW_GROUP)


def replicated(texts: list[str], number: int, with_number: bool) -> str:
    copy, story = divmod(number, len(texts))
    first, second = NAMES[(story + copy) % len(NAMES)], NAMES[(story + copy // len(NAMES)) % len(NAMES)]
    sentence = f"The number was {number}." if with_number else f"{first} smiled at {second}."
    return f"{texts[story]} {sentence}"


def measure_start(recipe: Path, settings: list[str]) -> dict:
    """Seconds and peaks of memory by phase, of a training in a process of its own."""
    log, caches = recipe.with_name("phases.json"), str(recipe.with_name("huggingface"))
    log.unlink(missing_ok=True)
    samples: list[tuple[float, float, float]] = []
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, __file__, "child", str(log), str(recipe), *settings],
        env={**os.environ, "HF_HOME": caches, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    sampler = threading.Thread(target=sample_memory, args=(process.pid, samples))
    sampler.start()
    lines = process.stdout.read().splitlines()
    if process.wait():
        sys.exit("\n".join(lines))
    sampler.join()
    events = json.loads(log.read_text("utf-8"))
    seconds, of_sample = {}, {}
    # An inner phase ends before the outer one, and what it took is not part of that.
    for phase, begin, end in events:
        inner = sum(stop - start for other, start, stop in events if begin < start and stop < end)
        seconds[phase] = seconds.get(phase, 0.0) + end - begin - inner
        for number, (when, *_) in enumerate(samples):
            if begin <= when <= end:
                of_sample.setdefault(number, phase)
    last = events[-1][2]
    seconds = {OTHER: last - began - sum(seconds.values()), **seconds}
    peaks = dict.fromkeys(seconds, (0.0, 0.0))
    for number, (when, *memory) in enumerate(samples):
        if when <= last:
            phase = of_sample.get(number, OTHER)
            peaks[phase] = tuple(map(max, peaks[phase], memory))
    return {
        "seconds": last - began,
        "anonymous": max(peak for peak, _ in peaks.values()),
        "shared": max(peak for _, peak in peaks.values()),
        "phases": {phase: (seconds[phase], *peaks[phase]) for phase in seconds},
        "summary": [line for line in lines if line.startswith(("note: the tokenizer", "corpus ", "tokens ", "vocab"))],
    }


def sample_memory(pid: int, samples: list[tuple[float, float, float]]) -> None:
    """Append the time and the anonymous memory of a process and its children in MB, until it ends."""
    try:
        root = psutil.Process(pid)
        while root.status() != psutil.STATUS_ZOMBIE:
            processes = [root, *root.children(recursive=True)]
            memory = [(field(each.pid, "status", "RssAnon"), field(each.pid, "smaps_rollup", "Pss_Anon"))
                      for each in processes]  # fmt: skip
            samples.append((time.time(), *(sum(values) / 1e3 for values in zip(*memory, strict=True))))
            time.sleep(0.2)
    except psutil.NoSuchProcess:
        return


def field(pid: int, file: str, name: str) -> int:
    """A value in kB; 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/{file}") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
    except OSError:
        return 0


def child(log: str, *arguments: str) -> int:
    """Train until the first step has been made, and write the beginning and end of each phase.

    The dry run before the corpus is read also packs rows and makes a step; that is not counted.
    """
    from tinystories.cli import main as tinystories

    events: list[tuple[str, float, float]] = []
    for phase, functions in PHASES.items():
        for function in functions:
            owner, name = find_function(function)
            setattr(owner, name, timed(getattr(owner, name), phase, events, log))
    return tinystories(["train", *arguments])


def find_function(path: str) -> tuple[object, str]:
    """The module or class that has a function such as `module:Class.name`, and the name of the function."""
    module, _, names = path.partition(":")
    *owners, name = names.split(".")
    return functools.reduce(getattr, owners, import_module(module)), name


def timed(function: Callable, phase: str, events: list, log: str) -> Callable:
    @functools.wraps(function)
    def call(*arguments, **options):
        begin = time.time()
        if phase == CORPUS:
            events.clear()
        result = function(*arguments, **options)
        events.append((phase, begin, time.time()))
        if phase == STEP and any(other == CORPUS for other, *_ in events):
            Path(log).write_text(json.dumps(events), "utf-8")
            sys.stdout.flush()
            os._exit(0)
        return result

    return call


if __name__ == "__main__":
    print_any_character()
    main()
