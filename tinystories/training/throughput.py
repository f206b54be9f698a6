"""Training speed: tokens per second, and model FLOPs utilisation (MFU) as PaLM defines it (arXiv 2204.02311, B)."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from ..data.packing import PackedStories
from ..data.streaming import PackedStream


# Dense bf16 peak in FLOP/s from NVIDIA's data sheets (fp16 for the T4, which has no bf16).
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}


def training_flops_per_token(model: PreTrainedModel, mean_attended: float) -> float:
    """Floating point operations of the forward and backward pass of one token.

    6 for each weight of a matrix product (the head included, the embedding lookup not), and 12 times the width of the
    heads for each position that the token attends to in each layer.

    Args:
        mean_attended: mean number of positions that a token attends to, including its own.
    """
    config = model.config
    weights = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    if not config.tie_word_embeddings:
        weights -= sum(weight.numel() for weight in model.get_input_embeddings().parameters())
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    return 6 * weights + 12 * config.num_hidden_layers * width * mean_attended


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of a GPU from its data sheet; None for other devices and for float32.

    A measured peak would be too low under load, and MFU could exceed 100%.
    """
    is_16_bit_gpu = device.type == "cuda" and dtype != torch.float32
    return data_sheet_flops(torch.cuda.get_device_name(device)) if is_16_bit_gpu else None


def data_sheet_flops(name: str) -> float | None:
    """The entry of `PEAK_FLOPS` for a device name such as "NVIDIA H100 80GB HBM3"; None if there is none."""
    return next((flops for gpu, flops in PEAK_FLOPS.items() if re.search(rf"\b{gpu}\b(?! Laptop)", name)), None)


def logged_seconds(log_history: list[dict]) -> float:
    """Seconds of training in all sessions of a run, evaluations included, from its log history."""
    return max((entry["seconds"] for entry in log_history if "seconds" in entry), default=0.0)


def rows_per_step(args: TrainingArguments) -> int:
    """Rows of one optimizer step, over all processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


class ThroughputCallback(TrainerCallback):
    """Measures tokens per second and MFU since the last reading, without evaluations and checkpoints.

    Args:
        rows: the training data; its `tokens_per_row` and `mean_attended` are used.
    """

    def __init__(self, rows: PackedStories | PackedStream):
        self._rows = rows
        self._per_step: dict[str, float] | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        tokens = rows_per_step(args) * self._rows.tokens_per_row
        self._per_step = {"tokens_per_second": tokens}
        if peak := peak_flops(args.device, dtype):
            devices = args.world_size * max(1, args.n_gpu)
            flops = tokens * training_flops_per_token(model, self._rows.mean_attended)
            self._per_step["mfu"] = flops / (devices * peak)
        self._step, self._since, self._paused = state.global_step, time.perf_counter(), 0.0
        self._began = self._since - logged_seconds(state.log_history)

    def seconds(self) -> float:
        """Seconds of training in all sessions of the run, evaluations included."""
        return 0.0 if self._per_step is None else round(time.perf_counter() - self._began, 1)

    def read(self, step: int) -> dict[str, float]:
        """`tokens_per_second` (without padding) since the last reading, and `mfu` (0 to 1) on a known GPU."""
        if self._per_step is None or step <= self._step:
            return {}
        now = time.perf_counter()
        steps_per_second = (step - self._step) / max(1e-9, now - self._since - self._paused)
        self._step, self._since, self._paused = step, now, 0.0
        return {name: amount * steps_per_second for name, amount in self._per_step.items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._per_step is not None:
                self._paused += time.perf_counter() - began
