"""What the benchmarks share: what figures were measured on, how they are compared, and where they are kept."""

import json
import statistics
from pathlib import Path

import torch
import transformers

from tinystories.utils.hardware import describe_hardware


def describe_machine() -> str:
    """GPU, or CPU with the threads that are used, and the versions that matter."""
    threads = "" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads"
    return f"{describe_hardware()}{threads}; torch {torch.__version__}, transformers {transformers.__version__}"


def median_ratio(values: list[float], base: list[float]) -> float:
    """The median of what `values` are of those of `base`, round by round: a slow round falls on both."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True))


def keep(path: str | None, **figures) -> None:
    """Write figures, and what they were measured on, as JSON to `path` where there is one."""
    if path:
        whole = {"machine": describe_machine(), **figures}
        Path(path).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
