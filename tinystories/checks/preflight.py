"""Find errors that would otherwise occur late in a run, before the corpus is read and the tokenizer trained.

- `check_resources`: memory for the model, and disk space for its checkpoints.
- `dry_run`: one step, evaluation, checkpoint and reload with the settings of the run, on a model of one layer and two
  short stories. Errors of transformers, torch or an optimizer's package occur here.
- `fitting_prompts`: the prompts of the sample stories, once the tokenizer exists.
"""

import copy
import dataclasses
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path

import psutil
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, SchedulerType, TrainingArguments
from transformers.utils import logging

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import train_bpe

from ..data.packing import PackedStories, encode_stories
from ..generation.prompts import added_tokens, encode_prompt, openings
from ..recipe import Recipe
from ..runs.run_folder import find_checkpoints
from ..training.arguments import user_errors
from ..training.build import model_config, trainer_options
from ..training.trainer import StoryTrainer
from ..utils.console import counted
from ..utils.errors import UserError
from ..utils.paths import nearest_existing
from .machine import checkpoint_bytes, checkpoints_at_once
from .memory import size_in_words, tensor_bytes
from .story_sample import evenly


STORIES = ["Once upon a time there was a cat. The cat sat on an old mat.", "One day, a girl saw the big red sun."]
VOCAB_SIZE, CONTEXT = 264, 64
OPENINGS, CANDIDATES = 3, 100  # prompts of a recipe without any, and the validation stories that they are chosen from
UNKNOWN_STEPS = 10_000  # of a run whose length is given in epochs


def check_resources(recipe: Recipe, arguments: TrainingArguments, vocab_size: int | None = None) -> None:
    """Refuse a run for which this machine does not have enough memory or disk space.

    Args:
        vocab_size: of the tokenizer; by default that of the recipe.

    Raises:
        UserError: with the amount that is needed.
    """
    with user_errors("model"), torch.device("meta"):
        model = TinyLlamaForCausalLM(TinyLlamaConfig(**recipe.model, vocab_size=vocab_size or recipe.vocab_size))
    if not (arguments.fsdp or arguments.deepspeed):
        _check_memory(model.num_parameters(), arguments.device)
    if arguments.local_process_index == 0:
        _check_disk(model, recipe, arguments)


def _check_memory(parameters: int, device: torch.device) -> None:
    """Refuse a model whose weights and gradients, 8 bytes per parameter, exceed the memory."""
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    if parameters * 8 > memory:
        raise UserError(
            f"The model has {parameters:,} parameters; with their gradients, they need "
            f"{size_in_words(parameters * 8)}, but {device} has {size_in_words(memory)}. Choose a smaller --size."
        )


def _check_disk(model: TinyLlamaForCausalLM, recipe: Recipe, arguments: TrainingArguments) -> None:
    folder = Path(str(arguments.output_dir)).absolute()
    existing = nearest_existing(folder)
    free = shutil.disk_usage(existing).free
    if recipe.overwrite_output_dir:
        files = (file for old in find_checkpoints(folder) for file in old.rglob("*") if file.is_file())
        free += sum(file.stat().st_size for file in files)
    number, _ = checkpoints_at_once(arguments, arguments.max_steps if recipe.max_minutes is None else None)
    muon, averaged = recipe.optimizer == "muon", recipe.ema_decay is not None
    needed = number * checkpoint_bytes(model, arguments, muon=muon, averaged=averaged)
    needed += tensor_bytes(model.parameters())
    if needed > free:
        what = f"{counted(number, 'checkpoint')} and the model take" if number else "the model takes"
        raise UserError(
            f"{existing} has {size_in_words(free)} free, but {what} {size_in_words(needed)}: free some space, or "
            f"choose another --output_dir, a lower --save_total_limit or --save_only_model true."
        )


def dry_run(recipe: Recipe, arguments: TrainingArguments) -> None:
    """Run one step, evaluation, checkpoint and reload with the settings of the run, on a model of one layer.

    It is skipped with several processes, and does not compile the model, which takes long.

    Raises:
        UserError: with the reason if it fails.
    """
    if arguments.world_size > 1 or arguments.fsdp or arguments.deepspeed:
        return
    with tempfile.TemporaryDirectory(prefix="tinystories-", ignore_cleanup_errors=True) as folder, _quiet():
        args = _one_step(arguments, folder)
        shape = {**recipe.model, "num_hidden_layers": 1}
        small = dataclasses.replace(recipe, model=shape, max_length=CONTEXT, max_minutes=None)
        tokenizer = train_bpe(STORIES, VOCAB_SIZE, model_max_length=CONTEXT, progress=False)
        with user_errors("model"):
            model = TinyLlamaForCausalLM(model_config(small, tokenizer))
        stories = Dataset(encode_stories(tokenizer)(pa.table({"text": STORIES * args.train_batch_size})))
        pad = tokenizer.pad_token_id
        rows = PackedStories(stories, pad_token_id=pad, length=CONTEXT, context=CONTEXT, overlap=8)
        with user_errors("trainer"):
            trainer = StoryTrainer(
                model=model,
                args=args,
                train_dataset=rows,
                eval_dataset=rows,
                processing_class=tokenizer,
                **trainer_options(small),
            )
            trainer.remove_callback(PrinterCallback)
            if recipe.max_minutes is None:
                _try_schedule(trainer, arguments)
            trainer.train()
            trainer.save_model(_internal_call=True)


def _try_schedule(trainer: StoryTrainer, arguments: TrainingArguments) -> None:
    """Create the schedule of the whole run, which a run of one step does not test."""
    trainer.create_optimizer()
    trainer.create_scheduler(arguments.max_steps if arguments.max_steps > 0 else UNKNOWN_STEPS)
    trainer.optimizer = trainer.lr_scheduler = None
    if trainer.args.lr_scheduler_type not in ("reduce_lr_on_plateau", "greedy"):
        trainer.args.lr_scheduler_type, trainer.args.lr_scheduler_kwargs = SchedulerType.CONSTANT, None


def _one_step(arguments: TrainingArguments, folder: str) -> TrainingArguments:
    args = copy.copy(arguments)
    args.output_dir, args.max_steps, args.eval_delay = folder, 1, 0
    args.per_device_train_batch_size = args.per_device_eval_batch_size = args.gradient_accumulation_steps = 1
    args.push_to_hub, args.report_to, args.resume_from_checkpoint = False, [], None
    args.torch_compile, args.disable_tqdm, args.log_level = False, True, "passive"
    # The settings of worker processes were checked; starting the processes takes seconds.
    args.dataloader_num_workers, args.dataloader_persistent_workers = 0, False
    args.dataloader_prefetch_factor = args.dataloader_multiprocessing_context = None
    args.eval_steps = args.save_steps = args.logging_steps = 1
    return args


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def fitting_prompts(recipe: Recipe, validation: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompts of the recipe, or else the openings of some validation stories, or the filled-in templates.

    Raises:
        UserError: for a prompt of the recipe that the model cannot continue.
    """
    if recipe.prompts is None:
        stories = evenly(validation, CANDIDATES)
        instructed = "prompt" in stories.column_names
        candidates = filter(None, stories["prompt"][:]) if instructed else openings(stories["text"][:])
        fitting = (prompt for prompt in candidates if _unsupported_reason(prompt, recipe, tokenizer) is None)
        return list(islice(fitting, OPENINGS))
    for prompt in recipe.prompts:
        if (reason := _unsupported_reason(prompt, recipe, tokenizer)) is not None:
            name = repr(prompt if len(prompt) <= 40 else f"{prompt[:37]}...")
            raise UserError(f"The prompt {name} {reason}: change `prompts`, or set `prompts` to '[]'.")
    return recipe.prompts


def _unsupported_reason(prompt: str, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str | None:
    front = len(added_tokens(tokenizer)[0])
    try:
        ids = encode_prompt(tokenizer, prompt)
    except UserError:
        ids = []
    if len(ids) <= front:
        return "has no tokens with this tokenizer"
    if len(ids) >= recipe.max_length:
        return f"is {len(ids):,} tokens long, but `max_length` is {recipe.max_length:,}"
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids[front:]:
        return "has characters that are not in the vocabulary of the tokenizer"
    return None
