"""Measure the speed of training steps on this machine, with its kernels and threads, for `training/plan.py`."""

import statistics
import time
from typing import NamedTuple

import torch
from datasets import Dataset
from transformers import set_seed

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.tokenization import train_bpe

from ..data.corpus import Corpus
from ..data.packing import PackedStories
from ..recipe import Recipe
from .arguments import training_arguments
from .build import model_config, pack_corpus, recipe_tokenizer, trainer_options
from .fine_tuning import BaseModel
from .plan import Shape, Speed
from .trainer import StoryTrainer


SECONDS = 1.5  # for one measurement
MIN_STEPS, MAX_STEPS = 2, 12
MAX_FLOPS = 5e10  # of the larger batch on a CPU, about a second
MAX_ROWS, MAX_ROWS_GPU = 8, 32


class Measurement(NamedTuple):
    """The speed of a machine, and the bytes per token of the text."""

    speed: Speed
    bytes_per_token: float


def measure_speed(recipe: Recipe, stories: Dataset, base: BaseModel | None = None) -> Measurement:
    """Time real steps of a recipe's model, with one row and with several.

    Args:
        recipe: its shape, vocabulary and row length are used.
        stories: a few hundred, with the column `text`.
        base: the model to fine-tune, which is left unchanged.
    """
    arguments = training_arguments(recipe)
    arguments.torch_compile = False
    corpus = Corpus(stories, stories.select(range(1)), "a sample of the stories", stories._fingerprint)
    if base is not None:
        tokenizer = base.tokenizer
    elif recipe.tokenizer is None:
        tokenizer = train_bpe(stories["text"], recipe.vocab_size, model_max_length=recipe.max_length, progress=False)
    else:
        tokenizer = recipe_tokenizer(recipe, corpus)
    rows, few = pack_corpus(corpus, tokenizer, recipe, seed=0)
    assert isinstance(rows, PackedStories)
    state = torch.get_rng_state()
    set_seed(0)
    config = model_config(recipe, tokenizer) if base is None else base.config
    if base is None:
        # Few stories may not fill the vocabulary.
        config.vocab_size = max(config.vocab_size, recipe.vocab_size if recipe.tokenizer is None else 0)
    model = TinyLlamaForCausalLM(config)
    trainer = StoryTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=few,
        processing_class=tokenizer,
        **trainer_options(recipe),
    )
    torch.set_rng_state(state)
    config = model.config
    shape = Shape(**{name: getattr(config, name) for name in Shape._fields})

    def flops(rows_per_step: int) -> float:
        return shape.flops_per_step(config.vocab_size, rows_per_step * rows.length)

    count = MAX_ROWS_GPU if arguments.device.type == "cuda" else max(2, min(MAX_ROWS, int(MAX_FLOPS / flops(1))))
    one, several = (_seconds_per_step(trainer, rows, number) for number in (1, count))
    # The time of the further rows is that of their operations; what remains of the first is the overhead of a step.
    per_second = (flops(count) - flops(1)) / max(1e-9, several - one)
    per_second = min(max(per_second, flops(count) / several), 3 * flops(count) / several)
    overhead = max(0.0, one - flops(1) / per_second) / config.num_hidden_layers
    return Measurement(Speed(per_second, overhead), rows.bytes / rows.tokens)


def _seconds_per_step(trainer: StoryTrainer, rows: PackedStories, count: int) -> float:
    """Median seconds of several steps with `count` rows, under the load that the machine has now."""
    model, arguments = trainer.model, trainer.args
    model.train()
    optimizer = trainer.create_optimizer()
    inputs = trainer._prepare_inputs(trainer.data_collator([rows[number % len(rows)] for number in range(count)]))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= MIN_STEPS or (len(times) < MAX_STEPS and time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        with trainer.compute_loss_context_manager():
            trainer.compute_loss(model, dict(inputs)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if arguments.device.type != "cpu":
            torch.accelerator.synchronize(arguments.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first step allocates memory
