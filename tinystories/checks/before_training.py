"""What can be shown of any `transformers.Trainer` before its first step."""

import math
from dataclasses import dataclass

import torch
from transformers import Trainer

from . import batches, machine
from . import isolation as through_model
from . import training_step as step
from .findings import Finding, tried
from .hyperparameters import Run, compare_settings
from .text import check_articles, check_vocabulary


def check_trainer(trainer: Trainer, *, quick: bool = True) -> list[Finding]:
    """Check what a trainer feeds to its model, what the loss is about, and whether the machine can run it.

    One or two real batches are taken from its own dataloader. Labels may come from packed rows (`position_ids` that
    start again, no mask) or from a collator with one story per row and an `attention_mask`. Random states, weights,
    gradients, modes and dataloaders are left unchanged.

    Args:
        trainer: any; its `processing_class` should be the tokenizer.
        quick: measure no optimizer steps.

    Returns:
        Findings; an "error" among them is a reason not to start.
    """
    return examine_trainer(trainer, Scale.of(trainer), time=not quick)


@dataclass
class Scale:
    """The size of the run, where the trainer at hand holds only a sample of it.

    Attributes:
        rows: of the whole training set; None where that is not known.
        output_dir: folder of the checkpoints.
        made: the length of a run that has been made, where the trainer stands for one.
    """

    rows: int | None
    output_dir: str
    made: Run | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> "Scale":
        try:
            rows = len(trainer.train_dataset)
        except TypeError:
            rows = None
        return cls(rows, trainer.args.output_dir)

    def run(self, trainer: Trainer, tokens_per_row: float | None) -> Run:
        """The length of the whole run, as `Trainer` counts it."""
        if self.made is not None:
            return self.made
        args = trainer.args
        batch = trainer._train_batch_size * args.world_size
        tokens = None if tokens_per_row is None else tokens_per_row * batch * args.gradient_accumulation_steps
        limit = getattr(trainer, "time_limit", None)
        if limit is not None:
            return Run(tokens_per_step=tokens, minutes=limit.seconds / 60)
        steps, epochs = args.max_steps if args.max_steps > 0 else None, None
        if self.rows:
            batches_per_epoch = self.rows // batch if args.dataloader_drop_last else math.ceil(self.rows / batch)
            steps_per_epoch = max(1, math.ceil(batches_per_epoch / args.gradient_accumulation_steps))
            epochs = steps / steps_per_epoch if steps else args.num_train_epochs
            steps = steps or math.ceil(steps_per_epoch * epochs)
        return Run(steps, epochs, tokens)


def examine_trainer(trainer: Trainer, scale: Scale, *, time: bool, needs: bool = True) -> list[Finding]:
    """[`check_trainer`] for a run of this scale; without `needs`, what training needs of the machine is left out."""
    optimizer = "muon" if getattr(trainer, "use_muon", False) else None
    findings: list[Finding] = []
    with batches.untouched(trainer):
        taken: list[dict] = []

        def take() -> list[Finding]:
            taken.extend(batches.take_batches(trainer))
            if not taken:
                return [Finding("batches", "error", "the dataloader is empty", "Give a train_dataset with stories.")]
            missing = [name for name in ("input_ids", "labels") if not isinstance(taken[0].get(name), torch.Tensor)]
            if "labels" in missing:
                taken.clear()
                return [
                    Finding(
                        "labels",
                        "error",
                        "the batches have no labels",
                        "Give labels equal to input_ids in the collator.",
                    )
                ]
            if missing:
                taken.clear()
                return [Finding("batches", "inconclusive", "the batches have no input_ids")]
            return []

        findings += tried("batches", take)
        tokenizer = _tokenizer_of(trainer)
        eos, pad = (getattr(tokenizer, name, None) for name in ("eos_token_id", "pad_token_id"))
        rows = [batches.find_stories(batch, eos, pad) for batch in taken]
        if rows:
            findings += tried("labels", lambda: [batches.check_labels(rows)])
            findings += _text_findings(rows, tokenizer, eos, pad)
            offset = batches.label_offset(rows)
            few = through_model.model_rows(rows)
            findings += tried("next token", lambda: through_model.check_loss(trainer, few, offset))
            findings += tried("leak between stories", lambda: through_model.check_leaks(trainer, few, tokenizer))
        if tokenizer is not None:
            findings += tried("vocabulary size", lambda: vocabulary_findings(trainer.model, tokenizer))
        findings += _run_findings(trainer, scale, rows, optimizer, time, needs)
    return findings


def vocabulary_findings(model, tokenizer) -> list[Finding]:
    """The vocabulary against the model, and its articles."""
    embeddings = model.get_input_embeddings()
    parameters = sum(weight.numel() for weight in model.parameters())
    return [
        *check_vocabulary(tokenizer, embeddings.num_embeddings, parameters, embeddings.embedding_dim),
        check_articles(tokenizer),
    ]


def _tokenizer_of(trainer: Trainer):
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    return tokenizer if hasattr(tokenizer, "eos_token_id") else None


def _text_findings(rows: list[batches.Rows], tokenizer, eos: int | None, pad: int | None) -> list[Finding]:
    if tokenizer is None:
        return [Finding("end of text", "inconclusive", "the trainer has no tokenizer (processing_class)")]
    return [
        *tried("end of text", lambda: [batches.check_end_of_text(rows, eos)]),
        *tried("padding", lambda: [batches.check_padding(rows, eos, pad)]),
        *tried("beginning of text", lambda: batches.check_story_starts(rows, tokenizer)),
    ]


def _run_findings(
    trainer: Trainer, scale: Scale, rows: list[batches.Rows], optimizer: str | None, time: bool, needs: bool
) -> list[Finding]:
    args, model = trainer.args, trainer.model
    filled = None
    if rows:
        # Of the batches at hand: close enough for a comparison, and it works for any dataset.
        filled = sum(int((~batch.padding).sum()) for batch in rows) / sum(len(batch.ids) for batch in rows)
    run = scale.run(trainer, filled)
    findings = tried("settings", lambda: compare_settings(args, run, optimizer=optimizer))
    if not needs:
        return findings
    averaged = getattr(trainer, "ema", None) is not None
    findings += tried("precision", lambda: [machine.check_precision(args)])
    if rows:
        findings += tried("attention kernel", lambda: [step.check_attention(trainer, rows[0])])
        findings += tried("memory", lambda: [step.check_memory(trainer, rows[0], optimizer)])
    findings += tried(
        "disk", lambda: [machine.check_disk(model, args, optimizer, run.steps, scale.output_dir, averaged)]
    )
    if rows and time:
        findings += tried("time", lambda: [machine.check_time(trainer, rows[0], run)])
    return findings
