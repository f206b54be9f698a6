"""Estimated training times of the recipes on hardware on which they were not measured.

    python benchmarks/recipe_times.py

    seconds = tokens x FLOPs per token / (peak FLOP/s x utilisation)

- FLOPs per token are those of `tinystories.training.throughput`; the peaks are those of data sheets.
- GPUs with bfloat16 are assumed to reach the utilisation of the 24.5M model on an H200 (27.5%, docs/performance.md),
  and 30 s are added for compilation. A GPU without bfloat16 trains in float32 and without variable-length attention;
  40% utilisation is assumed for it.
- Eight cores are assumed to be 2.4 times as fast as the two measured cores, which is 60% of linear scaling.
- The times of evaluations and of reading the text are not included.
"""

import argparse
from typing import NamedTuple

import torch

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.recipe import load_recipe
from tinystories.training.throughput import data_sheet_flops, training_flops_per_token
from tinystories.utils.console import print_any_character


MEAN_ATTENDED = 100  # positions per token: a story has about 200 tokens
CORPUS, ALL = 13.1e6, 1.9e9  # bytes of the subset in docs/performance.md, and of TinyStories
BYTES_PER_TOKEN = {4_096: 3.96, 10_000: 4.10}  # of TinyStories, by size of vocabulary
RUNS = {"tinystories-3m": CORPUS, "small-corpus": CORPUS, "tinystories-24m": ALL}
GPU_UTILISATION, FP32_UTILISATION, COMPILATION = 0.275, 0.4, 30.0
# Speed of training on two cores of an AMD EPYC (Zen 3): 10.4M tokens of the 3.4M model in 60 minutes
# (benchmarks/RACE.md), 653 tokens/s of the 24.5M model (benchmarks/RESULTS.md).
TWO_CORES = {"tinystories-3m": 10.4e6 / 3_600, "small-corpus": 653.0, "tinystories-24m": 653.0}  # tokens/s
EIGHT_CORES = 2.4  # times as fast as two


class Run(NamedTuple):
    """Tokens of a run in all epochs, and its FLOPs per token."""

    tokens: float
    flops_per_token: float


def run_of(name: str) -> Run:
    """The run of an installed recipe on the text in `RUNS`."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = TinyLlamaForCausalLM(TinyLlamaConfig(**recipe.model, vocab_size=recipe.vocab_size))
    tokens = RUNS[name] / BYTES_PER_TOKEN[recipe.vocab_size] * recipe.trainer["num_train_epochs"]
    return Run(tokens, training_flops_per_token(model, MEAN_ATTENDED))


def gpu_seconds(run: Run, gpu: str, utilisation: float = GPU_UTILISATION) -> float:
    """Seconds on a GPU of the table in `throughput`, in 16 bits."""
    peak = data_sheet_flops(gpu)
    assert peak is not None, gpu
    return COMPILATION + run.tokens * run.flops_per_token / (peak * utilisation)


def t4_seconds(run: Run) -> float:
    """Seconds on a T4 in float32, whose peak is 8.1 TFLOP/s."""
    return COMPILATION + run.tokens * run.flops_per_token / (8.1e12 * FP32_UTILISATION)


def estimates() -> dict[str, dict[str, float]]:
    """Seconds by recipe and hardware."""
    times = {}
    for name in RUNS:
        run = run_of(name)
        two_cores = run.tokens / TWO_CORES[name]
        times[name] = {
            "2 cores": two_cores,
            "8 cores": two_cores / EIGHT_CORES,
            "T4": t4_seconds(run),
            "RTX 4090": gpu_seconds(run, "RTX 4090"),
            "H100": gpu_seconds(run, "H100"),
        }
    return times


def in_words(seconds: float) -> str:
    """Two digits, with the unit that suits them."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    times = estimates()
    hardware = list(next(iter(times.values())))
    print("recipe".ljust(16), *(name.rjust(9) for name in hardware))
    for name, by_hardware in times.items():
        print(name.ljust(16), *(in_words(by_hardware[device]).rjust(9) for device in hardware))


if __name__ == "__main__":
    print_any_character()
    main()
