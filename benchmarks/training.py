"""Training speed of a recipe, compared with a plain `LlamaForCausalLM` of the same shape under a plain `Trainer`.

    python benchmarks/training.py --corpus FOLDER

The variants alternate in one process for several rounds, so that other load on the machine affects all of them. Speeds
are in story tokens per second; padding is not counted.

- `ours`: the recipe's model on packed rows under `StoryTrainer`.
- `stock`: `LlamaForCausalLM`, one story per row, padded by `DataCollatorForLanguageModeling`, under `Trainer`.
- `stock-packed`: `LlamaForCausalLM` on the packed rows of `ours`, under `Trainer`.
- `ours-masked`: as `ours`, with a document mask instead of variable-length attention.
- `ours-unmasked`: as `ours`, without document masking. The difference to `ours` is the cost of document masking.
- `ours-compiled`, `stock-compiled`: with `torch.compile`.

All variants use fused AdamW and the same precision. The first steps of each round are not timed.
"""

import argparse
import tempfile
from contextlib import nullcontext

import torch
from contenders import Contenders, now
from transformers import (
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from tinystories.training.trainer import StoryTrainer
from tinystories.utils.console import print_any_character


WARM_UP = 2


class Stopwatch(TrainerCallback):
    """Seconds of the steps after the first `warm_up`. A GPU is synchronized only at both ends, so that its queue of
    kernels never runs empty in between."""

    def __init__(self, warm_up: int):
        self.warm_up, self.began, self.seconds = warm_up, 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warm_up:
            self.began = now(args.device)
        elif state.global_step == state.max_steps:
            self.seconds = now(args.device) - self.began


class TokenCountingCollator:
    """Counts the story tokens of each batch of another collator."""

    def __init__(self, collator, pad_token_id: int):
        self.collator, self.pad_token_id, self.tokens = collator, pad_token_id, []

    def __call__(self, rows):
        batch = self.collator(rows)
        self.tokens.append(int((batch["input_ids"] != self.pad_token_id).sum()))
        return batch


class MaskedTrainer(StoryTrainer):
    """With a document mask instead of packed attention."""

    def attention_context(self):
        return nullcontext()


def without_positions(rows) -> dict[str, torch.Tensor]:
    """A batch without document masking."""
    return {name: value for name, value in default_data_collator(rows).items() if name != "position_ids"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tinystories-24m", help="name or file (default: tinystories-24m)")
    parser.add_argument("--corpus", default="sample", help="stories to train on (default: sample)")
    parser.add_argument(
        "--variants",
        default="ours,stock",
        help="comma-separated; ratios are relative to the last (default: ours,stock)",
    )
    parser.add_argument("--steps", type=int, default=50, help="timed steps of each variant in total (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the steps are divided into (default: 5)")
    parser.add_argument("--rows", type=int, default=8, help="packed rows per step (default: 8)")
    parser.add_argument("--stories", type=int, default=32, help="padded stories per step (default: 32)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()

    setup = Contenders.of(options.recipe, options.corpus)
    ours, stock, rows, tokenizer = setup.ours, setup.stock, setup.rows, setup.tokenizer
    setup.measure_peak()
    steps = options.steps // options.rounds + WARM_UP

    def trainer_for(variant: str) -> tuple[Trainer, TokenCountingCollator]:
        kind, _, mode = variant.partition("-")
        packed = kind == "ours" or mode == "packed"
        collate = default_data_collator if packed else DataCollatorForLanguageModeling(tokenizer, mlm=False)
        collator = TokenCountingCollator(without_positions if mode == "unmasked" else collate, tokenizer.pad_token_id)
        args = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            max_steps=steps,
            per_device_train_batch_size=options.rows if packed else options.stories,
            learning_rate=1e-4,
            adam_beta2=0.95,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            bf16=setup.bf16,
            use_cpu=setup.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            torch_compile=mode == "compiled",
        )
        if kind == "ours":
            trainer = (MaskedTrainer if mode == "masked" else StoryTrainer)(
                model=ours,
                args=args,
                train_dataset=rows,
                eval_dataset=setup.validation_rows,
                processing_class=tokenizer,
            )
            trainer.data_collator = collator
        else:
            trainer = Trainer(
                model=stock, args=args, train_dataset=rows if packed else setup.stories, data_collator=collator
            )
        return trainer, collator

    variants = options.variants.split(",")
    speeds = {variant: [] for variant in variants}
    for round_number in range(options.rounds):
        for variant in variants if round_number % 2 == 0 else variants[::-1]:
            trainer, collator = trainer_for(variant)
            stopwatch = Stopwatch(WARM_UP)
            trainer.add_callback(stopwatch)
            trainer.train()
            speeds[variant].append(sum(collator.tokens[WARM_UP:steps]) / stopwatch.seconds)
            # Accelerate wraps `forward`; without this the next trainer would wrap it again.
            trainer.model.__dict__.pop("forward", None)
            print(f"round {round_number + 1}  {variant:15} {speeds[variant][-1]:12,.0f} story tokens/s", flush=True)

    setup.report(
        f"{options.recipe}, {ours.num_parameters():,} parameters, {options.rounds} x {steps - WARM_UP} steps each",
        speeds,
        options.json,
    )


if __name__ == "__main__":
    print_any_character()
    main()
