"""What a model computes from the batches of its `Trainer`: which token the loss scores, and what attends to what.

Design decisions:

- Batches go through the trainer's own `compute_loss`, under its autocast, so the result holds for training itself.
- A label shift is found by comparison: the loss is compared with cross-entropies computed here for each shift.
- A leak between documents is found by changing the tokens of every other story: the logits of the rest must not
  change. The change of the altered stories' own logits is the scale.
"""

import dataclasses
from collections.abc import Mapping

import torch

from ..utils.errors import UserError
from .batches import IGNORE_INDEX, Rows
from .findings import Finding
from .prediction_offset import by_hand, which_shift


MODEL_ROWS = 2  # one would do, two also show a leak between rows
LEAK = 1e-3  # of what the changed stories moved themselves; a real leak moves others by tenths of that, isolation by 0


def run(trainer, inputs: dict, items: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss `[]` and logits `[rows, length, vocabulary]` as a training step computes them, with the same dropout in
    each call.

    Raises:
        UserError: for token ids that the model does not have. A GPU that is asked for their embeddings fails for the
            rest of the process.
    """
    tokens = inputs.get("input_ids")
    known = trainer.model.get_input_embeddings().num_embeddings
    if tokens is not None and tokens.max() >= known:
        raise UserError(f"the rows hold ids up to {int(tokens.max()):,}, but the model has {known:,} embeddings")
    prepared = trainer._prepare_inputs(dict(inputs))
    counted = None if items is None else torch.tensor(items, device=trainer.args.device)
    torch.manual_seed(0)
    with torch.no_grad(), trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
        loss, outputs = trainer.compute_loss(trainer.model, prepared, return_outputs=True, num_items_in_batch=counted)
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    return loss.detach().float().cpu(), logits.detach().float().cpu()


def model_rows(batches: list[Rows], count: int = MODEL_ROWS) -> Rows:
    """The rows with the most stories, of one batch."""
    rows = max(batches, key=lambda batch: len(batch.stories) / len(batch.ids))
    total = len(rows.ids)
    stories = [sum(row == number for row, _, _ in rows.stories) for number in range(total)]
    chosen = sorted(sorted(range(total), key=lambda row: -stories[row])[:count])
    inputs = {
        name: value[chosen] if isinstance(value, torch.Tensor) and value.ndim and len(value) == total else value
        for name, value in rows.inputs.items()
    }
    kept = [(chosen.index(row), first, end) for row, first, end in rows.stories if row in chosen]
    return Rows(inputs, kept, rows.marked, rows.padding[chosen])


def check_loss(trainer, rows: Rows, offset: int | None) -> list[Finding]:
    """Which token the loss scores: the shift of the labels and that of the model must add up to one."""
    check = "next token"
    trainer.model.train()
    smoothing = float(trainer.args.label_smoothing_factor)
    loss, candidates = _loss_and_candidates(trainer, rows.inputs, smoothing)
    shift, clear = which_shift(loss, candidates)
    figures = ", ".join(f"{value:.4f} with {_shifts(shifts)}" for shifts, value in candidates.items())
    seen = f"the training loss is {loss:.4f}; cross-entropy by hand is {figures}"
    if not clear:
        # Over few labels, even the logits of a new model differ enough.
        few = {**rows.inputs, "labels": _few_labels(rows.labels)}
        shift, clear = which_shift(*_loss_and_candidates(trainer, few, smoothing))
    if not clear:
        return [Finding(check, "inconclusive", f"{seen}: the logits are too similar to distinguish these")]
    if shift is None and "loss_weights" in rows.inputs:
        plain = {name: value for name, value in rows.inputs.items() if name != "loss_weights"}
        largest = float(rows.inputs["loss_weights"].max())
        weighted = Finding(
            "loss",
            "note",
            f"some tokens have up to {largest:g} times the weight of others, which is not the standard objective",
            "No published story model needed token weights to learn articles.",
        )
        return [*check_loss(trainer, dataclasses.replace(rows, inputs=plain), offset), weighted]
    if shift is None:
        advice = "Use the model's own loss: plain cross-entropy, one shift, no weights."
        return [Finding(check, "error", f"{seen}: the loss is none of these", advice)]
    if offset is None:
        return [Finding(check, "inconclusive", f"{seen}; but the labels are not the inputs (see `labels`)")]
    horizon = offset + shift
    where = f"the labels are shifted {_times(offset)} in the data and {_times(shift)} in the model"
    if smoothing:
        where += f", with label smoothing {smoothing:g}"
    if horizon == 1:
        return [
            Finding(check, "ok", f"position t is scored on token t+1: {where}; {seen}"),
            *_check_accumulation(trainer, rows, loss, shift),
        ]
    return [
        Finding(
            check,
            "error",
            f"position t is scored on token {f't+{horizon}' if horizon else 't itself'}: {where}; {seen}",
            "Shift exactly once: give labels equal to input_ids and let the model shift.",
        )
    ]


def _loss_and_candidates(trainer, inputs: dict, smoothing: float) -> tuple[float, dict[int, float]]:
    loss, logits = run(trainer, inputs)
    return float(loss), by_hand(logits, inputs["labels"].cpu(), smoothing)


def _few_labels(labels: torch.Tensor, count: int = 4) -> torch.Tensor:
    """The first few scored labels behind the beginning of the row; the rest is not scored."""
    few = torch.full_like(labels, IGNORE_INDEX)
    for row in range(len(labels)):
        places = (labels[row, 2:] != IGNORE_INDEX).nonzero().flatten()[:count] + 2
        few[row, places] = labels[row, places]
    return few


def _check_accumulation(trainer, rows: Rows, loss: float, shift: int) -> list[Finding]:
    """Whether the loss over several batches is the mean over all their tokens."""
    args = trainer.args
    if args.gradient_accumulation_steps == 1 or args.world_size > 1 or not trainer.model_accepts_loss_kwargs:
        return []
    scored = int((rows.labels[:, shift:] != IGNORE_INDEX).sum())
    doubled, _ = run(trainer, rows.inputs, items=2 * scored)
    if abs(float(doubled) - loss / 2) <= 1e-2 * max(1.0, loss):
        return [
            Finding(
                "gradient accumulation", "ok", "the loss is divided by the scored tokens of all accumulated batches"
            )
        ]
    if abs(float(doubled) - loss) > 1e-2 * max(1.0, loss):
        return []
    return [
        Finding(
            "gradient accumulation",
            "error",
            f"the model takes `num_items_in_batch` and does not divide by it ({float(doubled):.4f} instead of "
            f"{loss / 2:.4f})",
            "Pass the **kwargs of forward to the loss function.",
        )
    ]


def _shifts(shift: int) -> str:
    return ("no shift", "one shift", "two shifts")[shift]


def _times(shift: int) -> str:
    return ("not at all", "once", "twice")[shift]


def check_leaks(trainer, rows: Rows, tokenizer) -> list[Finding]:
    """Whether tokens of one story change the logits of another, and whether a later token changes an earlier one."""
    findings = []
    ordinary = _ordinary_tokens(trainer.model, tokenizer, rows)
    for mode in ("train", "eval"):
        trainer.model.train(mode == "train")
        _, before = run(trainer, rows.inputs)
        findings.append(_check_leak(trainer, rows, ordinary, before, mode))
    ahead = torch.zeros_like(rows.padding)
    for row, first, end in rows.stories:
        ahead[row, first + (end - first + 1) // 2 : end] = True
    own, others = _moves(trainer, rows, ordinary, before, ahead, keep_ends=False)
    if own == 0 or not bool(ahead.any()):
        findings.append(Finding("looking ahead", "inconclusive", "the logits do not depend on the tokens"))
    elif others > LEAK * own:
        findings.append(
            Finding(
                "looking ahead",
                "error",
                f"changing the second half of each story changes the logits of its first half by up to {others:.2g}",
                "Use a causal mask: a model that attends to the next token does not learn to predict it.",
            )
        )
    else:
        findings.append(Finding("looking ahead", "ok", f"later tokens change earlier logits by {others:.1g}"))
    return findings


def _check_leak(trainer, rows: Rows, ordinary: torch.Tensor, before: torch.Tensor, mode: str) -> Finding:
    check = f"leak between stories ({mode} mode)"
    if len(rows.stories) < 2:
        return Finding(check, "inconclusive", "there is only one story in these rows")
    within = len({row for row, _, _ in rows.stories}) < len(rows.stories)
    own = others = 0.0
    for parity in (0, 1):
        chosen = torch.zeros_like(rows.padding)
        for number, (row, first, end) in enumerate(rows.stories):
            if number % 2 == parity:
                chosen[row, first:end] = True
        moved = _moves(trainer, rows, ordinary, before, chosen, keep_ends=True)
        own, others = max(own, moved[0]), max(others, moved[1])
    count = f"{len(rows.stories)} stories in {len(rows.ids)} rows"
    if own == 0:
        return Finding(check, "inconclusive", f"the logits do not depend on the tokens ({count})")
    seen = (
        f"changing every other story of {count} changes its own logits by up to {own:.2g} and those of the others by "
        f"{others:.2g}"
    )
    if others <= LEAK * own:
        return Finding(check, "ok", seen if within else f"{seen}; one story per row")
    causes = [name for name in ("attention_mask",) if name in rows.inputs]
    causes += ["use_cache"] if getattr(trainer.model.config, "use_cache", False) else []
    if not rows.marked:
        return Finding(
            check,
            "note",
            f"{seen}: stories attend to those before them in the row, as in llama2.c and nanoGPT",
            "For document masking, give position_ids that start again at each story, and no attention_mask.",
        )
    blame = f" (the batch or the configuration has {' and '.join(causes)})" if causes else ""
    return Finding(
        check,
        "error",
        f"{seen}, although position_ids start again at each story{blame}",
        "Give position_ids, no attention_mask and use_cache false: transformers masks documents only then.",
    )


def _ordinary_tokens(model, tokenizer, rows: Rows) -> torch.Tensor:
    size = model.get_input_embeddings().num_embeddings
    special = set(tokenizer.all_special_ids) if tokenizer is not None else set()
    known = range(size) if tokenizer is None else sorted(set(tokenizer.get_vocab().values()))
    ordinary = [index for index in known if index < size and index not in special]
    return torch.tensor(ordinary, device=rows.ids.device)


def _moves(
    trainer, rows: Rows, ordinary: torch.Tensor, before: torch.Tensor, chosen: torch.Tensor, keep_ends: bool
) -> tuple[float, float]:
    """How much the logits change at the chosen positions and at the others (without padding), where the tokens at the
    chosen positions are changed; with `keep_ends`, the first and the last token of each story are not changed."""
    changed = chosen.clone()
    for row, first, end in rows.stories if keep_ends else ():
        changed[row, first] = changed[row, end - 1] = False
    generator = torch.Generator(device=rows.ids.device).manual_seed(1)
    drawn = ordinary[torch.randint(len(ordinary), rows.ids.shape, generator=generator, device=rows.ids.device)]
    _, now = run(trainer, {**rows.inputs, "input_ids": torch.where(changed, drawn, rows.ids)})
    moved = (now - before).abs().amax(-1)
    own, rest = chosen.cpu(), (~chosen & ~rows.padding).cpu()
    return float(moved[own].max()) if own.any() else 0.0, float(moved[rest].max()) if rest.any() else 0.0
