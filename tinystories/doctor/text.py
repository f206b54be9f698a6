"""The stories and the vocabulary: what validation shares with training, and how the tokenizer cuts the text.

Design decisions:

- Two stories are the same where their words are: case, punctuation and spaces do not count.
- A run of 20 words in common is no accident in free text. Stories made from templates share them by design, so it is
  a note, and stories that are the same are a fault from one in a hundred validation stories on.
- Training stories are sampled evenly from the whole corpus, and the evidence says how many.
"""

import re

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import tokenizer_report

from ..prompts import added_tokens
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
        findings = [Finding("held-out stories", "ok", f"none stands in training too ({sample})")]
    else:
        findings = [
            Finding(
                "held-out stories",
                "fault" if same >= 0.01 * len(held) else "note",
                f"{same:,} stand in training too, but for case and punctuation ({sample})",
                "Leave them out of training, or the validation figure is too good.",
            )
        ]
    # Looked up in one go: each lookup sorts all runs of the training stories.
    runs = [found for words in held if len(found := _runs(words))]
    if not runs:
        return [*findings, Finding("shared word runs", "cannot tell", f"no validation story has {RUN} words")]
    shared = np.isin(np.concatenate(runs), np.concatenate([_runs(words) for words in seen]))
    lengths = np.array([len(found) for found in runs])
    shares = np.add.reduceat(shared, np.cumsum(lengths) - lengths, dtype=float) / lengths
    any_shared, half = int((shares > 0).sum()), int((shares > 0.5).sum())
    evidence = (
        f"{any_shared:,} of {len(shares):,} validation stories share a run of {RUN} words with training, {half:,} of "
        f"them more than half of their text ({sample})"
    )
    if half >= 0.01 * len(shares):
        advice = "Validation measures memory where so much is shared, as in stories from templates."
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
                "fault",
                f"the tokenizer has ids up to {highest:,}, the model {embeddings:,} embeddings",
                "Use the tokenizer that the model was made for, or resize_token_embeddings.",
            )
        ]
    share = embeddings * width / parameters
    evidence = f"{size:,}; {embeddings:,} embeddings are {share:.0%} of {parameters:,} parameters"
    if embeddings - size > 0.1 * embeddings:
        return [Finding("vocabulary size", "note", evidence, "The model has embeddings that no token uses.")]
    if share > 0.5:
        advice = "A smaller vocabulary leaves more of the model for language; 10,000 suits stories."
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
        "A vocabulary trained on the stories has them as one; it is no cause of missing articles, but costs tokens.",
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
            "The vocabulary was not made for such text: train one with `tinystories tokenizer`." if low else "",
        )
    ]
    unused = report["unused_tokens"]
    evidence = f"{unused:,} of {size:,} entries ({unused / size:.0%}) do not occur in {tokens:,} tokens"
    most_unused = tokens >= 5 * size and unused > 0.5 * size
    if tokens < 50 * size and not most_unused:
        findings.append(Finding("unused vocabulary", "cannot tell", f"{evidence}, which are too few to say"))
    elif unused > 0.2 * size:
        advice = "Train a tokenizer on the stories, or cut this one with `tinystories tokenizer --top-k-of`."
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
    # A space in front is a habit of SentencePiece, and loses nothing.
    changed = sum(text.strip() != story.strip() for text, story in zip(decoded, stories, strict=True))
    if missing:
        return Finding(
            check,
            "fault" if missing > 0.01 * len(stories) else "note",
            f"{missing:,} of {len(stories):,} stories hold text that the vocabulary does not know",
            "Use a byte-level vocabulary, which knows all text.",
        )
    if changed:
        return Finding(
            check,
            "note",
            f"{changed:,} of {len(stories):,} stories come back changed from the tokenizer",
            "Case, accents or spaces are lost; a model cannot write what it never sees.",
        )
    return Finding(check, "ok", f"{len(stories):,} stories come back as they were")


# Quality


def quality_findings(stories, tokenizer: PreTrainedTokenizerBase | None, *, strict: bool) -> list[Finding]:
    """What `tinystories/quality.py` finds in these stories, what it only counts left out.

    Args:
        strict: its warnings are faults.
    """
    from ..quality import check_quality

    special = tokenizer.all_special_tokens if tokenizer is not None else ()
    report = check_quality(stories, special_tokens=special, progress=False)
    findings = []
    for found in (*report.faults, *report.warnings):
        example = f', such as "{found.examples[0].excerpt}"' if found.examples else ""
        findings.append(
            Finding(
                f"text: {found.kind}",
                "fault" if strict or found in report.faults else "note",
                f"{found.count:,} of {report.stories:,} stories ({found.share:.2%}): {found.what}{example}",
                found.remedy,
            )
        )
    return findings or [Finding("text quality", "ok", f"nothing to find fault with in {report.stories:,} stories")]


def check_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the tokenizer has what packed rows are made with."""
    check = "special tokens"
    names = ("bos_token", "eos_token", "pad_token")
    missing = [name for name in names if getattr(tokenizer, name) is None]
    if missing:
        return Finding(
            check,
            "fault",
            f"there is no {' and no '.join(missing)}",
            "`tinystories tokenizer` makes one that has them.",
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return Finding(
            check,
            "fault",
            f"{tokenizer.eos_token!r} is padding and end of text in one",
            "Give the tokenizer a pad token of its own.",
        )
    return Finding(check, "ok", ", ".join(f"{name} {getattr(tokenizer, name)!r}" for name in names))


def check_prompt_ends(tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the tokenizer leaves a prompt open: an end-of-text token behind it tells the model to begin anew."""
    check = "end of a prompt"
    front, behind = added_tokens(tokenizer)
    if not behind:
        return Finding(check, "ok", f"tokens that the tokenizer adds in front of a prompt: {len(front)}; behind it: 0")
    names = " ".join(tokenizer.convert_ids_to_tokens(behind))
    return Finding(
        check,
        "fault",
        f"the tokenizer appends {names!r} to every prompt, and a trained model does not continue a finished story",
        "Remove it from the post-processor in tokenizer.json, and set add_eos_token to false in "
        "tokenizer_config.json. This package leaves it out by itself; `pipeline` and other tools do not.",
    )
