"""Choose a recipe for a text, a machine and a number of minutes: `tinystories train my_stories.txt --minutes 20`.

- The cost of a step is that of its floating point operations plus a fixed time per layer. Both are measured on the
  machine (`training/speed.py`), so that the number of tokens that a shape can be trained on in the minutes is known.
- `expected_bits_per_byte` is a scaling law in parameters, bytes seen and bytes of text. Its constants were fitted to
  runs on TinyStories, those in benchmarks/sweep.jsonl, benchmarks/RACE.md and published ones; on other text, the
  values differ.
- The plan has the shape, the vocabulary and the batch with the lowest expected loss. Learning rate, weight decay and
  dropout are smooth functions of the width and the epochs. `docs/training.md` has the measurements.

Nothing is read or measured here: the same arguments give the same plan.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..sizes import SIZES
from ..utils.console import counted
from .optimizers import ITERATIONS


class Text(NamedTuple):
    """The properties of the stories that a plan depends on.

    Attributes:
        size: UTF-8 bytes, the stories to be held out included.
        stories: their number.
        long_story: bytes of a long one, the 95th percentile.
        has_validation: whether the source has validation stories of its own, so that none are held out.
    """

    size: int
    stories: int
    long_story: int = 1_700
    has_validation: bool = False

    @classmethod
    def of(cls, lengths: np.ndarray, has_validation: bool) -> "Text":
        """The properties of stories of `lengths` `[stories]` UTF-8 bytes."""
        return cls(int(lengths.sum()), len(lengths), int(np.quantile(lengths, LONG)), has_validation)


class Speed(NamedTuple):
    """The speed of training steps: `flops / flops_per_second + layers * seconds_per_layer` seconds each.

    The default is that of two idle AVX2 cores: in benchmarks/RACE.md, 1,368 steps of 1,536 tokens of 128 x 4 with a
    vocabulary of 4,096 take 280 s.
    """

    flops_per_second: float = 100e9
    seconds_per_layer: float = 0.003

    def seconds_per_step(self, flops: float, layers: int) -> float:
        return flops / self.flops_per_second + self.seconds_per_layer * layers


class Shape(NamedTuple):
    """Width, inner width of the MLP, layers and heads of a model."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int

    @property
    def parameters(self) -> int:
        """Those of the layers, without the embedding."""
        return self.num_hidden_layers * self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size)

    def flops_per_step(self, vocab_size: int, tokens: float) -> float:
        """Operations of a step on `tokens` tokens: both passes over stories of typical length, and Muon."""
        hidden, inner, layers = self.hidden_size, self.intermediate_size, self.num_hidden_layers
        per_token = 6 * self.parameters + 12 * layers * hidden * MEAN_ATTENDED + HEAD_COST * 6 * vocab_size * hidden
        square, wide = 6 * hidden**3, 2 * hidden**2 * (2 * inner + hidden)
        return tokens * per_token + layers * ITERATIONS * (4 * square + 3 * wide)


LONG = 0.95  # fraction of the stories that should fit into the context
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FEW_ROWS = 100  # of a text; with more of them, steps of one row were worse than steps of two
VOCABULARIES = (512, 1_024, 2_048, 4_096, 10_000)
HEAD_COST = 1.6  # time of an operation of the head, with its softmax, relative to one of the layers
MEAN_ATTENDED = 120  # positions that a token of TinyStories attends to
SHAPES = (
    Shape(64, 192, 3, 1),
    Shape(96, 288, 4, 3),
    *(Shape(**{name: size[name] for name in Shape._fields}) for size in SIZES.values()),
)
# The scaling law; see `expected_bits_per_byte`.
IRREDUCIBLE = 0.077
DATA, DATA_POWER = 1.288, 0.216  # for a million bytes
MODEL, MODEL_POWER = 0.525, 0.257  # for a million parameters
SHARPNESS = 4  # order of the norm that combines the two terms: 1 is their sum, infinity their maximum
REPETITIONS = 3.1  # epochs after which repeated text has lost most of its value
VOCABULARY_POWER = 0.349  # a vocabulary twice as large is worth 27% more text
# A batch of this many times the square root of all tokens needs twice the text of a small one (arXiv 1812.06162).
CRITICAL_BATCH, SMALL_BATCH = 15, 1.16
UNTRAINED = 4.0  # bits per byte after a few steps

# The largest model that was measured on 13 MB of text, in parameters of the layers, and its growth with the text.
LARGEST, LARGEST_POWER = 25e6, 0.6
USEFUL_EPOCHS = 20  # more of them do not improve the model
MIN_STEPS = 100
ROW_FRACTION = 1.5  # row length by context length, with which rows of stories have no padding
MAX_HELD_OUT = 400  # their bits per byte are known to about 2%
FEW_HELD_OUT = 20
FULL_TIME = 0.9  # of the minutes: a run that needs less of them is shortened
ENOUGH_STORIES = 2  # stories that are read, as a multiple of those seen in training
EVALUATIONS = 8
EVALUATION_TIME = 0.03  # of the minutes
SECONDS_PER_EVALUATION = 1.5  # its checkpoint and its sample story
WARMUP = 0.04  # of the time
COPY_INIT_WIDTH = 128  # up to which `copy_init` was measured, and helped (benchmarks/RACE.md)
MORE_TIME_HELPS = 0.01  # of the bits per byte, for twice the minutes
FINE_TUNING_BYTES = 500e3  # up to which fine-tuning the built-in model was better (docs/finetuning.md)
ABOUT_AS_GOOD = 0.005  # of the bits per byte; of such models, the smallest generates fastest


@dataclass(frozen=True)
class Plan:
    """The settings of a run, and what to expect of it.

    Attributes:
        minutes: of training; fewer than requested if the text is too small to use them.
        batch_rows: packed rows per step.
        tokens: seen in training, repetitions included.
        held_out: number of validation stories.
        evaluations: during training; one more follows at its end.
        bits_per_byte: expected on held-out stories, for text like TinyStories.
        with_twice_the_minutes: the same for twice as many minutes.
    """

    text: Text
    asked_minutes: float
    minutes: float
    shape: Shape
    vocab_size: int
    max_length: int
    batch_rows: int
    steps: int
    tokens: int
    epochs: float
    learning_rate: float
    weight_decay: float
    dropout: float
    held_out: int
    evaluations: int
    compiles: bool
    bits_per_byte: float
    with_twice_the_minutes: float

    @property
    def row_length(self) -> int:
        return round(self.max_length * ROW_FRACTION)

    @property
    def parameters(self) -> int:
        return self.shape.parameters + self.vocab_size * self.shape.hidden_size

    def recipe(self) -> dict[str, Any]:
        """The plan as the content of a recipe, without corpus and output folder."""
        every = max(1, self.steps // (self.evaluations + 1))
        return {
            "max_stories": self.stories_to_read(self.text, self.epochs),
            "max_validation_stories": MAX_HELD_OUT,
            "validation_fraction": self.fraction_to_hold_out(self.text, self.held_out),
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "row_length": self.row_length,
            "optimizer": "muon",
            "zero_init_residual": True,
            "copy_init": 1.0 if self.shape.hidden_size <= COPY_INIT_WIDTH else None,
            "max_minutes": self.minutes,
            "model": {
                **self.shape._asdict(),
                "partial_rotary_factor": 0.5,
                "initializer_range": round(min(0.04, 0.04 * math.sqrt(128 / self.shape.hidden_size)), 4),
                "resid_pdrop": self.dropout,
                "embd_pdrop": self.dropout,
            },
            "trainer": {
                "per_device_train_batch_size": self.batch_rows,
                "per_device_eval_batch_size": max(8, self.batch_rows),
                "learning_rate": self.learning_rate,
                "lr_scheduler_type": "linear",
                "lr_scheduler_kwargs": {"min_lr_rate": 0.0},
                "warmup_steps": WARMUP,
                "weight_decay": self.weight_decay,
                "adam_beta1": 0.9,
                "adam_beta2": 0.99,
                "max_grad_norm": 1.0,
                "bf16": "auto",
                "torch_compile": self.compiles,
                "eval_strategy": "steps" if self.evaluations else "no",
                "eval_steps": every,
                "logging_steps": max(1, min(50, self.steps // 20)),
                "seed": 42,
            },
        }

    @staticmethod
    def stories_to_read(text: Text, epochs: float) -> int | None:
        """Twice the number of stories seen in training, or None for all if the text is not much larger."""
        needed = math.ceil(ENOUGH_STORIES * epochs * text.stories)
        return needed if ENOUGH_STORIES * needed < text.stories else None

    @staticmethod
    def fraction_to_hold_out(text: Text, held_out: int) -> float:
        """`validation_fraction` for a number of stories."""
        return float(f"{max(min(0.5, held_out / max(1, text.stories)), 1e-6):.3g}")

    def reasons(self) -> list[str]:
        """What was chosen and why, in five lines."""
        shape, text = self.shape, self.text
        epochs = f"{self.epochs:.2g} epochs" if self.epochs < 100 else f"{self.epochs:.0f} epochs"
        read = self.stories_to_read(self.text, self.epochs)
        if read is not None:
            epochs += f" of all stories, of which the first {read:,} are read,"
        regularised = (
            f"weight decay {self.weight_decay:g}, dropout {self.dropout:g}, against memorisation"
            if self.dropout
            else f"weight decay {self.weight_decay:g}, no dropout, because the text repeats too rarely to be memorised"
        )
        return [
            f"model       hidden size {shape.hidden_size}, {shape.num_hidden_layers} layers, "
            f"{in_millions(self.parameters)} parameters: the lowest expected loss of {len(SHAPES)} shapes after "
            f"{in_millions(self.tokens)} tokens",
            f"vocabulary  {self.vocab_size:,} for {in_megabytes(text.size)} of text; context {self.max_length}, rows "
            f"of {self.row_length} tokens, for stories of up to {text.long_story:,} bytes",
            f"batch       {counted(self.batch_rows, 'row')}, {self.batch_rows * self.row_length:,} tokens, so that "
            f"the time allows about {self.steps:,} steps; learning rate {self.learning_rate:.2g} for this width, "
            f"warm-up {WARMUP:.0%} of the time",
            f"epochs      about {epochs} in {in_minutes(self.minutes)}: {regularised}",
            f"held out    {held_out_text(text, self.held_out)}",
        ]

    def advice(self) -> list[str]:
        """What to expect, and what would help more: minutes or text."""
        lines = [
            f"Expected: about {self.bits_per_byte:.2f} bits per byte, if the text is like TinyStories "
            f"({self.with_twice_the_minutes:.2f} with twice the minutes)."
        ]
        if self.minutes < self.asked_minutes:
            lines.append(
                f"{in_minutes(self.asked_minutes)} are too long for {in_megabytes(self.text.size)} of text: "
                f"training takes {in_minutes(self.minutes)}, after which the model would only memorise. More text "
                f"would help."
            )
        elif self.bits_per_byte - self.with_twice_the_minutes < MORE_TIME_HELPS * self.bits_per_byte:
            lines.append("More minutes would hardly help; more text would.")
        if not self.text.has_validation and self.held_out < FEW_HELD_OUT:
            lines.append(
                f"Only {counted(self.held_out, 'story')} could be held out: bits per byte will be uncertain by about "
                f"{_precision(self.held_out):.0%}. Use more stories, or --validation_corpus."
            )
        if self.text.size <= FINE_TUNING_BYTES:
            lines.append(
                f"With up to {in_megabytes(FINE_TUNING_BYTES)} of text, fine-tuning the built-in model gives lower "
                f"bits per byte: add --init_from builtin (docs/finetuning.md has figures)."
            )
        return lines


def make_plan(
    text: Text,
    minutes: float,
    speed: Speed | None = None,
    *,
    bytes_per_token: float | None = None,
    gpu: bool = False,
    fixed_shape: Shape | None = None,
    vocab_size: int | None = None,
) -> Plan:
    """The smallest shape whose expected bits per byte are close to the lowest.

    Args:
        minutes: of training.
        speed: of this machine.
        bytes_per_token: measured; by default that of TinyStories with the vocabulary.
        fixed_shape, vocab_size: those that the user chose.
    """
    sizes = vocabulary_sizes(text.size) if vocab_size is None else [vocab_size]
    largest = LARGEST * (text.size / 13e6) ** LARGEST_POWER
    shapes = [each for each in SHAPES if each.parameters <= largest] or [SHAPES[0]]
    plans = [
        _plan(shape, text, minutes, speed or Speed(), size, bytes_per_token or bytes_per_token_for(size), gpu)
        for shape in (shapes if fixed_shape is None else [fixed_shape])
        for size in sizes
    ]
    plans.sort(key=lambda plan: plan.parameters)
    best = min(plans, key=lambda plan: plan.bits_per_byte)
    if best.minutes < minutes:
        return best  # with time to spare, nothing is gained by a smaller model
    return next(plan for plan in plans if plan.bits_per_byte <= (1 + ABOUT_AS_GOOD) * best.bits_per_byte)


def expected_bits_per_byte(
    parameters: float, seen: float, unique: float, vocab_size: int = 4_096, batch: float = 0, tokens: float = 1
) -> float:
    """The scaling law: bits per byte on held-out stories like those of TinyStories.

    Each further epoch is worth less than the one before (the form of arXiv 2305.16264). With the same text, a larger
    vocabulary is better, because a token then represents more text, which the model need not learn to spell.

    Args:
        parameters: of the layers.
        seen: bytes of training, repetitions included.
        unique: bytes of the training text.
        batch, tokens: tokens per step and of the run; a larger batch learns less from the same text.
    """
    repeated = max(0.0, seen / unique - 1)
    worth = min(seen, unique) + unique * REPETITIONS * -math.expm1(-repeated / REPETITIONS)
    worth *= (vocab_size / 4_096) ** VOCABULARY_POWER
    worth *= SMALL_BATCH / (1 + batch / (CRITICAL_BATCH * math.sqrt(tokens)))
    data, model = DATA * (worth / 1e6) ** -DATA_POWER, MODEL * (parameters / 1e6) ** -MODEL_POWER
    return min(UNTRAINED, IRREDUCIBLE + (data**SHARPNESS + model**SHARPNESS) ** (1 / SHARPNESS))


def vocabulary_sizes(size: int) -> list[int]:
    """The vocabularies that a text of `size` bytes can fill: 1,024 for 80 KB, twice that for 3.5 times the text.

    In a larger one, many tokens would occur too rarely to be learnt.
    """
    largest = 1_024 * 2 ** round(math.log(max(1, size) / 80e3, 3.5))
    return [each for each in VOCABULARIES if each <= max(1.25 * largest, VOCABULARIES[0])]


def bytes_per_token_for(vocab_size: int) -> float:
    """Bytes per token of TinyStories: 2.4 with 512 entries, 4.1 with 10,000."""
    return min(4.2, 2.45 + 0.55 * math.log2(max(2, vocab_size) / 512) ** 0.9 if vocab_size > 512 else 2.4)


def held_out_stories(stories: int) -> int:
    """The number of stories to hold out: a tenth of a small corpus, a smaller fraction of a large one."""
    return max(1, min(MAX_HELD_OUT, round(stories / 10), round(2 * math.sqrt(stories))))


def _plan(
    shape: Shape, text: Text, minutes: float, speed: Speed, vocab_size: int, bytes_per_token: float, gpu: bool
) -> Plan:
    max_length = 512 if text.long_story / bytes_per_token > 192 else 256
    held_out = held_out_stories(text.stories)
    unique = max(1.0, text.size * (1 - (0 if text.has_validation else held_out / max(2, text.stories))))
    row = max_length * ROW_FRACTION
    rows_of_text = max(1, math.ceil(unique / bytes_per_token / row))

    useful = max(row * MIN_STEPS, USEFUL_EPOCHS * unique / bytes_per_token)

    def seconds_per_step(rows: int) -> float:
        flops = shape.flops_per_step(vocab_size, row * rows)
        return speed.seconds_per_step(flops, shape.num_hidden_layers)

    def run_of(minutes: float, rows: int) -> tuple[float, int, float]:
        """Expected loss, steps and tokens of a run of at most `minutes`."""
        seconds = minutes * 60 * (1 - EVALUATION_TIME)
        steps = max(1, int(min(seconds / seconds_per_step(rows), math.ceil(useful / row / rows))))
        tokens = steps * rows * row
        seen, batch = tokens * bytes_per_token, rows * row
        return expected_bits_per_byte(shape.parameters, seen, unique, vocab_size, batch, tokens), steps, tokens

    def best_rows(minutes: float) -> int:
        """Rows of the best batch; if the text and not the time is the limit, of the largest that is about as good."""
        least = ROWS[0] if rows_of_text < FEW_ROWS else ROWS[1]
        runs = {rows: run_of(minutes, rows) for rows in ROWS if least <= rows <= max(least, rows_of_text)}
        losses = {rows: loss for rows, (loss, steps, _) in runs.items() if rows == least or steps >= MIN_STEPS}
        best = min(losses, key=losses.__getitem__)
        good = [rows for rows, loss in losses.items() if loss <= (1 + ABOUT_AS_GOOD) * losses[best]]
        return best if runs[best][2] < useful else good[-1]

    rows = best_rows(minutes)
    loss, steps, tokens = run_of(minutes, rows)
    used = steps * seconds_per_step(rows) / 60 / (1 - EVALUATION_TIME)
    is_cut = tokens >= useful and used < FULL_TIME * minutes
    epochs = tokens * bytes_per_token / unique
    evaluation = held_out * text.size / max(1, text.stories) / bytes_per_token / 3  # in tokens of training
    most = 60 * used * EVALUATION_TIME / SECONDS_PER_EVALUATION
    evaluations = int(min(EVALUATIONS, EVALUATION_TIME * tokens / max(1.0, evaluation), most, steps // 4))
    return Plan(
        text=text,
        asked_minutes=minutes,
        minutes=float(f"{used:.2g}") if is_cut else minutes,
        shape=shape,
        vocab_size=vocab_size,
        max_length=max_length,
        batch_rows=rows,
        steps=steps,
        tokens=round(tokens),
        epochs=epochs,
        learning_rate=float(f"{1e-2 * min(1.0, math.sqrt(128 / shape.hidden_size)):.2g}"),
        weight_decay=_weight_decay(epochs),
        dropout=_dropout(epochs),
        held_out=held_out,
        evaluations=evaluations,
        compiles=gpu and minutes >= 3,
        bits_per_byte=loss,
        with_twice_the_minutes=run_of(2 * minutes, best_rows(2 * minutes))[0],
    )


def _weight_decay(epochs: float) -> float:
    """0.1 up to three epochs, 0.6 for eight, 2 from 16 on."""
    return float(f"{min(2.0, max(0.1, 0.1 * (epochs / 2.8) ** 1.75)):.2g}")


def _dropout(epochs: float) -> float:
    """None up to four epochs, 0.1 for eight, 0.2 for 16."""
    return round(min(0.3, max(0.0, 0.1 * math.log2(max(1.0, epochs) / 4))), 2)


def held_out_text(text: Text, held_out: int) -> str:
    """The held-out stories, and how precise bits per byte on them are."""
    if text.has_validation:
        return f"up to {MAX_HELD_OUT} stories of the corpus's own validation split"
    number = f"{counted(held_out, 'story')} of {text.stories:,}"
    return f"{number}, enough for bits per byte within about {_precision(held_out):.0%}"


def _precision(held_out: int) -> float:
    """Half the width of the 95% interval of bits per byte, relative; 0.13 for one story of TinyStories."""
    return 0.13 * 1.96 / math.sqrt(max(1, held_out))


def in_millions(number: float) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e5 else f"{number:,.0f}"


def in_megabytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:,.0f} bytes"


def in_minutes(minutes: float) -> str:
    return "1 minute" if minutes == 1 else f"{minutes:g} minutes"
