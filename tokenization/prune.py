"""Prune a byte-level BPE tokenizer (such as GPT-2's) to the K tokens that a corpus uses most.

A BPE token is made by merges: " Once" needs " On" and "ce". So keeping the K tokens with the highest counts does not
give a tokenizer. Instead, tokens are removed one at a time until K entries are left: always the least used token that
no other token is made from, whose count is added to those of its two halves. All text can still be encoded, and a kept
token is encoded as before.

GPT-2's 50,257 tokens (4.07 bytes per token on held-out TinyStories) pruned to K entries, in bytes per token:

    K                                      10,000   4,000   1,000
    highest counts, and their halves         4.06    3.93    3.05
    least used first (this)                  4.06    3.93    3.11
    a BPE trained on the stories             4.12    3.97    3.14
"""

import heapq
import json
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from .bpe import (
    BASE_SIZE,
    BYTE_ALPHABET,
    MAX_WORDS,
    SPECIAL_TOKENS,
    PreTrainedTokenizerFast,
    build_tokenizer,
    read_texts,
)
from .errors import TokenizerError


logger = logging.getLogger(__name__)

Merge = tuple[str, str]


def prune_to_top_k(
    tokenizer: transformers.PreTrainedTokenizerFast,
    texts: Iterable[str | list[str]],
    k: int = 10_000,
    *,
    model_max_length: int = 512,
    total: int | None = None,
    progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of exactly `k` entries, special tokens and bytes included.

    Ids follow the layout of `train_bpe`; after the bytes, tokens are sorted by how often the corpus uses them.

    Args:
        tokenizer: a byte-level BPE, which is not changed. Its pre-tokenizer is kept, without a prefix space; its
            normalizer, template, special and added tokens are replaced by those of `train_bpe`.
        texts, model_max_length, total, progress: as for `train_bpe`.

    Raises:
        TokenizerError: for a tokenizer of another kind, for a `k` that is too small for any merge or exceeds the
            vocabulary, and for a corpus without text.
    """
    if k < BASE_SIZE + 1:
        raise TokenizerError(
            f"A vocabulary of {k:,} entries is too small: special tokens and bytes take {BASE_SIZE}, so at least "
            f"{BASE_SIZE + 1} are needed."
        )
    merges, pre_tokenizer = _byte_level_parts(tokenizer)
    halves = _halves(merges)
    available = BASE_SIZE + len(halves)
    if k > available:
        raise TokenizerError(
            f"A vocabulary of {k:,} entries is too large: only {available:,} entries of this tokenizer can be kept."
        )

    words: Counter[str] = Counter()
    for text in read_texts(texts, total=total, progress=progress, label="Counting words"):
        found = (word for word, _ in pre_tokenizer.pre_tokenize_str(text))
        words.update(word for word in found if len(words) < MAX_WORDS or word in words)

    kept = _prune(halves, _usage(_model(halves, merges), words), k - BASE_SIZE)
    used = _usage(_model(kept, merges), words)
    by_usage = sorted(kept, key=lambda token: -used[token])  # stable: equal counts stay in merge order
    needed = {token for token in kept if used[token]}
    for token in reversed(kept):  # halves come before the tokens made from them
        if token in needed:
            needed.update(halves[token])
    if unused := len(kept) - sum(token in needed for token in kept):
        logger.warning(
            f"{unused:,} of the {k:,} entries are unused in this corpus: a vocabulary of {k - unused:,} entries "
            f"encodes it identically."
        )
    backend = Tokenizer(_model(by_usage, merges))
    backend.pre_tokenizer = pre_tokenizer
    return build_tokenizer(backend, model_max_length)


def _prune(halves: dict[str, Merge], usage: Counter[str], size: int) -> list[str]:
    """Remove the least used token that no other is made from until `size` are left; returns them in merge order."""
    usage = usage.copy()
    rank = {token: i for i, token in enumerate(halves)}
    needed_by = Counter(half for pair in halves.values() for half in set(pair))
    # Of leaves with equal usage, the last merge is removed first: it was the rarest in the tokenizer's own corpus.
    leaves = [(usage[token], -rank[token], token) for token in halves if not needed_by[token]]
    heapq.heapify(leaves)
    kept = dict.fromkeys(halves)
    while len(kept) > size:
        count, _, token = heapq.heappop(leaves)
        del kept[token]
        for half in halves[token]:
            usage[half] += count
        for half in set(halves[token]):
            needed_by[half] -= 1
            if not needed_by[half] and half in halves:
                heapq.heappush(leaves, (usage[half], -rank[half], half))
    return list(kept)


def _halves(merges: list[Merge]) -> dict[str, Merge]:
    """For each token, in merge order, the two tokens that the last merge joins when its text is encoded.

    Several merges may make the same token, but only one is used. Tokens that the merges do not make from their own
    bytes, because an earlier merge uses one of them, are left out.
    """
    rank = {merge: i for i, merge in enumerate(merges)}
    never = len(merges)
    halves = {}
    for token in dict.fromkeys(left + right for left, right in merges):
        parts = list(token)
        while len(parts) > 1:
            at = min(range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), never))
            pair = (parts[at], parts[at + 1])
            if pair not in rank:
                break
            parts[at : at + 2] = ["".join(pair)]
        else:
            halves[token] = pair
    return halves


def _model(tokens: Iterable[str], merges: list[Merge]) -> models.BPE:
    """A BPE with the special tokens, the bytes and `tokens` in that order, and the merges among them."""
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *BYTE_ALPHABET, *tokens])}
    inside = [(left, right) for left, right in merges if left in vocab and right in vocab and left + right in vocab]
    return models.BPE(vocab=vocab, merges=inside)


def _usage(model: models.BPE, words: Counter[str]) -> Counter[str]:
    """How often each token occurs when the words are encoded."""
    usage: Counter[str] = Counter()
    for word, count in words.items():
        for token in model.tokenize(word):
            usage[token.value] += count
    return usage


def _byte_level_parts(tokenizer) -> tuple[list[Merge], pre_tokenizers.PreTokenizer]:
    """The merges, in order and without those that make special tokens, and the pre-tokenizer of a byte-level BPE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec: dict[str, Any] = {"model": {"type": None}, "pre_tokenizer": None}
    if backend is not None:
        spec = json.loads(backend.to_str())
    model = spec["model"]
    byte_level = [step for step in _flat(spec["pre_tokenizer"]) if step["type"] == "ByteLevel"]
    marks = ("byte_fallback", "end_of_word_suffix", "continuing_subword_prefix")  # SentencePiece's, CLIP's
    if (
        model["type"] != "BPE"
        or not byte_level
        or any(map(model.get, marks))
        or not set(BYTE_ALPHABET) <= set(model["vocab"])
    ):
        kind = model["type"] or "not a fast tokenizer"
        raise TokenizerError(
            f"{type(tokenizer).__name__} ({kind}) cannot be pruned: use a fast tokenizer with a byte-level BPE over "
            "all 256 bytes, such as GPT-2's."
        )
    for step in byte_level:
        step["add_prefix_space"] = False  # otherwise decode(encode(text)) != text
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    pre_tokenizer = Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": spec["pre_tokenizer"]})).pre_tokenizer
    names = {token["content"] for token in spec["added_tokens"] if token["special"]} | set(SPECIAL_TOKENS)
    # tokenizers < 0.20 saved merges as "left right"
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return [(left, right) for left, right in pairs if left + right not in names], pre_tokenizer


def _flat(pre_tokenizer: dict | None) -> list[dict]:
    """The steps of a pre-tokenizer, which may be a sequence of sequences."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _flat(part)]
    return [pre_tokenizer]
