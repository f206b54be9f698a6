"""What can be proven of any `transformers.Trainer` before its first step."""

from dataclasses import dataclass

import torch
from transformers import Trainer

from . import batches, machine, through_model
from .findings import Finding, tried
from .settings import Run, compare_settings
from .text import check_articles, check_vocabulary


def check_trainer(trainer: Trainer, *, quick: bool = True) -> list[Finding]:
    """Look at what a trainer feeds to its model, what the loss is about, and whether the machine can do it.

    One or two real batches are taken from its own dataloader. Labels may come from packed rows (`position_ids` that
    start again, no mask) or from a collator with one story a row and an `attention_mask`. Random states, weights,
    gradients, modes and dataloaders are left as they were.

    Args:
        trainer: any; its `processing_class` should be the tokenizer.
        quick: leave out the measuring of real steps.

    Returns:
        Findings; a "fault" among them is a reason not to start.
    """
    return examine_trainer(trainer, Scale.of(trainer), time=not quick)


@dataclass
class Scale:
    """How large the run is, where the trainer at hand holds only a sample of it.

    Attributes:
        rows: of the whole training set; None where that is not known.
        output_dir: where checkpoints will go.
    """

    rows: int | None
    output_dir: str

    @classmethod
    def of(cls, trainer: Trainer) -> "Scale":
        try:
            rows = len(trainer.train_dataset)
        except TypeError:
            rows = None
        return cls(rows, trainer.args.output_dir)

    def run(self, trainer: Trainer, tokens_per_row: float | None) -> Run:
        """Steps, epochs and tokens a step of the whole run."""
        args = trainer.args
        batch = trainer._train_batch_size * args.world_size
        a_step = batch * args.gradient_accumulation_steps
        steps, epochs = args.max_steps if args.max_steps > 0 else None, None
        if getattr(trainer, "time_limit", None) is not None:
            return Run(None, None, None if tokens_per_row is None else tokens_per_row * a_step)
        if self.rows and steps:
            epochs = steps * a_step / self.rows
        elif self.rows:
            epochs = args.num_train_epochs
            steps = int(-(-self.rows // batch // args.gradient_accumulation_steps) * epochs)
        return Run(steps, epochs, None if tokens_per_row is None else tokens_per_row * a_step)


def examine_trainer(trainer: Trainer, scale: Scale, *, time: bool, needs: bool = True) -> list[Finding]:
    """[`check_trainer`] for a run of this scale; without `needs`, what training needs of the machine is left out."""
    optimizer = "muon" if getattr(trainer, "use_muon", False) else None
    findings: list[Finding] = []
    with batches.untouched(trainer):
        taken: list[dict] = []

        def take() -> list[Finding]:
            taken.extend(batches.take_batches(trainer))
            if not taken:
                return [Finding("batches", "fault", "the dataloader is empty", "Give a train_dataset with stories.")]
            missing = [name for name in ("input_ids", "labels") if not isinstance(taken[0].get(name), torch.Tensor)]
            if "labels" in missing:
                taken.clear()
                return [
                    Finding(
                        "labels",
                        "fault",
                        "the batches have no labels",
                        "Give labels equal to input_ids in the collator.",
                    )
                ]
            if missing:
                taken.clear()
                return [Finding("batches", "cannot tell", "they hold no input_ids")]
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
        return [Finding("end of text", "cannot tell", "the trainer has no tokenizer (processing_class)")]
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
        # Of the batches at hand: near enough for a comparison, and right for any dataset.
        filled = sum(int((~batch.padding).sum()) for batch in rows) / sum(len(batch.ids) for batch in rows)
    run = scale.run(trainer, filled)
    findings = tried("settings", lambda: compare_settings(args, run, optimizer=optimizer))
    if not needs:
        return findings
    findings += tried("precision", lambda: [machine.check_precision(args)])
    if rows:
        findings += tried("attention kernel", lambda: [machine.check_attention(model, args, rows[0])])
        findings += tried("memory", lambda: [machine.check_memory(trainer, rows[0], optimizer)])
    findings += tried("disk", lambda: [machine.check_disk(model, args, optimizer, run.steps, scale.output_dir)])
    if rows and time:
        findings += tried("time", lambda: [machine.check_time(trainer, rows[0], run)])
    return findings
