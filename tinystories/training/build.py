"""From a recipe to a run folder, through transformers' own `Trainer`.

What is added to it: packed rows, bits per byte at each evaluation, a progress bar that counts story tokens, and a
folder that any transformers user can load. The objective is the model's own standard cross-entropy; nothing here
touches the labels.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import IterableDataset
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainingArguments

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import PAD, train_bpe, vocabulary_size

from ..data.corpus import Corpus
from ..data.packing import PackedStories, tokenize_stories
from ..data.streaming import PackedStream
from ..evaluation.token_classes import TokenClassifier
from ..generation.prompts import keep_prompts_open
from ..recipe import Recipe, load_recipe
from ..runs import checkpoints
from ..runs.loading import load_tokenizer
from ..utils.errors import UserError
from ..utils.hardware import describe_hardware
from .arguments import TRAINER_DEFAULTS, reports, training_arguments, user_errors  # noqa: F401
from .callbacks import CsvLog, LossPicture, StorySample
from .throughput import rows_per_step
from .trainer import StoryTrainer, scored_kinds


# What `Trainer` takes from the checkpoint whatever the recipe says, or what its best figure was measured on.
RESUMED_AS_BEGUN = {
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optimizer", "optim", "ema_decay"),
    *("vocab_size", "tokenizer", "corpus", "validation_corpus", "text_column", "split"),
    *("skip_bad_rows", "max_stories"),
    "max_validation_stories",
}
STREAM_TOKENIZER_STORIES = 100_000  # about 90 MB of text: more changes a vocabulary of 10,000 hardly at all


def write_run_metadata(trainer: StoryTrainer, corpus: Corpus, output_dir: Path) -> None:
    """`run.json`: what the run saw, on what, and how long it took (see `tinystories/runs/metadata.py`)."""
    streamed = isinstance(corpus.train, IterableDataset)
    record = {
        "format": 1,
        "corpus": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "training_stories": None if streamed else len(corpus.train),
            "validation_stories": len(corpus.validation),
            "validation_bytes": trainer.eval_dataset.bytes,
        },
        "tokens_seen": _tokens_seen(trainer),
        "seconds": max((entry["seconds"] for entry in trainer.state.log_history if "seconds" in entry), default=None),
        "hardware": describe_hardware(),
        "precision": _precision(trainer.args),
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "accelerate")},
    }
    (output_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _tokens_seen(trainer: StoryTrainer) -> int:
    """In all sessions, padding not counted."""
    if trainer.args.include_num_input_tokens_seen != "all":
        return trainer.state.num_input_tokens_seen
    steps = trainer.state.global_step * rows_per_step(trainer.args)
    return round(steps * trainer.train_dataset.tokens_per_row)


def story_trainer(
    recipe: Recipe,
    arguments: TrainingArguments,
    model: TinyLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: PackedStories | PackedStream,
    validation_rows: PackedStories,
    write_model_card: Callable[[StoryTrainer], None] | None = None,
) -> StoryTrainer:
    """The trainer of a recipe, with all that happens beside training."""
    callbacks = [LossPicture()]
    if "csv" in reports(recipe):
        callbacks.append(CsvLog())
    if recipe.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    batch = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and isinstance(train_rows, PackedStories) and len(train_rows) < batch:
        raise UserError(
            f"The stories fill {len(train_rows):,} rows, less than one batch of {batch:,}, and with "
            f"`dataloader_drop_last` nothing would be left: take a smaller --per_device_train_batch_size, or "
            f"--dataloader_drop_last false."
        )
    _require_metric(arguments, tokenizer, validation_rows)
    with user_errors("trainer"):
        trainer = StoryTrainer(
            model=model,
            args=arguments,
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            processing_class=tokenizer,
            callbacks=callbacks,
            use_muon=recipe.optimizer == "muon",
            ema_decay=recipe.ema_decay,
            article_loss_weight=recipe.article_loss_weight,
            max_minutes=recipe.max_minutes,
            write_model_card=write_model_card,
        )
    if recipe.prompts and not trainer.is_fsdp_enabled:
        trainer.add_callback(StorySample(tokenizer, recipe.prompts[0], recipe.preset, arguments.seed))
    return trainer


def _require_metric(arguments: TrainingArguments, tokenizer: PreTrainedTokenizerBase, rows: PackedStories) -> None:
    """Refuse to choose the best model by a kind of words that no validation story has."""
    metric = str(arguments.metric_for_best_model).removeprefix("eval_")
    kind = metric.removeprefix("nats_per_token_")
    if arguments.eval_strategy == "no" or kind == metric or kind in scored_kinds(rows, TokenClassifier(tokenizer)):
        return
    raise UserError(
        f"`trainer.metric_for_best_model` cannot be {metric}: no validation story has any {kind.replace('_', ' ')}."
    )


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> TinyLlamaConfig:
    """The recipe's `model` section, completed by what follows from the tokenizer and the row length."""
    with user_errors("model"):
        return TinyLlamaConfig(
            **recipe.model,
            vocab_size=vocabulary_size(tokenizer),
            max_position_embeddings=recipe.max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


@torch.no_grad()
def zero_init_residual(model: TinyLlamaForCausalLM) -> None:
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def pack_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, seed: int
) -> tuple[PackedStories | PackedStream, PackedStories]:
    """Rows to train on and rows to validate on. In both, each token of each story is scored once."""

    def tokenized(split: str, stories):
        return tokenize_stories(stories, tokenizer, f"{corpus.fingerprint}-{split}", recipe.num_proc)

    context = recipe.max_length
    shape = {"context": context, "seed": seed}
    pad = {"pad_token_id": tokenizer.pad_token_id}
    train_shape = {"length": recipe.row_length, "overlap": context // 8, **shape}
    if isinstance(corpus.train, IterableDataset):
        train_rows = PackedStream(corpus.train, tokenizer, **train_shape)
    else:
        train_rows = PackedStories(tokenized("train", corpus.train), **train_shape, **pad)
    held_out = tokenized("validation", corpus.validation)
    return train_rows, PackedStories(held_out, length=train_rows.length, overlap=context // 2, **shape, **pad)


def recipe_tokenizer(recipe: Recipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe names, or one that is trained on its stories.

    Raises:
        UserError: for one that training cannot use.
    """
    if recipe.tokenizer is None:
        streamed = isinstance(corpus.train, IterableDataset)
        stories = corpus.train.take(STREAM_TOKENIZER_STORIES) if streamed else corpus.train
        texts = (batch["text"] for batch in stories.iter(batch_size=1_000))
        total = None if streamed else len(stories)
        return train_bpe(texts, recipe.vocab_size, model_max_length=recipe.max_length, total=total)
    tokenizer = load_tokenizer(recipe.tokenizer)
    _complete_special_tokens(tokenizer, recipe.tokenizer)
    # So that prompts begin as stories do in training, whatever this tokenizer does by itself.
    keep_prompts_open(tokenizer, front=[tokenizer.bos_token_id])
    tokenizer.model_max_length = recipe.max_length
    return tokenizer


def _complete_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer the tokens that training needs: many, as GPT-2's, have no token for padding."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer {name} has no eos_token, which ends a story: set one and save the tokenizer again, or "
            f"make one with `tinystories tokenizer`."
        )
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
        print(f"note: the tokenizer {name} has no bos_token; stories begin with its {tokenizer.eos_token}.")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
        # A loss on padding that is the end of text, too, would be a loss on padding, or none on the end.
        missing = tokenizer.pad_token_id is None
        tokenizer.add_special_tokens({"pad_token": PAD})
        print(f"note: the tokenizer {name} has no pad_token{'' if missing else ' of its own'}; {PAD} was added.")
    ids = tokenizer.get_vocab()
    if len(set(ids.values())) < len(ids):
        # `tokenizers` numbers a new token by how many there are, and in a vocabulary with gaps that id may be taken.
        raise UserError(
            f"The tokenizer {name} has several tokens with one id: give it a pad_token with an id of its own, or "
            f"number its tokens without gaps."
        )


def checkpoint_to_resume(arguments: TrainingArguments, recipe: Recipe) -> Path | None:
    output_dir = Path(arguments.output_dir)
    wanted = arguments.resume_from_checkpoint
    if wanted in (None, "false"):
        taken = checkpoints.find_checkpoints(output_dir) or (output_dir / "model.safetensors").exists()
        if taken and not recipe.overwrite_output_dir:
            raise UserError(
                f"{output_dir} holds checkpoints of an earlier run, or its model: go on with "
                f"--resume_from_checkpoint, choose another --output_dir, or start again with --overwrite_output_dir."
            )
        return None
    if wanted == "true":
        checkpoint, faults = checkpoints.last_whole_checkpoint(output_dir)
        told = "; ".join(f"{folder.name} cannot be used, {reason}" for folder, reason in faults.items())
        if checkpoint is None:
            raise UserError(
                f"{output_dir} has no checkpoint to resume from{f' ({told})' if told else ''}; leave out "
                f"--resume_from_checkpoint{', with --overwrite_output_dir,' if told else ''} to begin."
            )
        if told and arguments.process_index == 0:
            print(f"note: {told}; going on from {checkpoint.name}.")
    else:
        checkpoint = Path(wanted)
        if reason := checkpoints.fault(checkpoint):
            raise UserError(f"{checkpoint} is not a checkpoint folder to go on from: {reason}.")
    if arguments.process_index == 0:
        _tell_changes(checkpoint.parent / "recipe.yaml", recipe)
    return checkpoint


def _tell_changes(earlier: Path, recipe: Recipe) -> None:
    """Say which settings of a resumed run are not those that it began with."""
    harmless = {"overwrite_output_dir", "num_proc", "prompts", "preset", "check"}
    harmless |= {"resume_from_checkpoint", "output_dir", "disable_tqdm", "report_to", "logging_steps"}
    try:
        before = load_recipe(earlier)
    except UserError:
        return
    changed = [name for name in vars(recipe) if getattr(recipe, name) != getattr(before, name)]
    for section in ("model", "trainer"):
        if section in changed:
            changed.remove(section)
            old, new = getattr(before, section), getattr(recipe, section)
            changed += [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if kept := [name for name in changed if name in RESUMED_AS_BEGUN]:
        raise UserError(
            f"A resumed run keeps its {', '.join(kept)}: leave that as {earlier} has it, or begin a run of its own "
            f"with another --output_dir."
        )
    if told := [name for name in changed if name not in harmless]:
        print(f"note: the run began with another {', '.join(told)}, so its end is not the one it would have had.")


def require_same_model(checkpoint: Path, config: TinyLlamaConfig) -> None:
    there = TinyLlamaConfig.from_pretrained(checkpoint)
    shape = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "tie_word_embeddings", "rope_parameters")  # fmt: skip
    for name in shape:
        if getattr(there, name) != getattr(config, name):
            raise UserError(
                f"{checkpoint} holds a model with `{name}` {getattr(there, name)}, but the recipe says "
                f"{getattr(config, name)}: use the recipe of its run, {checkpoint.parent / 'recipe.yaml'}."
            )


def _precision(arguments: TrainingArguments) -> str:
    if arguments.fp16:
        return "fp16 autocast, fp32 weights"
    return "bf16 autocast, fp32 weights" if arguments.bf16 else "fp32"


def summary(corpus, tokenizer, model, train_rows, validation_rows: PackedStories, arguments) -> str:
    batch = rows_per_step(arguments)
    last = model.config.vocab_size - 1
    if isinstance(train_rows, PackedStream):
        stories, tokens = "a stream of stories", "a stream in rows"
    else:
        stories, tokens = f"{len(corpus.train):,} stories", f"{train_rows.tokens:,} in {len(train_rows):,} rows"
    return "\n".join(
        (
            f"corpus      {corpus.name}: {stories} to train on, {len(corpus.validation):,} held out",
            f"tokens      {tokens} of {train_rows.length} ({train_rows.padding:.2%} padding), "
            f"{validation_rows.bytes / validation_rows.scored:.2f} bytes a token",
            f"vocabulary  {len(tokenizer):,}" + (f", ids up to {last:,}" if last >= len(tokenizer) else ""),
            f"model       {model.num_parameters():,} parameters",
            f"batch       {batch} rows, {round(batch * train_rows.tokens_per_row):,} tokens",
            f"precision   {_precision(arguments)} on {arguments.device}",
        )
    )
