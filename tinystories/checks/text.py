"""The stories and the vocabulary: what validation shares with training, and how the tokenizer encodes the text.

Design decisions:

- Two stories are the same where their words are: case, punctuation and spaces do not count.
- Free text does not share runs of 20 words by accident. Stories made from templates share them by design, so that is a
  note; stories that are the same are an error from one in a hundred validation stories on.
- Training stories are sampled evenly from the whole corpus, and the evidence says how many.
"""

import re

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import tokenizer_report

from ..generation.prompts import added_tokens
from .batches import START_ADVICE
from .findings import Finding


RUN = 20  # words
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# Bytes a token on TinyStories by size of vocabulary, as measured on the same held-out stories: byte-level BPE trained
# on stories (4,096 and 10,000), GPT-2's and Llama 2's.
USUAL_BYTES = {4_096: 3.96, 10_000: 4.10, 32_000: 3.77, 50_257: 4.06}
ARTICLES = ("a", "an", "the")


def evenly(count: int, most: int) -> range:
    """At most `most` indices of `count`, spread evenly."""
    return range(0, count, -(-count // most)) if count else range(0)


# Held-out stories


def check_held_out(train: list[str], validation: list[str], of_train: int, of_validation: int) -> list[Finding]:
    """Whether validation stories stand in training, whole or in long runs of words.

    Args:
        train, validation: samples.
        of_train, of_validation: how many stories they were taken from.
    """
    known: dict[str, int] = {}
    seen = [_words(story, known) for story in train]
    held = [_words(story, known) for story in validation]
    sample = f"{len(held):,} of {of_validation:,} validation stories against {len(seen):,} of {of_train:,} training"
    whole = {words.tobytes() for words in seen}
    same = sum(words.tobytes() in whole for words in held)
    if same == 0:
        findings = [Finding("held-out stories", "ok", f"none of them is a training story, too ({sample})")]
    else:
        findings = [
            Finding(
                "held-out stories",
                "error" if same >= 0.01 * len(held) else "note",
                f"{same:,} are training stories, too, except for case and punctuation ({sample})",
                "Remove them from training, or the validation figure is too low.",
            )
        ]
    # Looked up in one go: each lookup sorts all runs of the training stories.
    runs = [found for words in held if len(found := _runs(words))]
    if not runs:
        return [*findings, Finding("shared word runs", "inconclusive", f"no validation story has {RUN} words")]
    shared = np.isin(np.concatenate(runs), np.concatenate([_runs(words) for words in seen]))
    lengths = np.array([len(found) for found in runs])
    shares = np.add.reduceat(shared, np.cumsum(lengths) - lengths, dtype=float) / lengths
    any_shared, half = int((shares > 0).sum()), int((shares > 0.5).sum())
    evidence = (
        f"{any_shared:,} of {len(shares):,} validation stories share a run of {RUN} words with training, {half:,} of "
        f"them more than half of their text ({sample})"
    )
    if half >= 0.01 * len(shares):
        advice = "Validation measures memorization where so much is shared, as in stories from templates."
        return [*findings, Finding("shared word runs", "note", evidence, advice)]
    return [*findings, Finding("shared word runs", "ok", evidence)]


def _words(story: str, known: dict[str, int]) -> np.ndarray:
    words = WORD.findall(story.lower().replace("’", "'"))
    return np.array([known.setdefault(word, len(known)) for word in words], dtype=np.uint64)


_FACTORS = np.random.default_rng(0).integers(1, 2**63, RUN, dtype=np.uint64) | np.uint64(1)


def _runs(words: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each run of `RUN` words."""
    if len(words) < RUN:
        return np.empty(0, np.uint64)
    return ((np.lib.stride_tricks.sliding_window_view(words, RUN) + np.uint64(1)) * _FACTORS).sum(-1)


# Vocabulary


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, embeddings: int | None, parameters: int | None, width: int):
    """The size of the vocabulary against the model's embeddings `[embeddings, width]`."""
    size = len(tokenizer)
    if embeddings is None:
        return [Finding("vocabulary size", "ok", f"{size:,}")]
    highest = max(tokenizer.get_vocab().values())
    if highest >= embeddings:
        return [
            Finding(
                "vocabulary size",
                "error",
                f"the tokenizer has ids up to {highest:,}, the model {embeddings:,} embeddings",
                "Use the tokenizer of this model, or resize_token_embeddings.",
            )
        ]
    share = embeddings * width / parameters
    evidence = f"{size:,}; {embeddings:,} embeddings are {share:.0%} of {parameters:,} parameters"
    if embeddings - size > 0.1 * embeddings:
        return [Finding("vocabulary size", "note", evidence, "The model has embeddings that no token uses.")]
    if share > 0.5:
        advice = "A smaller vocabulary leaves more parameters for the layers; 10,000 suits stories."
        return [Finding("vocabulary size", "note", evidence, advice)]
    return [Finding("vocabulary size", "ok", evidence)]


def check_articles(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Are " a", " an" and " the" single tokens, and at the beginning of a sentence "A", "An", "The"?"""
    check = "articles"

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    # Each after a word, since some tokenizers put a space of their own in front of a text.
    places = {f'" {word}"': tokens(f"saw {word}") - tokens("saw") for word in ARTICLES}
    places |= {f'". {word.title()}"': tokens(f"ran. {word.title()}") - tokens("ran.") for word in ARTICLES}
    places |= {f'"{word.title()}"': tokens(word.title()) for word in ARTICLES}
    several = {place: count for place, count in places.items() if count != 1}
    if not several:
        return Finding(check, "ok", "a, an and the are single tokens, after a space and capitalised")
    listed = ", ".join(f"{place} {count}" for place, count in several.items())
    return Finding(
        check,
        "note",
        f"not single tokens: {listed}",
        "A vocabulary trained on the stories has single tokens for them; several cost more, but cause no omission.",
    )


def check_tokens(tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> list[Finding]:
    """Bytes a token, lost text, and the part of the vocabulary that these stories use."""
    report = tokenizer_report(tokenizer, stories)
    size, per_token, tokens = report["vocab_size"], report["bytes_per_token"], report["tokens"]
    near = min(USUAL_BYTES, key=lambda known: abs(np.log(known / size)))
    alike = 0.45 < size / near < 2.2
    usual = f"; usual is {USUAL_BYTES[near]:.2f} with {near:,} entries" if alike else ""
    evidence = f"{per_token:.2f} with {size:,} entries, on {len(stories):,} stories{usual}"
    low = alike and per_token < 0.85 * USUAL_BYTES[near]
    findings = [
        Finding(
            "bytes per token",
            "note" if low else "ok",
            evidence,
            "The vocabulary was not trained on such text: train one with `tinystories tokenizer`." if low else "",
        )
    ]
    unused = report["unused_tokens"]
    evidence = f"{unused:,} of {size:,} entries ({unused / size:.0%}) do not occur in {tokens:,} tokens"
    most_unused = tokens >= 5 * size and unused > 0.5 * size
    if tokens < 50 * size and not most_unused:
        findings.append(Finding("unused vocabulary", "inconclusive", f"{evidence}, which are too few to judge"))
    elif unused > 0.2 * size:
        advice = "Train a tokenizer on the stories, or prune this one with `tinystories tokenizer --top-k-of`."
        findings.append(Finding("unused vocabulary", "note", evidence, advice))
    else:
        findings.append(Finding("unused vocabulary", "ok", evidence))
    return [*findings, _check_lost_text(tokenizer, stories[:200])]


def _check_lost_text(tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> Finding:
    check = "lost text"
    encoded = tokenizer(stories, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    missing = sum(unknown in ids for ids in encoded) if unknown is not None else 0
    decoded = tokenizer.batch_decode(encoded, clean_up_tokenization_spaces=False)
    # SentencePiece adds a space in front, which loses nothing.
    changed = sum(text.strip() != story.strip() for text, story in zip(decoded, stories, strict=True))
    if missing:
        return Finding(
            check,
            "error" if missing > 0.01 * len(stories) else "note",
            f"{missing:,} of {len(stories):,} stories have text that is encoded as {tokenizer.unk_token}",
            "Use a byte-level vocabulary, which encodes all text.",
        )
    if changed:
        return Finding(
            check,
            "note",
            f"{changed:,} of {len(stories):,} stories are different after encoding and decoding",
            "Case, accents or spaces are lost, and a model cannot generate what it was never trained on.",
        )
    return Finding(check, "ok", f"{len(stories):,} stories are unchanged after encoding and decoding")


# Quality


# Warnings that few real stories cause (0 of 4,000 TinyStories), so that a corpus where many do is damaged.
DAMAGE = {"unfinished", "very_short", "instructions", "markdown", "web_addresses", "email_addresses", "backslashes"}
DAMAGE |= {"repetitive"}
DAMAGED = 0.2  # fraction of the stories


def quality_findings(
    stories: list[str],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    strict: bool,
    of: int | None = None,
    cleaned: dict | None = None,
) -> list[Finding]:
    """What `tinystories.data.cleaning` finds in these stories; all that cleaning would change is among it.

    Args:
        strict: its warnings, and all that cleaning would change, are errors.
        of: stories of the corpus that these are a sample of.
        cleaned: counts of `clean_stories` for the whole corpus, where it was cleaned.
    """
    from ..data.cleaning import KINDS, check_quality, count_changes

    special = tokenizer.all_special_tokens if tokenizer is not None else ()
    found = {
        finding.kind: finding for finding in check_quality(stories, special_tokens=special, progress=False).findings
    }
    changes = count_changes(stories, special_tokens=special)
    whole = cleaned or {"stories": 0, "repaired": {}, "dropped": {}}
    findings = []
    for kind, about in KINDS.items():
        seen = found.get(kind)
        changed = changes["repaired"].get(kind, 0) + changes["dropped"].get(kind, 0)
        changed_in_all = whole["repaired"].get(kind, 0) + whole["dropped"].get(kind, 0)
        if not (changed or changed_in_all or (seen is not None and about.severity != "info")):
            continue
        count = max(changed, seen.count if seen is not None else 0)
        share = count / len(stories)
        error = about.severity == "error" or strict or (kind in DAMAGE and share > DAMAGED)
        evidence = f"{count:,} of {len(stories):,} stories ({share:.2%})"
        if of is not None and of > len(stories):
            evidence += f", a sample of {of:,}"
        evidence += f": {about.what}"
        if seen is not None and seen.examples:
            evidence += f', such as "{seen.examples[0].excerpt}"'
        if cleaned is None:
            evidence += _changes(changes, kind, "would fix", "would drop")
        elif changed_in_all:
            evidence += _changes(whole, kind, "fixed", "dropped") + f" of all {whole['stories']:,}"
        findings.append(Finding(f"text: {kind}", "error" if error else "note", evidence, about.remedy))
    nothing = f"nothing was found in {len(stories):,} stories that should not be trained on or that cleaning changes"
    return findings or [Finding("text quality", "ok", nothing)]


def _changes(counts: dict, kind: str, fixes: str, drops: str) -> str:
    changed = {fixes: counts["repaired"].get(kind, 0), drops: counts["dropped"].get(kind, 0)}
    named = " and ".join(f"{verb} {count:,}" for verb, count in changed.items() if count)
    return f"; --clean {named}" if named else ""


def check_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the tokenizer has the special tokens that packed rows need."""
    check = "special tokens"
    names = ("bos_token", "eos_token", "pad_token")
    missing = [name for name in names if getattr(tokenizer, name) is None]
    if missing:
        return Finding(
            check,
            "error",
            f"there is no {' and no '.join(missing)}",
            "Add them, or train a tokenizer with `tinystories tokenizer`.",
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return Finding(
            check,
            "error",
            f"pad_token and eos_token are both {tokenizer.eos_token!r}",
            "Give the tokenizer a separate pad token.",
        )
    return Finding(check, "ok", ", ".join(f"{name} {getattr(tokenizer, name)!r}" for name in names))


def check_prompt_ends(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the tokenizer appends something to a prompt: an end-of-text token there ends the story before it."""
    check = "end of a prompt"
    front, behind = added_tokens(tokenizer)
    if not behind:
        return Finding(check, "ok", "the tokenizer appends nothing to a prompt")
    names = " ".join(tokenizer.convert_ids_to_tokens(behind))
    return Finding(
        check,
        "error",
        f"the tokenizer appends {names!r} to every prompt, so the model is asked to continue a finished story",
        "Remove it from the post-processor in tokenizer.json, and set add_eos_token to false in "
        "tokenizer_config.json. The commands of this package remove it from prompts; `pipeline` and other tools do "
        "not.",
    )


def check_prompt_start(tokenizer: PreTrainedTokenizerBase, trained: list[int]) -> Finding:
    """Whether a prompt begins with the tokens with which stories begin in training, `trained`."""
    check = "beginning of a prompt"
    front, _ = added_tokens(tokenizer)
    wanted, given = (" ".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing" for ids in (trained, front))
    if front == trained:
        return Finding(check, "ok", f"{given}, as in training")
    return Finding(
        check,
        "error",
        f"the tokenizer puts {given} in front of a prompt, and training put {wanted} in front of stories",
        START_ADVICE.replace("it", wanted, 1) if trained else "Remove it from the post-processor in tokenizer.json.",
    )
