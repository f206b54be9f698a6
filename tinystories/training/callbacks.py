"""Callbacks: progress bar, CSV log, loss plot, a sample at each evaluation, exponential moving average of weights."""

import csv
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, ProgressCallback, TrainerCallback

from ..generation.generate import generate_story
from ..generation.prompts import encode_prompt
from ..runs.run_folder import LOSS_PLOT
from ..utils.errors import first_line
from ..utils.plots import plot_loss
from ..utils.random_state import preserved_random_state
from .coherence import KINDS
from .time_limit import TimeLimitCallback


LOG_NAME = "log.csv"
STORIES_NAME = "stories.jsonl"
PLOT_SECONDS = 30  # drawing takes a third of a second
SAMPLE_TOKENS = 160

_unwritable: set[Path] = set()


@contextmanager
def replaced_if_possible(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` after the block.

    If that fails, training continues after one warning: Windows locks files that are open in a spreadsheet.
    """
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
        _unwritable.discard(path)
    except OSError as error:
        if path not in _unwritable:
            _unwritable.add(path)
            print(f"note: {path} cannot be written ({first_line(error)}); training continues.", file=sys.stderr)


class TrainingProgressCallback(ProgressCallback):
    """A bar with loss, learning rate, tokens per second, MFU on known GPUs, and remaining time; a line for each
    evaluation.

    Args:
        limit: of a run with a time limit, whose bar counts seconds instead of steps.
    """

    def __init__(self, limit: TimeLimitCallback | None = None) -> None:
        super().__init__()
        self.limit = limit

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        bar = self.training_bar
        if bar is None:
            return
        # In a log file, every update of the bar is a line.
        bar.mininterval = 0.5 if sys.stderr.isatty() else 30.0
        bar.set_description("Training")
        # Otherwise the steps of earlier sessions would count as made in this one, and the remaining time be wrong.
        bar.initial = bar.n = self.current_step = state.global_step
        if self.limit is not None:
            bar.initial = bar.n = round(self.limit.elapsed)
            bar.total = round(self.limit.seconds)
            bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} s [{remaining} left{postfix}]"

    def on_step_end(self, args, state, control, **kwargs):
        if self.limit is None or self.training_bar is None:
            super().on_step_end(args, state, control, **kwargs)
        else:
            self.training_bar.update(min(round(self.limit.elapsed), self.training_bar.total) - self.training_bar.n)

    def on_prediction_step(self, args, state, control, **kwargs):
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        step = f"step {state.global_step:>6}" + ("" if self.limit else f"/{state.max_steps}")
        if "loss" in logs and "learning_rate" in logs:
            figures = [f"loss {float(logs['loss']):.4f}", f"lr {float(logs['learning_rate']):.2e}"]
            if "tokens_per_second" in logs:
                figures.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
            if "mfu" in logs:
                figures.append(f"MFU {logs['mfu']:.0%}")
            self.training_bar.set_postfix_str(", ".join(figures), refresh=False)
            self.training_bar.write(f"{step}  {'  '.join(figures)}")
        elif "eval_bits_per_byte" in logs:
            by_class = ", ".join(
                f"{name.replace('_', ' ')} {logs[key]:.3f}"
                for name in ("articles", "function_words", "other_words")
                if (key := f"eval_nats_per_token_{name}") in logs
            )
            kinds = [(kind, logs[key]) for kind in KINDS if (key := f"eval_{kind}_accuracy") in logs]
            coherence = ", ".join(f"{kind} {rate:.0%}" for kind, rate in kinds)
            old = logs.get("eval_old_bits_per_byte")
            self.training_bar.write(
                f"{step}  validation: {logs['eval_bits_per_byte']:.4f} bits per byte, "
                f"{logs['eval_nats_per_token']:.3f} nats per token ({by_class})"
                + (f"; coherence: {coherence}" if kinds else "")
                + ("" if old is None else f"; old stories: {old:.4f} bits per byte")
            )


class CSVLogCallback(TrainerCallback):
    """Writes `log.csv` in the run folder: a row for each logged step, a column for each value.

    The file is rewritten from the log history each time, so a resumed run has each step once.
    """

    def on_log(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        rows = {}
        for entry in state.log_history:
            rows.setdefault(entry["step"], {"step": entry["step"], "epoch": entry.get("epoch")}).update(entry)
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with replaced_if_possible(Path(args.output_dir) / LOG_NAME) as partial:
            with partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows[step] for step in sorted(rows))


class LossPlotCallback(TrainerCallback):
    """Plots `loss.png` in the run folder at evaluations, at most every half minute, and after training."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PLOT_SECONDS

    def on_train_end(self, args, state, control, **kwargs):
        self._next = 0.0

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero and time.monotonic() >= self._next:
            self._next = time.monotonic() + PLOT_SECONDS
            with replaced_if_possible(Path(args.output_dir) / LOSS_PLOT) as partial:
                plot_loss(state.log_history, partial)


class SampleCallback(TrainerCallback):
    """Generates a sample at each evaluation, prints it and appends it to `stories.jsonl` in the run folder."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: str, preset: str, seed: int):
        self.tokenizer, self.prompt, self.preset, self.seed = tokenizer, prompt, preset, seed

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero or not state.global_step or state.global_step >= state.max_steps:
            return
        remaining = model.config.max_position_embeddings - len(encode_prompt(self.tokenizer, self.prompt))
        settings = {"preset": self.preset, "seed": self.seed, "max_new_tokens": min(SAMPLE_TOKENS, remaining)}
        with preserved_random_state():
            story = generate_story(model, self.tokenizer, self.prompt, **settings)
        path = Path(args.output_dir) / STORIES_NAME
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        # A resumed run replaces the samples of the steps that it repeats.
        samples = [sample for line in lines if (sample := json.loads(line))["step"] < state.global_step]
        samples.append({"step": state.global_step, "prompt": self.prompt, "story": story})
        with replaced_if_possible(path) as partial:
            partial.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), "utf-8")
        if not args.disable_tqdm:
            print(f"    {' '.join(story.split())}", file=sys.stderr)


class EMACallback(TrainerCallback):
    """An exponential moving average of the weights, in fp32.

    After step t (from 1) the average moves by `1 - min(decay, (1 + t) / (10 + t))` towards the weights, so that the
    first steps soon lose their influence, as in TensorFlow's `ExponentialMovingAverage`. (torch's `AveragedModel` has
    no such warm-up, and cannot swap its weights with those of the model that `Trainer` evaluates and saves.)
    """

    def __init__(self, decay: float):
        self.decay = decay
        self._average: list[torch.Tensor] | None = None

    def begin(self, model: torch.nn.Module) -> None:
        """Start the average at the weights of the model."""
        self._average = [weight.detach().clone() for weight in model.parameters()]

    def forget(self) -> None:
        """Drop the average, so that the weights of the model are used unchanged."""
        self._average = None

    @torch.no_grad()
    def swap(self, model: torch.nn.Module) -> None:
        """Swap the weights of the model with the average, in place."""
        if self._average is not None:
            for weight, average in zip(model.parameters(), self._average, strict=True):
                kept = weight.clone()
                weight.copy_(average)
                average.copy_(kept)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if self._average is None:
            self.begin(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        step = state.global_step
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [weight.detach() for weight in model.parameters()], weight)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.swap(model)
        self.forget()
