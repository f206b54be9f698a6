"""Shared by the benchmarks: the description of the machine, ratios of alternating rounds, and JSON output."""

import json
import statistics
from pathlib import Path

import torch
import transformers

from tinystories.utils.hardware import describe_hardware


def describe_machine() -> str:
    """The GPU, or the CPU and the number of threads, with the versions of torch and transformers."""
    threads = "" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads"
    return f"{describe_hardware()}{threads}; torch {torch.__version__}, transformers {transformers.__version__}"


def median_ratio(values: list[float], base: list[float]) -> float:
    """The median over rounds of `values / base`; noise of a round affects both."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def save_json(path: str | None, **figures) -> None:
    """Write figures and the description of the machine as JSON to `path`, if it is not None."""
    if path:
        content = {"machine": describe_machine(), **figures}
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
