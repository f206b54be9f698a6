"""The vocabulary of a GGUF file: a tokenizer in llama.cpp's format, and its comparison with the original.

- A byte-level BPE like GPT-2's has merges. A SentencePiece-like BPE has scores, which are equivalent to merges if
  every pair of pieces that forms a piece is a merge. Any other tokenizer is refused.
"""

import json
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from ..data.synthetic import sample_stories
from ..utils.errors import UserError
from .piece_files import BYTES
from .sentencepiece import SPACE, piece_pairs
from .verify import STORY


STORIES_COMPARED = 200
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's format: `gpt2` (byte-level, with merges) or `llama` (SentencePiece, with scores)."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None = None
    scores: list[float] | None = None
    add_space_prefix: bool = False


def to_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The tokenizer in llama.cpp's format, padded with unused tokens to `size`, which is above its highest id.

    Raises:
        UserError: if llama.cpp cannot encode in the same way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unsupported(f"{type(tokenizer).__name__} is not a fast tokenizer")
    spec = json.loads(backend.to_str())
    model, added = spec["model"], spec["added_tokens"]
    if model["type"] != "BPE":
        raise _unsupported(f"it is a {model['type']} tokenizer")
    if any(
        model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "dropout")
    ):
        raise _unsupported("its BPE has settings that llama.cpp does not support")
    if any(token[name] for token in added for name in ("single_word", "lstrip", "rstrip")):
        raise _unsupported("one of its special tokens depends on the text around it")

    tokens = [f"[PAD{i}]" for i in range(size)]
    types: list[int] = [gguf.TokenType.UNUSED] * size
    for token, i in tokenizer.get_vocab().items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
    for token in added:
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    if len(set(tokens)) < size:
        raise _unsupported("one of its tokens has a name reserved for unused tokens, such as [PAD0]")
    merges = [tuple(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        return _sentencepiece(spec, tokens, types, merges, tokenizer.unk_token_id)
    pre = spec["pre_tokenizer"] or {}
    if spec["normalizer"] is not None or {name: pre.get(name) for name in BYTE_LEVEL} != BYTE_LEVEL:
        raise _unsupported("it does not split text as GPT-2 does")
    return Vocabulary("gpt2", tokens, types, merges=[" ".join(merge) for merge in merges])


def _sentencepiece(
    spec: dict[str, Any], tokens: list[str], types: list[int], merges: list[tuple[str, ...]], unk: int | None
) -> Vocabulary:
    """A vocabulary with scores. llama.cpp repeatedly joins the two neighbours whose union has the best score, which
    equals merges if they are all pairs that form a piece, and the pairs of one piece are adjacent."""
    add_space_prefix = _adds_space_prefix(spec)
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.NORMAL}
    pieces = [piece for piece, _ in groupby(merges, key="".join)]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    if len(merges) != len(set(merges)) or len(pieces) != len(ranks):
        raise _unsupported("its merges are not ordered by piece")
    if set(merges) != set(piece_pairs(normal)):
        raise _unsupported("not all pairs of its pieces that form a piece are merges")

    for i, token in enumerate(tokens):
        if types[i] == gguf.TokenType.NORMAL and token in BYTES:
            types[i] = gguf.TokenType.BYTE
    if unk is not None:
        types[unk] = gguf.TokenType.UNKNOWN
    marked = [
        token.replace(" ", SPACE) if kind == gguf.TokenType.NORMAL else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    if len(set(marked)) < len(marked):
        raise _unsupported(f"two of its pieces differ only in a space and a {SPACE}")
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    return Vocabulary("llama", marked, types, scores=scores, add_space_prefix=add_space_prefix)


def _adds_space_prefix(spec: dict[str, Any]) -> bool:
    """Whether a SentencePiece-like tokenizer adds a space before a text; any other change of the text is refused."""
    normalizer, pre = spec["normalizer"] or {"type": "Sequence", "normalizers": []}, spec["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if pre is None:
        for prefix in (True, False):
            for space, marks in ((" ", []), (SPACE, [mark])):
                if steps == [{"type": "Prepend", "prepend": space}] * prefix + marks:
                    return prefix
    elif not steps and pre["type"] == "Metaspace" and pre["replacement"] == SPACE and not pre.get("split", True):
        return pre["prepend_scheme"] != "never"
    raise _unsupported("it does not split text as SentencePiece does")


def _unsupported(reason: str) -> UserError:
    return UserError(f"llama.cpp cannot reproduce this tokenizer: {reason}.")


def write_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]
) -> None:
    """Write the vocabulary and the special tokens.

    Args:
        eos_token_ids: one to three, which llama.cpp calls EOS, EOT and EOM.
    """
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("gpt-2" if vocabulary.model == "gpt2" else "default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    ids, bare_ids = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    adds_bos = ids == [tokenizer.bos_token_id, *bare_ids]
    if not adds_bos and ids != bare_ids:
        raise _unsupported("it adds special tokens other than BOS to a text")
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(False)
    # The default of llama.cpp for a missing id would be another token of this vocabulary.
    special = [
        (writer.add_bos_token_id, eos_token_ids[0] if tokenizer.bos_token_id is None else tokenizer.bos_token_id),
        *zip((writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), eos_token_ids, strict=False),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ]
    for add, token in special:
        if token is not None:
            add(token)


def compare_tokens(file: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """Encode stories with the tokenizer and with the one in the file, and return the number of stories.

    Raises:
        UserError: if the token ids differ.
    """
    written = _read_tokenizer(file)
    texts = [STORY, *islice(sample_stories(STORIES_COMPARED), STORIES_COMPARED)]
    for text in texts:
        expected = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if written.encode(text, add_special_tokens=False).ids != expected:
            raise UserError(
                "The tokenizer in the GGUF file does not encode text as the model's tokenizer does, so nothing was "
                "written: please report this."
            )
    return len(texts)


def _read_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer that the file describes."""
    fields = gguf.GGUFReader(file).fields

    def field(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types = field("tokens"), field("token_type")
    vocab = {token: i for i, token in enumerate(tokens)}
    if field("model") == "gpt2":
        merges = [tuple(merge.split(" ")) for merge in field("merges")]
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return backend
    score = dict(zip(tokens, field("scores"), strict=True))
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.NORMAL}
    merges = sorted(piece_pairs(normal), key=lambda pair: (-score["".join(pair)], pair))
    unk = fields.get("tokenizer.ggml.unknown_token_id")
    unk_token = tokens[unk.contents()] if unk else None
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token=unk_token))
    prefix = [normalizers.Prepend(SPACE)] if field("add_space_prefix") else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    return backend
