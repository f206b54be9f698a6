"""The parts of a training run that a recipe describes: tokenizer, model, packed rows and trainer."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import PAD, vocabulary_size

from ..data.corpus import Corpus
from ..data.packing import PackedStories, tokenize_stories
from ..data.renaming import NameTokens
from ..data.replay import ReplayedRows
from ..data.streaming import PackedStream
from ..data.tokenizer import corpus_tokenizer, describe_sample
from ..evaluation.coherence import Probe
from ..evaluation.token_classes import TokenClassifier
from ..generation.prompts import set_prompt_prefix
from ..recipe import Recipe
from ..runs.loading import load_tokenizer
from ..runs.metadata import write_run_metadata
from ..utils.errors import UserError
from ..utils.hardware import describe_hardware
from .arguments import reports, user_errors
from .callbacks import CSVLogCallback, LossPlotCallback, SampleCallback
from .metrics import scored_classes
from .throughput import logged_seconds, rows_per_step
from .trainer import StoryTrainer


def save_run_metadata(trainer: StoryTrainer, corpus: Corpus, output_dir: Path) -> None:
    """Write `run.json`: the corpus, the number of tokens, the training time and the versions."""
    write_run_metadata(
        output_dir,
        corpus={
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "training_stories": None if isinstance(corpus.train, IterableDataset) else len(corpus.train),
            "validation_stories": len(corpus.validation),
            "validation_bytes": trainer.eval_dataset.bytes,
        },
        tokens_seen=_tokens_seen(trainer),
        seconds=logged_seconds(trainer.state.log_history) or None,
        hardware=describe_hardware(),
        precision=_precision(trainer.args),
        versions={name: version(name) for name in ("torch", "transformers", "datasets", "accelerate")},
    )


def _tokens_seen(trainer: StoryTrainer) -> int:
    """Tokens of all sessions, without padding."""
    if trainer.args.include_num_input_tokens_seen != "all":
        return trainer.state.num_input_tokens_seen
    steps = trainer.state.global_step * rows_per_step(trainer.args)
    return round(steps * trainer.train_dataset.tokens_per_row)


def build_trainer(
    recipe: Recipe,
    arguments: TrainingArguments,
    model: TinyLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: PackedStories | PackedStream,
    validation_rows: PackedStories,
    prompt: str | None = None,
    write_model_card: Callable[[StoryTrainer], None] | None = None,
    old_rows: PackedStories | None = None,
    probes: Callable[[], Sequence[Probe]] | None = None,
) -> StoryTrainer:
    """The trainer of a recipe, with its callbacks.

    Args:
        prompt: of the sample story at each evaluation; None for no sample stories.
        old_rows: of validation stories of the base model's kind.
        probes: returns those of validation stories, for the accuracies in each evaluation.

    Raises:
        UserError: for a setting that these rows do not allow.
    """
    callbacks: list[TrainerCallback] = [LossPlotCallback()]
    if "csv" in reports(recipe):
        callbacks.append(CSVLogCallback())
    if recipe.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    batch = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and isinstance(train_rows, PackedStories) and len(train_rows) < batch:
        raise UserError(
            f"The stories fill {len(train_rows):,} rows, less than one batch of {batch:,}, and "
            f"`dataloader_drop_last` drops incomplete batches: use a smaller --per_device_train_batch_size, or "
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
            write_model_card=write_model_card,
            old_rows=old_rows,
            probes=probes,
            **trainer_options(recipe),
        )
    if prompt is not None and not trainer.is_fsdp_enabled:
        trainer.add_callback(SampleCallback(tokenizer, prompt, recipe.preset, arguments.seed))
    return trainer


def trainer_options(recipe: Recipe) -> dict[str, Any]:
    """The arguments of [`StoryTrainer`] that are keys of a recipe."""
    return {
        "use_muon": recipe.optimizer == "muon",
        "ema_decay": recipe.ema_decay,
        "article_loss_weight": recipe.article_loss_weight,
        "max_minutes": recipe.max_minutes,
        "fine_tunes": recipe.init_from is not None,
    }


def _require_metric(arguments: TrainingArguments, tokenizer: PreTrainedTokenizerBase, rows: PackedStories) -> None:
    """Refuse a `metric_for_best_model` for a word class that does not occur in the validation stories."""
    metric = str(arguments.metric_for_best_model).removeprefix("eval_")
    name = metric.removeprefix("nats_per_token_")
    if arguments.eval_strategy == "no" or name == metric or name in scored_classes(rows, TokenClassifier(tokenizer)):
        return
    raise UserError(
        f"`trainer.metric_for_best_model` cannot be {metric}: no validation story has any {name.replace('_', ' ')}."
    )


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> TinyLlamaConfig:
    """The recipe's `model` section, completed by the tokenizer and `max_length`."""
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
    """Zero the projections into the residual stream, so that each layer begins as the identity."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


@torch.no_grad()
def copy_init(model: TinyLlamaForCausalLM, scale: float) -> None:
    """Initialise the attention of the middle layer as a copy: `v_proj` orthogonal, `o_proj` its transpose.

    The heads of the layer then add `scale` times the mean of the attended states to the residual stream. With tied
    embeddings this raises the logits of attended tokens from the first step on, so that only the tokens to attend to
    remain to be learned (measurements: benchmarks/RACE.md).
    """
    attention = model.model.layers[model.config.num_hidden_layers // 2].self_attn
    value, output, dim = attention.v_proj.weight, attention.o_proj.weight, model.config.head_dim
    nn.init.orthogonal_(value)
    groups = output.shape[1] // value.shape[0]  # query heads that share the values of a head
    per_head = value.unflatten(0, (-1, dim)).repeat_interleave(groups, dim=0).flatten(0, 1)
    output.copy_(per_head.T * scale / groups)


def pack_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, seed: int
) -> tuple[PackedStories | PackedStream, PackedStories]:
    """Packed rows for training and validation; in both, each token of each story is scored once, and in training also
    those of the template if the recipe says so."""

    context = recipe.max_length

    def packed(split: str, stories: Dataset, overlap: int, length: int | None, **options: Any) -> PackedStories:
        tokenized = tokenize_stories(stories, tokenizer, f"{corpus.fingerprint}-{split}", recipe.num_proc)
        options |= {"pad_token_id": tokenizer.pad_token_id, "seed": seed}
        return PackedStories(tokenized, context=context, overlap=overlap, length=length, **options)

    train_rows: PackedStories | PackedStream
    rename = NameTokens(tokenizer) if recipe.rename_characters else None
    options: dict[str, Any] = {"rename": rename, "train_on_prompts": recipe.train_on_template}
    if isinstance(corpus.train, IterableDataset):
        shape: dict[str, Any] = {"context": context, "overlap": context // 8, "length": recipe.row_length}
        train_rows = PackedStream(corpus.train, tokenizer, seed=seed, **options, **shape)
    else:
        train_rows = packed("train", corpus.train, context // 8, recipe.row_length, **options)
    return train_rows, packed("validation", corpus.validation, context // 2, train_rows.length)


def require_names(rows: PackedStories | PackedStream) -> None:
    """Refuse `rename_characters` for stories without names that can be replaced."""
    report = rows.renaming_report()
    if report is not None and not report.stories:
        raise UserError(
            "`rename_characters` has no effect, because the training stories mention no English first name that can "
            "be replaced: remove it."
        )


def recipe_tokenizer(recipe: Recipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe names, or a new one, trained on its stories.

    Raises:
        UserError: for a tokenizer that training cannot use.
    """
    if recipe.tokenizer is None:
        sample = recipe.tokenizer_stories
        if described := describe_sample(corpus.train, sample):
            print(f"note: the tokenizer is trained on {described}; --tokenizer_stories all uses all stories.")
        return corpus_tokenizer(corpus, recipe.vocab_size, sample, model_max_length=recipe.max_length)
    tokenizer = load_tokenizer(recipe.tokenizer)
    for change in complete_special_tokens(tokenizer, recipe.tokenizer):
        print(f"note: the tokenizer {recipe.tokenizer} has {change}.")
    # Prompts begin as stories do in training, whatever special tokens this tokenizer adds.
    set_prompt_prefix(tokenizer, [tokenizer.bos_token_id])
    tokenizer.model_max_length = recipe.max_length
    return tokenizer


def complete_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """Add the special tokens that training needs; many tokenizers, such as GPT-2's, have none for padding.

    Returns:
        What was missing and what was added.

    Raises:
        UserError: for a tokenizer without EOS, or with ids that do not allow another token.
    """
    changes = []
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer {name} has no eos_token to end stories: set one and save the tokenizer again, or train a "
            f"tokenizer with `tinystories tokenizer`."
        )
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
        changes.append(f"no bos_token; stories begin with its eos_token {tokenizer.eos_token}")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
        # If padding and EOS were the same token, either padding would be trained on or EOS would not.
        missing = tokenizer.pad_token_id is None
        pad = PAD if PAD not in (tokenizer.bos_token, tokenizer.eos_token) else "<|pad|>"
        tokenizer.add_special_tokens({"pad_token": pad})
        changes.append(f"no {'' if missing else 'separate '}pad_token; {pad} was added")
    ids = tokenizer.get_vocab()
    if len(set(ids.values())) < len(ids):
        # `tokenizers` gives a new token the vocabulary size as its id, which is in use if the ids have gaps.
        raise UserError(
            f"The tokenizer {name} has several tokens with the same id: add a pad_token with a unique id, or number "
            f"its tokens without gaps."
        )
    return changes


def _precision(arguments: TrainingArguments) -> str:
    if arguments.fp16:
        return "fp16 autocast, fp32 weights"
    return "bf16 autocast, fp32 weights" if arguments.bf16 else "fp32"


def _trained_only(model: nn.Module) -> str:
    """How many parameters LoRA trains; empty if all are trained."""
    frozen = any(not weight.requires_grad for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return f", of which {trained:,} are trained" if frozen else ""


def summary(trainer: StoryTrainer, corpus: Corpus) -> str:
    """A summary of corpus, model and batch, to be printed before the first step."""
    arguments, model, tokenizer = trainer.args, trainer.model, trainer.processing_class
    train_rows, validation_rows = trainer.train_dataset, trainer.eval_dataset
    batch, renaming = rows_per_step(arguments), train_rows.renaming_report()
    last = model.config.vocab_size - 1
    if isinstance(train_rows, PackedStream):
        stories, tokens = "streamed stories", "streamed in rows"
    else:
        stories, tokens = f"{len(corpus.train):,} stories", f"{train_rows.tokens:,} in {len(train_rows):,} rows"
    old = trainer.old_rows
    kept = [] if old is None else [f"old         {len(old.stories):,} old stories for validation"]
    if isinstance(train_rows, ReplayedRows):
        fraction = train_rows.replayed / len(train_rows)
        kept[0] += f"; {fraction:.0%} of the training rows are from {len(train_rows.old.stories):,} old ones"
    return "\n".join(
        [
            f"corpus      {corpus.name}: {stories} for training, {len(corpus.validation):,} for validation",
            f"tokens      {tokens} of {train_rows.length} ({train_rows.padding:.2%} padding), "
            f"{validation_rows.bytes / validation_rows.scored:.2f} bytes per token",
            f"vocabulary  {len(tokenizer):,}" + (f", ids up to {last:,}" if last >= len(tokenizer) else ""),
            *kept,
            *([] if renaming is None else [f"names       rename_characters: {renaming}"]),
            f"model       {model.num_parameters():,} parameters" + _trained_only(model),
            f"batch       {batch} rows, about {round(batch * train_rows.tokens_per_row):,} tokens",
            f"precision   {_precision(arguments)} on {arguments.device}",
        ]
    )
