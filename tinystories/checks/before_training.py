"""Check any `transformers.Trainer` before its first step."""

import math

from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import has_length

from . import batch_contents
from .attention import check_attention
from .batches import Rows, find_stories, restored, take_batches
from .document_masking import check_leaks
from .findings import Finding, as_check, error, inconclusive
from .forward import model_of
from .hyperparameters import RunLength, compare_settings
from .loss import check_loss
from .machine import check_disk, check_precision, check_time
from .memory import check_memory
from .verdict import check_length
from .vocabulary import check_articles, check_vocabulary


MODEL_ROWS = 2  # rows that the model computes; with two, leaks between rows are also detected


def check_trainer(trainer: Trainer, *, quick: bool = True) -> list[Finding]:
    """Check the batches and the loss of a trainer, and whether the machine can run it.

    A few real batches are taken from its own dataloader. Rows may be packed (`position_ids` that restart, no
    mask) or hold one story each, with an `attention_mask`. Random states, weights, gradients, modes and dataloaders
    are left unchanged.

    Args:
        trainer: any `Trainer`; its `processing_class` should be the tokenizer.
        quick: measure no optimizer steps.

    Returns:
        Findings; do not train if one of them is an "error".
    """
    dataset = trainer.train_dataset
    rows = len(dataset) if has_length(dataset) else None
    return examine_trainer(trainer, rows, str(trainer.args.output_dir), time=not quick)


def examine_trainer(
    trainer: Trainer,
    total_rows: int | None,
    output_dir: str,
    *,
    made: RunLength | None = None,
    time: bool = False,
    machine: bool = True,
) -> list[Finding]:
    """[`check_trainer`], also for a trainer that has only a sample of the training set.

    Args:
        total_rows: of the whole training set; None if unknown.
        output_dir: folder of the checkpoints.
        made: length of the run, if it has finished; by default the length of the trainer's own run.
        time: measure optimizer steps.
        machine: check memory, disk and the like.
    """
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    with restored(trainer):
        rows: list[Rows] = []
        findings = _take_rows(trainer, tokenizer, rows)
        if rows:
            findings += batch_contents.check_labels(rows)
            findings += _check_text(rows, tokenizer)
            few = max(rows, key=lambda batch: len(batch.stories) / len(batch.ids)).with_most_stories(MODEL_ROWS)
            findings += check_loss(trainer, few, batch_contents.label_offset(rows))
            findings += check_leaks(trainer, few, tokenizer)
        if tokenizer is not None:
            findings += [*check_vocabulary(tokenizer, model_of(trainer)), *check_articles(tokenizer)]
        run = made or _run_length(trainer, total_rows, rows)
        muon = getattr(trainer, "use_muon", False)
        findings += compare_settings(trainer.args, run, muon=muon)
        findings += check_length(
            trainer.args, run, model_of(trainer), fine_tunes=getattr(trainer, "fine_tunes", False)
        )
        if machine:
            findings += check_precision(trainer.args)
            findings += check_disk(trainer, muon, run.steps, output_dir)
        if machine and rows:
            findings += [*check_attention(trainer, rows[0]), *check_memory(trainer, rows[0], muon)]
        if time and rows:
            findings += check_time(trainer, rows[0], run)
    return findings


def _run_length(trainer: Trainer, total_rows: int | None, rows: list[Rows]) -> RunLength:
    """The length of the whole run, as `Trainer` counts it."""
    args, tokens, corpus_tokens = trainer.args, None, None
    batch = trainer._train_batch_size * args.world_size
    if rows:
        # Estimated from these batches: accurate enough for a comparison, and possible for any dataset.
        tokens_per_row = sum(int((~each.padding).sum()) for each in rows) / sum(len(each.ids) for each in rows)
        tokens = tokens_per_row * batch * args.gradient_accumulation_steps
        corpus_tokens = tokens_per_row * total_rows if total_rows else None
    limit = getattr(trainer, "time_limit", None)
    if limit is not None:
        return RunLength(tokens_per_step=tokens, minutes=limit.seconds / 60, corpus_tokens=corpus_tokens)
    steps, epochs = args.max_steps if args.max_steps > 0 else None, None
    if total_rows:
        batches_per_epoch = total_rows // batch if args.dataloader_drop_last else math.ceil(total_rows / batch)
        steps_per_epoch = max(1, math.ceil(batches_per_epoch / args.gradient_accumulation_steps))
        epochs = steps / steps_per_epoch if steps else args.num_train_epochs
        steps = steps or math.ceil(steps_per_epoch * epochs)
    return RunLength(steps, epochs, tokens, corpus_tokens=corpus_tokens)


@as_check("batches")
def _take_rows(trainer: Trainer, tokenizer: PreTrainedTokenizerBase | None, rows: list[Rows]) -> list[Finding]:
    """Add the rows of the first batches to `rows`; if there are none, return a finding with the reason."""
    batches = take_batches(trainer)
    if not batches:
        return [error("the dataloader is empty", "Use a train_dataset with stories.")]
    missing = [name for name in ("input_ids", "labels") if not isinstance(batches[0].get(name), Tensor)]
    if "labels" in missing:
        advice = "Set labels equal to input_ids in the collator."
        return [error("the batches have no labels", advice, check="labels")]
    if missing:
        return [inconclusive("the batches have no input_ids")]
    eos, pad = (getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id"))
    rows += [find_stories(batch, eos, pad) for batch in batches]
    return []


def _check_text(rows: list[Rows], tokenizer: PreTrainedTokenizerBase | None) -> list[Finding]:
    if tokenizer is None:
        return [inconclusive("the trainer has no tokenizer (processing_class)", check="end of text")]
    return [
        *batch_contents.check_end_of_text(rows, tokenizer.eos_token_id),
        *batch_contents.check_padding(rows, tokenizer.eos_token_id, tokenizer.pad_token_id),
        *batch_contents.check_story_starts(rows, tokenizer),
    ]
