"""Cut a byte-level BPE tokenizer (GPT-2's kind) to the K tokens that a corpus uses most, losing no text.

A BPE token is made by merges: " Once" needs " On" + "ce", which need smaller tokens yet. So the K tokens with the
highest counts are not a tokenizer: some of them could no longer be built. The cut therefore works from the other end.
Tokens that no kept token is built from are leaves; the leaf used least is removed, and its uses go to its two halves,
because that is how its text will be spelt from now on; and so on until K entries are left. What remains is closed
under "is built from" at every step, and a half that is never seen itself stays just as long as something needs it.

Held-out TinyStories, GPT-2's 50,257 tokens (4.07 bytes a token) cut to K entries, bytes a token:

    K                                  10,000   4,000   1,000
    highest counts, plus their halves    4.06    3.93    3.05
    least used leaf first (this)         4.06    3.93    3.11
    recounted after each half cut off    4.06    3.93    3.11
    a BPE trained on the stories         4.12    3.97    3.14

The result has the layout of a tokenizer trained here: special tokens 0..2, bytes 3..258, then the kept tokens by how
often the corpus needs them, most used first. Merges keep their order, so a kept token is encoded by the same steps as
before: text that was that one token is that one token still.
"""

import heapq
import json
import logging
from collections import Counter
from collections.abc import Iterable

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from .bpe import (
    BASE_SIZE,
    BYTE_ALPHABET,
    SPECIAL_TOKENS,
    PreTrainedTokenizerFast,
    build_tokenizer,
    read_texts,
)
from .errors import TokenizerError


logger = logging.getLogger(__name__)

Merge = tuple[str, str]


def cut_to_top_k(
    tokenizer: transformers.PreTrainedTokenizerFast,
    texts: Iterable[str | list[str]],
    k: int = 10_000,
    *,
    model_max_length: int = 512,
    total: int | None = None,
    progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of exactly `k` entries (special tokens and bytes included); `tokenizer` is left as it was.

    tokenizer: a byte-level BPE. Its pre-tokenizer is kept, without a prefix space; its normalizer, template, special
    and added tokens are not, and the special tokens of `tinystories.tokenization.bpe` take their place.
    texts: as for `train_bpe`; read once. Memory grows with the number of distinct words.
    model_max_length: in tokens. total, progress: as for `train_bpe`.

    Raises TokenizerError for a tokenizer of another kind, for a `k` that leaves no room for a merge or exceeds the
    vocabulary, and for a corpus without text.
    """
    if k < BASE_SIZE + 1:
        raise TokenizerError(
            f"k={k} is too small: special tokens and bytes take {BASE_SIZE} entries; give {BASE_SIZE + 1} or more"
        )
    merges, pre_tokenizer = _byte_level_parts(tokenizer)
    halves = _halves(merges)
    available = BASE_SIZE + len(halves)
    if k > available:
        raise TokenizerError(f"k={k} is more than this tokenizer can give: {available} entries; give that or less")

    words: Counter[str] = Counter()
    for text in read_texts(texts, total=total, progress=progress, label="counting words"):
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))

    kept = _prune(halves, _usage(_model(halves, merges), words), k - BASE_SIZE)
    used = _usage(_model(kept, merges), words)
    by_usage = sorted(kept, key=lambda token: -used[token])  # stable: what is used as often stays in merge order
    needed = {token for token in kept if used[token]}
    for token in reversed(kept):  # halves come before what they make, so one pass finds the stepping stones too
        if token in needed:
            needed.update(halves[token])
    if spare := len(kept) - sum(token in needed for token in kept):
        logger.warning(f"{spare:,} of the {k:,} entries are no use to this corpus; k={k - spare} encodes it as well")
    backend = Tokenizer(_model(by_usage, merges))
    backend.pre_tokenizer = pre_tokenizer
    return build_tokenizer(backend, model_max_length)


def _prune(halves: dict[str, Merge], usage: Counter[str], size: int) -> list[str]:
    """Remove the least used leaf until `size` tokens are left; returns them in merge order."""
    usage = usage.copy()
    rank = {token: i for i, token in enumerate(halves)}
    needed_by = Counter(half for pair in halves.values() for half in set(pair))
    # Of leaves used as often, the one merged last goes first: earlier merges were commoner where the merges are from.
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
    """The two tokens that the last merge joins when a token's own text is encoded, for each token, in merge order.

    Several merges may make the same token, and only one of them is the one that happens. Tokens that merges do not
    reach from their own bytes, because an earlier merge takes one of their bytes away, are left out.
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
    """A BPE over the special tokens, the bytes and `tokens`, ids in that order, with the merges that stay inside."""
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
    """The merges, in order, and the pre-tokenizer of a byte-level BPE; TokenizerError for another kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal(f"{type(tokenizer).__name__} is not a fast tokenizer")
    spec = json.loads(backend.to_str())
    model, steps = spec["model"], _flat(spec["pre_tokenizer"])
    kinds = {step["type"] for step in steps}
    if model["type"] != "BPE":
        made_by = {"WordPiece": " (BERT's kind)", "Unigram": " (SentencePiece's kind, as in T5)"}
        raise _refusal(f"this is a {model['type']} tokenizer{made_by.get(model['type'], '')}")
    # Llama 2 marks spaces in a normalizer, later conversions of it in a Metaspace pre-tokenizer.
    if model.get("byte_fallback") or "Metaspace" in kinds or "▁" in json.dumps(spec["normalizer"], ensure_ascii=False):
        raise _refusal("this is a SentencePiece BPE tokenizer (Llama 2's kind: over characters)")
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        raise _refusal("this is a BPE tokenizer that marks word ends or word parts (CLIP's kind)")
    if "ByteLevel" not in kinds:
        raise _refusal("this is a BPE tokenizer over characters, not bytes")
    missing = len(set(BYTE_ALPHABET) - set(model["vocab"]))
    if missing:
        raise _refusal(f"this byte-level BPE tokenizer lacks {missing} of the 256 bytes")

    for step in steps:
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False  # else encoding and decoding a text would add a space to it
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    pre_tokenizer = Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": spec["pre_tokenizer"]})).pre_tokenizer
    # A special token may be spelt like an ordinary one; it must not become one, nor a part of one.
    names = {token["content"] for token in spec["added_tokens"] if token["special"]} | set(SPECIAL_TOKENS)
    # Files written before tokenizers 0.20 have "left right", later ones have ["left", "right"].
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return [(left, right) for left, right in pairs if left + right not in names], pre_tokenizer


def _flat(pre_tokenizer: dict | None) -> list[dict]:
    """The steps of a pre-tokenizer, which may be a sequence of sequences."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _flat(part)]
    return [pre_tokenizer]


def _refusal(what: str) -> TokenizerError:
    return TokenizerError(f"{what}; only a byte-level BPE can be cut (GPT-2's kind: vocab.json and merges.txt)")
