"""Check the contents of a trainer's batches: labels, end of text, padding and the beginnings of stories."""

from transformers import PreTrainedTokenizerBase

from ..data.packing import IGNORE_INDEX
from ..generation.prompts import added_tokens
from ..utils.console import counted
from .batches import Rows
from .findings import Finding, as_check, error, inconclusive, note, ok


NO_EOS_ADVICE = "Set eos_token: without an end-of-text token, a model cannot learn to stop."
START_ADVICE = (
    "Make the tokenizer add it in front of prompts: use a post-processor with `BOS $A` in tokenizer.json, and "
    "set add_bos_token to true in tokenizer_config.json if that key is present."
)
FEW_TOKENS = 2_000  # a sample with fewer tokens may contain no end of a story


def label_offset(rows: list[Rows]) -> int | None:
    """The `k` for which every scored label is the input `k` positions later: 0 if the model shifts the labels, 1 if
    the data is shifted; None if there is no such `k`."""
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


@as_check("labels")
def check_labels(rows: list[Rows]) -> Finding:
    """Whether the labels are the inputs, or the inputs shifted by one."""
    scored = sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in rows)
    positions = sum(batch.labels.numel() for batch in rows)
    if not scored:
        return error(
            f"all {positions:,} labels are -100, so there is nothing to learn", "Set labels equal to input_ids."
        )
    offset = label_offset(rows)
    if offset == 0:
        return ok(f"equal to input_ids at all {scored:,} scored positions (of {positions:,} positions)")
    if offset is not None:
        distance = "one position" if offset == 1 else f"{offset} positions"
        return note(f"shifted by {distance} in the data ({scored:,} scored positions)")
    same = sum(int(((b.labels == b.ids) & (b.labels != IGNORE_INDEX)).sum()) for b in rows)
    return error(
        f"{scored - same:,} of {scored:,} scored labels match neither input_ids nor the next two tokens",
        "Set labels equal to input_ids, and to -100 where no loss is wanted.",
    )


@as_check("end of text")
def check_end_of_text(rows: list[Rows], eos: int | None) -> Finding:
    """Whether the stories that end in these rows have a scored end-of-text token."""
    if eos is None:
        return error("the tokenizer has no eos_token", NO_EOS_ADVICE)
    offset = label_offset(rows) or 0
    stories = [(batch, row, first, end) for batch in rows for row, first, end in batch.stories]
    tokens, longest = sum(end - first for *_, first, end in stories), max(end - first for *_, first, end in stories)
    present = sum(int((batch.ids == eos).sum()) for batch in rows)
    scored = sum(int((batch.labels == eos).sum()) for batch in rows)
    # A story that fills the context, or reaches the end of an unpacked row, may be truncated.
    complete = [
        story
        for story in stories
        if story[3] - story[2] < longest and (story[0].marked or story[3] < story[0].ids.shape[1])
    ]
    ended = sum(bool(batch.ids[row, end - 1] == eos) for batch, row, _, end in complete)
    trained = sum(
        bool((batch.labels[row, max(first, end - 1 - offset) : end] == eos).any())
        for batch, row, first, end in complete
    )
    if not scored and not complete and tokens < FEW_TOKENS:
        return inconclusive(f"no story ends in these {tokens:,} tokens")
    if not scored:
        problem, advice = "no story ends with the end-of-text token", "Append it to each story."
        if present:
            problem = f"the inputs contain the end-of-text token {present:,} times, but its labels are all -100"
            advice = "Keep these labels; a collator removes them if pad_token and eos_token are the same."
        return error(f"{problem} ({counted(len(stories), 'story')})", advice)
    if trained < 0.95 * len(complete):
        return error(
            f"only {trained:,} of {len(complete):,} stories that end in these rows have a scored end-of-text token "
            f"({ended:,} have one in the inputs)",
            "Append the end-of-text token to each story, with its label.",
        )
    where = f"at the end of {trained:,} of {len(complete):,} stories that end in these rows"
    return ok(f"the end-of-text token is scored {where if complete else f'{scored:,} times'}")


@as_check("padding")
def check_padding(rows: list[Rows], eos: int | None, pad: int | None) -> Finding:
    """Whether padding is scored, and whether the pad token is the end-of-text token."""
    scored = sum(int((batch.padding & (batch.labels != IGNORE_INDEX)).sum()) for batch in rows)
    fraction = sum(int(batch.padding.sum()) for batch in rows) / sum(batch.ids.numel() for batch in rows)
    if scored:
        return error(f"{scored:,} pad tokens are scored", "Set the labels of padding to -100.")
    if pad is None:
        return note("the tokenizer has no pad token, so rows of different lengths cannot be batched")
    if pad == eos:
        evidence = f"the pad token is the end-of-text token ({pad})"
        advice = "Add a separate pad token to the tokenizer."
        if any(bool((batch.labels == eos).any()) for batch in rows):
            return note(evidence, advice)
        return error(f"{evidence}, and no end of text is scored", advice)
    return ok(f"{fraction:.2%} of the positions, none of them scored; pad_token_id {pad}, eos_token_id {eos}")


@as_check("beginning of text")
def check_story_starts(rows: list[Rows], tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """Whether stories begin with the same tokens as prompts, and whether a story is scored as the continuation of
    another."""
    front, bos = added_tokens(tokenizer)[0], tokenizer.bos_token_id
    start = front or ([] if bos is None else [bos])
    stories = [
        batch.ids[row, first:end].tolist()
        for batch in rows
        for row, first, end in batch.stories
        # The continuation of a long story repeats some tokens of the part before it, without loss; a template in front
        # of a story has no loss, either.
        if not (batch.labels[row, first : first + 2] == IGNORE_INDEX).all()
        or (start and batch.ids[row, first : first + len(start)].tolist() == start)
    ]
    if not stories:
        return [inconclusive("no story begins in these rows")]
    fraction = sum(bool(start) and story[: len(start)] == start for story in stories) / len(stories)
    name = repr(tokenizer.decode(start))
    if front and fraction > 0.5:
        findings = [ok(f"{fraction:.0%} of stories begin with {name}, as prompts do")]
    elif front:
        evidence = f"the tokenizer adds {name} in front of prompts, but only {fraction:.0%} of stories begin with it"
        findings = [note(evidence, "In training, begin stories in the same way as the tokenizer begins prompts.")]
    elif fraction > 0.5:
        evidence = f"{fraction:.0%} of stories begin with {name}, but the tokenizer adds nothing in front of prompts"
        findings = [note(evidence, START_ADVICE)]
    else:
        findings = [ok("neither stories nor prompts begin with a special token")]
    offset = label_offset(rows) or 0
    scored = sum(
        bool(batch.labels[row, first - offset] != IGNORE_INDEX)
        for batch in rows
        for row, first, _ in batch.stories
        if batch.marked and first > offset
    )
    if scored:
        evidence = f"the first token of {scored:,} stories is scored as the continuation of another story"
        findings.append(note(evidence, "Set the label of the first token of each story to -100."))
    return findings
