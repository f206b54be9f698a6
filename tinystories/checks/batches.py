"""What a `Trainer` feeds to its model: real batches of its own dataloader, the stories in them, and their labels.

Random states, modes, buffers and the trainer's dataloaders are restored afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from ..utils.random_state import preserved_random_state
from .findings import Finding


IGNORE_INDEX = -100
START_ADVICE = (
    "Make the tokenizer add it in front of a prompt: a post-processor with `BOS $A` in tokenizer.json, and "
    "add_bos_token true in tokenizer_config.json where that key is present."
)
BATCHES, MOST_BATCHES, TOKENS = 2, 16, 8_000  # taken: at least two, and more until there are so many tokens


@contextmanager
def untouched(trainer) -> Iterator[None]:
    """Restores the trainer, its model and every random state after the block."""
    model, loaders = trainer.model, trainer.accelerator._dataloaders
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    known = len(loaders)
    try:
        with preserved_random_state():
            yield
    finally:
        del loaders[known:]
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                buffer.copy_(before)
                module._buffers[name] = buffer


def take_batches(trainer) -> list[dict]:
    """The first batches of the trainer's own dataloader, as its collator makes them."""
    loader = trainer.get_train_dataloader()
    # The wrapped loader: accelerate's own would mark its gradient state as within an epoch.
    taken, tokens = [], 0
    for batch in islice(getattr(loader, "base_dataloader", loader), MOST_BATCHES):
        taken.append(batch)
        tokens += batch["input_ids"].numel() if isinstance(batch.get("input_ids"), torch.Tensor) else 0
        if len(taken) >= BATCHES and tokens >= TOKENS:
            break
    return taken


@dataclass
class Rows:
    """One batch and the stories in it.

    Attributes:
        inputs: as the model gets them; `input_ids` and `labels` are `[rows, length]`.
        stories: `(row, first, end)` of each story, padding left out.
        marked: whether `position_ids` that start again mark the stories; else they were found by the end of text.
        padding: bool `[rows, length]`.
    """

    inputs: dict
    stories: list[tuple[int, int, int]]
    marked: bool
    padding: torch.Tensor

    @property
    def ids(self) -> torch.Tensor:
        return self.inputs["input_ids"]

    @property
    def labels(self) -> torch.Tensor:
        return self.inputs["labels"]


def find_stories(inputs: dict, eos: int | None, pad: int | None) -> Rows:
    """Where stories begin and end: where `position_ids` start again or, without such, behind each end of text."""
    ids = inputs["input_ids"]
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    padding = torch.zeros_like(ids, dtype=torch.bool)
    if pad is not None and pad != eos:
        padding |= ids == pad
    if mask is not None and mask.shape == ids.shape:
        padding |= mask == 0
    begins = torch.zeros_like(padding)
    begins[:, 0] = True
    begins[:, 1:] = padding[:, 1:] != padding[:, :-1]
    marked = False
    if positions is not None and positions.shape == ids.shape:
        again = positions.diff(dim=-1) != 1
        marked = bool((again & ~padding[:, 1:]).any())
        begins[:, 1:] |= again
    stories = []
    for row in range(len(ids)):
        bounds = [*begins[row].nonzero().flatten().tolist(), ids.shape[1]]
        for first, end in zip(bounds[:-1], bounds[1:], strict=True):
            if not padding[row, first]:
                stories += (
                    [(row, first, end)] if marked or eos is None else _split_at_eos(ids[row], row, first, end, eos)
                )
    return Rows(inputs, stories, marked, padding)


def _split_at_eos(ids: torch.Tensor, row: int, first: int, end: int, eos: int) -> list[tuple[int, int, int]]:
    stories = []
    for place in (ids[first:end] == eos).nonzero().flatten().tolist():
        # At the beginning of a story the token is its beginning of text.
        if first + place > (begin := stories[-1][2] if stories else first) and first + place + 1 < end:
            stories.append((row, begin, first + place + 1))
    return [*stories, (row, stories[-1][2] if stories else first, end)]


# Labels


def label_offset(rows: list[Rows]) -> int | None:
    """`k` where each scored label is the input `k` places on: 0 where the model shifts, 1 where the data does."""
    for offset in (0, 1, 2):
        matches = total = 0
        for batch in rows:
            length = batch.ids.shape[1] - offset
            scored = batch.labels[:, :length] != IGNORE_INDEX
            matches += int((scored & (batch.labels[:, :length] == batch.ids[:, offset:])).sum())
            total += int(scored.sum())
        if total and matches == total:
            return offset
    return None


def check_labels(rows: list[Rows]) -> Finding:
    scored = sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in rows)
    places = sum(batch.labels.numel() for batch in rows)
    if not scored:
        return Finding(
            "labels",
            "error",
            f"all {places:,} labels are -100, so nothing is trained",
            "Give labels equal to input_ids.",
        )
    offset = label_offset(rows)
    if offset == 0:
        return Finding("labels", "ok", f"equal to input_ids at all {scored:,} scored positions of {places:,}")
    if offset is not None:
        steps = "one position" if offset == 1 else f"{offset} positions"
        return Finding("labels", "note", f"shifted by {steps} in the data ({scored:,} scored positions)")
    same = sum(int(((b.labels == b.ids) & (b.labels != IGNORE_INDEX)).sum()) for b in rows)
    return Finding(
        "labels",
        "error",
        f"{scored - same:,} of {scored:,} scored labels match neither input_ids nor the next two tokens",
        "Give labels equal to input_ids, with -100 where no loss is wanted.",
    )


def check_end_of_text(rows: list[Rows], eos: int | None) -> Finding:
    check = "end of text"
    if eos is None:
        return Finding(
            check,
            "error",
            "the tokenizer has no eos_token",
            "Give it one: without an end-of-text token a model cannot learn to stop.",
        )
    offset = label_offset(rows) or 0
    longest = max(end - first for batch in rows for _, first, end in batch.stories)
    present = sum(int((batch.ids == eos).sum()) for batch in rows)
    scored = sum(int((batch.labels == eos).sum()) for batch in rows)
    whole = ended = learnt = 0
    for batch in rows:
        for row, first, end in batch.stories:
            # What fills the context, or the row to its edge, may be cut off: it need not end here.
            at_edge = not batch.marked and end == batch.ids.shape[1]
            if end - first == longest or at_edge:
                continue
            whole += 1
            ended += bool(batch.ids[row, end - 1] == eos)
            learnt += bool((batch.labels[row, max(first, end - 1 - offset) : end] == eos).any())
    tokens = sum(end - first for batch in rows for _, first, end in batch.stories)
    if scored == 0 and (whole or tokens >= 2_000):
        if present == 0:
            why, advice = "no story ends with it", "Append the end-of-text token to each story."
        else:
            why = f"it is in the inputs {present:,} times, but its labels are all -100"
            advice = "Keep its label; a collator removes it where pad_token and eos_token are the same."
        return Finding(check, "error", f"never trained: {why} ({len_stories(rows):,} stories)", advice)
    if scored == 0:
        return Finding(check, "inconclusive", f"no story ends in these {tokens:,} tokens")
    if whole and learnt < 0.95 * whole:
        return Finding(
            check,
            "error",
            f"only {learnt:,} of {whole:,} stories that end in these rows have a scored end-of-text token ({ended:,} "
            f"have one at all)",
            "Append the end-of-text token to each story, with its label.",
        )
    of = f"at the end of {learnt:,} of {whole:,} stories that end in these rows" if whole else f"{scored:,} times"
    return Finding(check, "ok", f"the end-of-text token is scored {of}")


def len_stories(rows: list[Rows]) -> int:
    return sum(len(batch.stories) for batch in rows)


def check_padding(rows: list[Rows], eos: int | None, pad: int | None) -> Finding:
    check = "padding"
    wrong = sum(int((batch.padding & (batch.labels != IGNORE_INDEX)).sum()) for batch in rows)
    share = sum(int(batch.padding.sum()) for batch in rows) / sum(batch.ids.numel() for batch in rows)
    if wrong:
        return Finding(check, "error", f"{wrong:,} pad tokens are scored", "Give padding the label -100.")
    if pad is not None and pad == eos:
        lost = not any(bool((batch.labels == eos).any()) for batch in rows)
        return Finding(
            check,
            "error" if lost else "note",
            f"the pad token is the end-of-text token ({pad})" + (", and no end of text is scored" if lost else ""),
            "Give the tokenizer a separate pad token.",
        )
    if pad is None:
        return Finding(check, "note", "the tokenizer has no pad token, so rows of different lengths cannot be batched")
    return Finding(check, "ok", f"{share:.2%} of the positions, never scored; pad ({pad}) differs from eos ({eos})")


def check_story_starts(rows: list[Rows], tokenizer) -> list[Finding]:
    """Whether stories begin as prompts will, and whether a story is scored as the continuation of another."""
    check = "beginning of text"
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    given = tokenizer("a")["input_ids"]
    prefix = given[: len(given) - len(bare)] if given[-len(bare) :] == bare else given[:1]
    stories = [
        batch.ids[row, first:end].tolist()
        for batch in rows
        for row, first, end in batch.stories
        # The continuation of a long story repeats some tokens of the part before it, without loss.
        if not (batch.labels[row, first : first + 2] == IGNORE_INDEX).all()
    ]
    if not stories:
        return [Finding(check, "inconclusive", "no story begins in these rows")]
    findings = []
    if prefix:
        share = sum(story[: len(prefix)] == prefix for story in stories) / len(stories)
        shown = tokenizer.decode(prefix)
        if share > 0.5:
            findings.append(
                Finding(
                    check,
                    "ok",
                    f"{share:.0%} of stories begin with {shown!r}, as a prompt does",
                )
            )
        else:
            findings.append(
                Finding(
                    check,
                    "note",
                    f"the tokenizer puts {shown!r} in front of a prompt, but {share:.0%} of stories begin with it",
                    "Begin stories in training as the tokenizer begins prompts.",
                )
            )
    else:
        bos = tokenizer.bos_token_id
        share = sum(story[0] == bos for story in stories) / len(stories) if bos is not None else 0.0
        if share > 0.5:
            findings.append(
                Finding(
                    check,
                    "note",
                    f"{share:.0%} of stories begin with {tokenizer.bos_token!r}, but the tokenizer puts nothing in "
                    f"front of a prompt",
                    START_ADVICE,
                )
            )
        else:
            findings.append(Finding(check, "ok", "neither stories nor prompts begin with a special token"))
    offset = label_offset(rows) or 0
    inner = [(batch, row, first - offset) for batch in rows for row, first, _ in batch.stories if first > offset]
    scored = sum(bool(batch.labels[row, at] != IGNORE_INDEX) for batch, row, at in inner if batch.marked)
    if scored:
        findings.append(
            Finding(
                check,
                "note",
                f"the first token of {scored:,} stories is scored as the continuation of another story",
                "Give the first token of each story the label -100.",
            )
        )
    return findings
