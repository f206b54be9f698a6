"""Check document masking within packed rows, and the causal mask.

- Some tokens are changed, and the logits at positions that must not attend to them may not change. The attention mask
  itself is not inspected.
- The attention that the trainer uses is tested in training and in evaluation mode. If that is `story_varlen`, the mask
  that a plain `Trainer` gets from `position_ids` is tested, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer

from ..training.packed_attention import NAME
from .batches import Rows
from .findings import Finding, as_check, error, inconclusive, note, ok
from .forward import embedding_count, masked_logits, model_of, training_logits
from .recorder import Recorder


Forward = Callable[[Trainer, dict], Tensor]
# Largest change of the other logits, relative to that of the changed stories. With a mask it is 0, without one tenths.
LEAK = 1e-3
MASK_ADVICE = (
    "Pass position_ids, use_cache=False and no attention_mask; otherwise transformers does not mask documents."
)


def check_leaks(trainer: Trainer, rows: Rows, tokenizer: PreTrainedTokenizerBase | None) -> list[Finding]:
    """Whether tokens of one story change the logits of another, and whether a later token changes an earlier one."""
    tokens = _ordinary_tokens(trainer, tokenizer, rows)
    findings = []
    for mode in ("train", "eval"):
        model_of(trainer).train(mode == "train")
        check = as_check(f"document masking ({mode} mode)")(_check_leak)
        findings += check(trainer, rows, tokens, training_logits)
    findings += _check_causal_mask(trainer, rows, tokens)
    model_of(trainer).train()
    return findings + _check_mask(trainer, rows, tokens)


def _check_leak(trainer: Trainer, rows: Rows, tokens: Tensor, forward: Forward) -> Finding:
    if len(rows.stories) < 2:
        return inconclusive("there is only one story in these rows")
    with Recorder() as recorder:
        before = forward(trainer, rows.inputs)
    own, others = _changes_of_stories(trainer, rows, tokens, forward, before)
    count = f"{len(rows.stories)} stories in {len(rows.ids)} rows"
    if own == 0:
        return inconclusive(f"the logits do not depend on the tokens ({count})")
    config = model_of(trainer).config
    attention = NAME if recorder.attends_per_document else config._attn_implementation
    evidence = (
        f"changing every second story ({count}) changes the logits of these stories by up to {own:.2g} and the logits "
        f"of the other stories by up to {others:.2g} (attn_implementation {attention})"
    )
    if others <= LEAK * own:
        one_per_row = len({row for row, _, _ in rows.stories}) == len(rows.stories)
        return ok(f"{evidence}; one story per row" if one_per_row else evidence)
    if not rows.marked:
        return note(
            f"{evidence}: stories attend to earlier stories of the row, as in llama2.c and nanoGPT",
            "For document masking, pass position_ids that restart at each story, and no attention_mask.",
        )
    possible = {"attention_mask": "attention_mask" in rows.inputs, "use_cache": getattr(config, "use_cache", False)}
    causes = [name for name, given in possible.items() if given]
    cause = f" (the batch or the configuration has {' and '.join(causes)})" if causes else ""
    return error(f"{evidence}, although position_ids restart at each story{cause}", MASK_ADVICE)


@as_check("document masking (attention mask)")
def _check_mask(trainer: Trainer, rows: Rows, tokens: Tensor) -> list[Finding]:
    """Test the mask that the model gets without `story_varlen`, if the trainer uses that for packed rows."""
    with Recorder() as recorder:
        training_logits(trainer, rows.inputs)
    if not (recorder.attends_per_document and rows.marked):
        return []
    finding = _check_leak(trainer, rows, tokens, masked_logits)
    if finding.status == "error":
        # This run does not use the mask.
        return [note(finding.evidence, "A plain Trainer would train this model without document masking.")]
    return [finding]


@as_check("causal mask")
def _check_causal_mask(trainer: Trainer, rows: Rows, tokens: Tensor) -> Finding:
    later = torch.zeros_like(rows.padding)
    for row, first, end in rows.stories:
        later[row, first + (end - first + 1) // 2 : end] = True
    before = training_logits(trainer, rows.inputs)
    own, others = _changes(trainer, rows, tokens, training_logits, before, later, later)
    if own == 0 or not later.any():
        return inconclusive("the logits do not depend on the tokens")
    if others > LEAK * own:
        return error(
            f"changing the second half of each story changes the logits of its first half by up to {others:.2g}",
            "Use a causal mask: a model that attends to the next token does not learn to predict it.",
        )
    return ok(f"changing later tokens changes earlier logits by {others:.1g}")


def _ordinary_tokens(trainer: Trainer, tokenizer: PreTrainedTokenizerBase | None, rows: Rows) -> Tensor:
    ids = set(range(embedding_count(model_of(trainer))))
    if tokenizer is not None:
        ids = ids & set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return torch.tensor(sorted(ids), device=rows.ids.device)


def _changes_of_stories(
    trainer: Trainer, rows: Rows, tokens: Tensor, forward: Forward, before: Tensor
) -> tuple[float, float]:
    """The largest change of logits in the changed stories and in the others, if every second story is changed: first
    the even ones, then the odd ones."""
    changes = []
    for parity in (0, 1):
        chosen, inner = torch.zeros_like(rows.padding), torch.zeros_like(rows.padding)
        for row, first, end in rows.stories[parity::2]:
            chosen[row, first:end] = True
            # The first and the last token delimit the story.
            inner[row, first + 1 : end - 1] = True
        changes.append(_changes(trainer, rows, tokens, forward, before, chosen, inner))
    return max(own for own, _ in changes), max(others for _, others in changes)


def _changes(
    trainer: Trainer, rows: Rows, tokens: Tensor, forward: Forward, before: Tensor, chosen: Tensor, replaced: Tensor
) -> tuple[float, float]:
    """The largest change of logits at the chosen positions and at the others (without padding), where the tokens at
    the `replaced` positions are random ones."""
    generator = torch.Generator(device=rows.ids.device).manual_seed(1)
    drawn = tokens[torch.randint(len(tokens), rows.ids.shape, generator=generator, device=rows.ids.device)]
    after = forward(trainer, {**rows.inputs, "input_ids": torch.where(replaced, drawn, rows.ids)})
    change = (after - before).abs().amax(-1)
    own, others = chosen.cpu(), (~chosen & ~rows.padding).cpu()
    return float(change[own].max()) if own.any() else 0.0, float(change[others].max()) if others.any() else 0.0
