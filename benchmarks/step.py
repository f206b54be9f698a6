"""Speed of a single training step of a recipe's model, compared with a plain `LlamaForCausalLM` of the same shape.

    python benchmarks/step.py --corpus FOLDER --rows 64 --stories 256    # for a large GPU
    python benchmarks/step.py --recipe quickstart --rows 4 --stories 16  # for a CPU

A step is forward, backward, gradient clipping and fused AdamW, without `Trainer` and without data loading.

- `stock`: `LlamaForCausalLM`, one story per row, padded by `DataCollatorForLanguageModeling`.
- `stock-packed`: the same on packed rows, with a document mask.
- `ours`: the recipe's model on packed rows, with `story_varlen` attention and the loss computed in chunks.
- `ours-masked`: the same with a document mask instead of variable-length attention.
- `ours-unmasked`: the same without document masking. The difference to `ours` is the cost of document masking.
- `-compiled` after any of these: with `torch.compile`.

The variants alternate in each round. Speeds are in story tokens per second; padding is not counted.
"""

import argparse
import random
import statistics
from contextlib import nullcontext

import torch
from contenders import Contenders, now
from transformers import DataCollatorForLanguageModeling, default_data_collator

from tinystories.training.kernels.head_loss import head_loss
from tinystories.training.packed_attention import packed_attention
from tinystories.utils.console import print_any_character


VARIANTS = "ours-compiled,ours,ours-masked,ours-unmasked,stock-compiled,stock-packed,stock"
WARM_UP = 3


class Step:
    """A model, its optimizer and one batch, which every step uses."""

    def __init__(self, setup: Contenders, variant: str, batches: dict[str, dict[str, torch.Tensor]]):
        kind, *modes = variant.split("-")
        self.setup = setup
        self.model = setup.ours if kind == "ours" else setup.stock
        self.ours, self.masked = kind == "ours", "masked" in modes
        packed = kind == "ours" or "packed" in modes
        self.batch = dict(batches["packed" if packed else "padded"])
        if "unmasked" in modes:
            del self.batch["position_ids"]
        self.tokens = int((self.batch["input_ids"] != setup.tokenizer.pad_token_id).sum())
        compiled = torch.compile if "compiled" in modes else lambda function: function
        self.forward, self.head_loss = compiled(self.model), compiled(head_loss)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self, count: int = 1) -> float:
        """Run `count` steps and return their seconds."""
        device = self.setup.device
        began = now(device)
        for _ in range(count):
            with packed_attention(self.model) if self.ours and not self.masked else nullcontext():
                with torch.autocast(device.type, torch.bfloat16, enabled=self.setup.bf16):
                    loss = self.loss()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return now(device) - began

    def loss(self) -> torch.Tensor:
        """As `StoryTrainer` or the model computes it."""
        if not self.ours:
            return self.forward(**self.batch, use_cache=False).loss
        inputs = {name: value for name, value in self.batch.items() if name != "labels"}
        labels, none = self.batch["labels"], torch.empty(0, dtype=torch.long, device=self.setup.device)
        states = self.forward(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=none).hidden_states
        return self.head_loss(states[-1], self.model.lm_head, labels) / (labels[:, 1:] != -100).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tinystories-24m", help="name or file (default: tinystories-24m)")
    parser.add_argument("--corpus", default="sample", help="stories to train on (default: sample)")
    parser.add_argument("--variants", default=VARIANTS, help="comma-separated; ratios are relative to the last")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each variant in each round (default: 5)")
    parser.add_argument("--rows", type=int, default=8, help="packed rows per step (default: 8)")
    parser.add_argument("--stories", type=int, default=32, help="padded stories per step (default: 32)")
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()

    setup = Contenders.of(options.recipe, options.corpus)
    setup.ours.to(setup.device).train()
    setup.stock.to(setup.device).train()
    picked = random.Random(0)
    rows = setup.rows.__getitems__(picked.sample(range(len(setup.rows)), options.rows))
    stories = [setup.stories[index] for index in picked.sample(range(len(setup.stories)), options.stories)]
    batches = {
        "packed": default_data_collator(rows),
        "padded": dict(DataCollatorForLanguageModeling(setup.tokenizer, mlm=False)(stories)),
    }
    batches = {name: {key: value.to(setup.device) for key, value in batch.items()} for name, batch in batches.items()}

    setup.measure_peak()
    variants = options.variants.split(",")
    steps = {variant: Step(setup, variant, batches) for variant in variants}
    for variant, step in steps.items():
        print(f"{variant}: the first {WARM_UP} steps took {step(WARM_UP):.1f} s", flush=True)
    seconds = {variant: [] for variant in variants}
    for number in range(options.rounds):
        for variant in variants if number % 2 == 0 else variants[::-1]:
            seconds[variant].append(steps[variant](options.steps) / options.steps)
    speeds = {variant: [steps[variant].tokens / each for each in seconds[variant]] for variant in variants}

    setup.report(
        f"{options.recipe}, {setup.ours.num_parameters():,} parameters, {'bf16' if setup.bf16 else 'float32'}, "
        f"{options.rounds} x {options.steps} steps each, without data loading",
        speeds,
        options.json,
    )
    times = ", ".join(f"{variant} {statistics.median(each) * 1e3:,.1f}" for variant, each in seconds.items())
    print(f"\nmilliseconds per step: {times}")


if __name__ == "__main__":
    print_any_character()
    main()
