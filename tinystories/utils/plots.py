"""The plot of the losses of a run."""

from pathlib import Path
from typing import Any


def plot_loss(log_history: list[dict], path: str | Path) -> None:
    """Plot training loss and validation bits per byte as a PNG file.

    Args:
        log_history: that of a `TrainerState`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    held_out = [(entry["step"], entry["eval_bits_per_byte"]) for entry in log_history if "eval_bits_per_byte" in entry]
    figure, loss_axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    loss_axis.set_xlabel("optimizer steps")
    loss_axis.set_ylabel("training loss (nats per token)", color="tab:blue")
    if train:
        loss_axis.plot(*zip(*train, strict=True), color="tab:blue", linewidth=1.2)
    if held_out:
        bits_axis = loss_axis.twinx()
        bits_axis.set_ylabel("validation bits per byte", color="tab:orange")
        bits_axis.plot(*zip(*held_out, strict=True), color="tab:orange", marker="o", markersize=4)
        _annotate_last(bits_axis, held_out)
        old = [(e["step"], e["eval_old_bits_per_byte"]) for e in log_history if "eval_old_bits_per_byte" in e]
        if old:
            bits_axis.lines[0].set_label("new stories")
            bits_axis.plot(*zip(*old, strict=True), color="tab:green", marker="s", markersize=4, label="old stories")
            _annotate_last(bits_axis, old)
            bits_axis.legend()
    loss_axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _annotate_last(axis: Any, points: list[tuple[int, float]]) -> None:
    step, bits = points[-1]
    axis.annotate(f"{bits:.3f}", (step, bits), textcoords="offset points", xytext=(-4, 8), ha="right")
