"""Choose a recipe for `tinystories train my_stories.txt --init_from MODEL --minutes 2`.

Shape and vocabulary are those of the model. What remains to be chosen are the number of epochs, the batch, the
learning rate and the held-out stories. The scaling law of `training/plan.py` does not apply: what a model gains
depends on how far the stories are from those that it was trained on. docs/finetuning.md has the measurements behind
the constants.
"""

import math
from dataclasses import dataclass
from typing import Any

from ..utils.console import counted
from .plan import (
    EVALUATION_TIME,
    FEW_HELD_OUT,
    MAX_HELD_OUT,
    ROW_FRACTION,
    ROWS,
    SECONDS_PER_EVALUATION,
    WARMUP,
    Plan,
    Shape,
    Speed,
    Text,
    held_out_stories,
    held_out_text,
    in_megabytes,
    in_millions,
    in_minutes,
)


EPOCHS = 6  # after which validation rises or stands still
STEPS = 150  # that a run should have; with fewer, smaller batches are better
LEAST_ROWS, MOST_ROWS = 1, 16
# Of AdamW, for a width of 192: the best of 3e-4, 1e-3 and 3e-3 is 1e-3 for 35 KB of text and 3e-3 for 350 KB.
LEARNING_RATE, HIGHEST_RATE, TEXT = 1e-3, 3e-3, 35e3
WIDTH = 192
LEAST_EVALUATIONS, MOST_EVALUATIONS = 4, 8  # the best weights are kept
LENGTHS = (256, 512, 1_024, 2_048)
FILL = 0.95  # of the context by a long story


@dataclass(frozen=True)
class FineTuningPlan:
    """The settings of a fine-tuning run.

    Attributes:
        minutes: of training; fewer than requested if the text is too small to use them.
        batch_rows: packed rows per step.
    """

    text: Text
    asked_minutes: float
    minutes: float
    model: str
    parameters: int
    max_length: int
    batch_rows: int
    steps: int
    epochs: float
    learning_rate: float
    held_out: int
    evaluations: int

    @property
    def row_length(self) -> int:
        return round(self.max_length * ROW_FRACTION)

    def recipe(self) -> dict[str, Any]:
        """The plan as the content of a recipe, without corpus and output folder."""
        return {
            "init_from": self.model,
            "max_stories": Plan.stories_to_read(self.text, self.epochs),
            "max_validation_stories": MAX_HELD_OUT,
            "validation_fraction": Plan.fraction_to_hold_out(self.text, self.held_out),
            "max_length": self.max_length,
            "row_length": self.row_length,
            "optimizer": "adamw",
            "max_minutes": self.minutes,
            "model": {},
            "trainer": {
                "per_device_train_batch_size": self.batch_rows,
                "per_device_eval_batch_size": 8,
                "learning_rate": self.learning_rate,
                "lr_scheduler_type": "linear",
                "lr_scheduler_kwargs": {"min_lr_rate": 0.0},
                "warmup_steps": WARMUP,
                "weight_decay": 0.1,
                "adam_beta1": 0.9,
                "adam_beta2": 0.99,
                "max_grad_norm": 1.0,
                "bf16": "auto",
                "eval_strategy": "steps",
                "eval_steps": max(1, self.steps // (self.evaluations + 1)),
                "logging_steps": max(1, min(50, self.steps // 20)),
                "seed": 42,
            },
        }

    def reasons(self) -> list[str]:
        """What was chosen and why, in five lines."""
        epochs = f"{self.epochs:.2g} epochs" if self.epochs < 100 else f"{self.epochs:.0f} epochs"
        return [
            f"model       {self.model}, {in_millions(self.parameters)} parameters; its shape, vocabulary and "
            f"tokenizer "
            f"are kept",
            f"rate        learning rate {self.learning_rate:.2g} of AdamW, lower than from scratch, to keep what the "
            f"model has learned",
            f"batch       {counted(self.batch_rows, 'row')}, {self.batch_rows * self.row_length:,} tokens, about "
            f"{self.steps:,} steps; stories of up to {self.max_length} tokens",
            f"epochs      about {epochs} in {in_minutes(self.minutes)}; {self.evaluations + 1} evaluations, the best "
            f"weights are kept",
            f"held out    {held_out_text(self.text, self.held_out)}",
        ]

    def advice(self) -> list[str]:
        """What limits the result."""
        lines = []
        if self.minutes < self.asked_minutes:
            lines.append(
                f"{in_minutes(self.asked_minutes)} are too long for {in_megabytes(self.text.size)} of text: "
                f"training takes {in_minutes(self.minutes)}, after which the model would only memorise."
            )
        if not self.text.has_validation and self.held_out < FEW_HELD_OUT:
            lines.append(
                f"Only {counted(self.held_out, 'story')} could be held out, so bits per byte will be uncertain: use "
                f"more stories, or --validation_corpus."
            )
        lines.append("The first evaluation measures the model before training: compare the later ones with it.")
        return lines


def make_fine_tuning_plan(
    text: Text,
    minutes: float,
    speed: Speed | None,
    *,
    model: str,
    shape: Shape,
    vocab_size: int,
    context: int,
    bytes_per_token: float,
) -> FineTuningPlan:
    """The settings for a model of this shape.

    Args:
        speed: of this machine.
        model: its name.
        context: its context length.
        bytes_per_token: of the stories with its tokenizer.
    """
    needed = text.long_story / bytes_per_token / FILL
    max_length = min(context, next((length for length in LENGTHS if length >= needed), LENGTHS[-1]))
    held_out = held_out_stories(text.stories)
    unique = max(1.0, text.size * (1 - (0 if text.has_validation else held_out / max(2, text.stories))))
    row = round(max_length * ROW_FRACTION)
    rows_of_text = unique / bytes_per_token / row
    speed = speed or Speed()

    def seconds_of(rows: float) -> float:
        """Of an epoch with batches of `rows`."""
        step = speed.seconds_per_step(shape.flops_per_step(vocab_size, row * rows), shape.num_hidden_layers)
        return step * rows_of_text / rows

    available = 60 * minutes * (1 - 2 * EVALUATION_TIME)
    fitting = [rows for rows in ROWS if LEAST_ROWS <= rows <= MOST_ROWS]
    steps = {rows: min(EPOCHS, available / seconds_of(rows)) * rows_of_text / rows for rows in fitting}
    rows = max((rows for rows in fitting if steps[rows] >= STEPS), default=fitting[0])
    epochs = min(EPOCHS, available / seconds_of(rows))
    used = epochs * seconds_of(rows) / (1 - 2 * EVALUATION_TIME) / 60
    number = max(1, math.floor(epochs * rows_of_text / rows))
    most = int(60 * used * EVALUATION_TIME / SECONDS_PER_EVALUATION)
    return FineTuningPlan(
        text=text,
        asked_minutes=minutes,
        minutes=float(f"{used:.2g}") if epochs == EPOCHS and used < 0.9 * minutes else minutes,
        model=model,
        parameters=shape.parameters + vocab_size * shape.hidden_size,
        max_length=max_length,
        batch_rows=rows,
        steps=number,
        epochs=epochs,
        learning_rate=_learning_rate(unique, shape.hidden_size),
        held_out=held_out,
        evaluations=min(MOST_EVALUATIONS, max(LEAST_EVALUATIONS, most), max(1, number - 1)),
    )


def _learning_rate(size: float, width: int) -> float:
    """Higher for more text, in `size` bytes, and lower for a wider model."""
    rate = min(HIGHEST_RATE, LEARNING_RATE * math.sqrt(max(1.0, size / TEXT)))
    return float(f"{rate * math.sqrt(WIDTH / max(WIDTH, width)):.2g}")
