"""Load SentencePiece `.model` tokenizers, and the `.bin` that llama2.c creates from one, as transformers tokenizers.

- A `.model` encodes as the library `sentencepiece` does, a `.bin` as llama2.c does, which never normalises and always
  merges.
- BPE scores become merges: all pairs of pieces that form a piece, in the order of the scores. Vocabularies with equal
  scores are refused, because llama2.c then merges by position.
- Normalisation is NFKC plus the exceptions of the file's table. The `Precompiled` normalizer of `tokenizers` would
  apply the table to whole graphemes.
- llama2.c trains on `<s> story <s> story`, so `<s>` is BOS and EOS; [`set_eos_token`] changes that.
"""

import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tinystories.tokenization import PreTrainedTokenizerFast
from tinystories.tokenization.bpe import CHAT_TEMPLATE

from ..utils.errors import UserError
from ..utils.paths import require_readable
from .piece_files import BOS, BYTES, EOS, SPECIAL_TOKENS, UNK, is_sentencepiece, read_bin, read_proto


SPACE = "▁"  # SentencePiece's mark for a space
LOWEST_SCORE = -1e10  # llama2.c merges only pairs with a higher score
UNREACHABLE = -1e4  # score of a piece that must never be chosen
KNOWN_RULES = ("nmt_nfkc", "nfkc")  # others have rules beyond NFKC
PLACEHOLDER = "\ue000"  # the first private-use character; they protect other characters from NFKC


@dataclass(frozen=True)
class SpecialTokens:
    """Names of the special tokens, and whether unknown characters are encoded as bytes."""

    unk: str
    bos: str
    eos: str | None
    pad: str | None
    byte_fallback: bool


def load_piece_tokenizer(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Load a SentencePiece `.model` or a llama2.c `.bin`; the content of the file determines which it is.

    Decoding drops one space at the beginning, as transformers' Llama tokenizers do, so new tokens must be decoded
    together with the prompt. Special tokens in a text are encoded as such unless `split_special_tokens=True`.

    Args:
        vocab_size: of the model; a `.bin` does not contain its number of pieces.
        model_max_length: in tokens.

    Raises:
        UserError: if the file is not such a tokenizer, does not fit the model, or cannot be converted exactly.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no tokenizer {path}: specify its file or folder with --tokenizer.")
    require_readable(path)
    load = load_sentencepiece if is_sentencepiece(path) else load_llama2c_tokenizer
    return load(path, vocab_size, model_max_length)


def set_eos_token(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    """Set the EOS token, and the padding token to another one."""
    tokenizer.eos_token = token
    if tokenizer.pad_token == token:
        tokenizer.pad_token = tokenizer.unk_token


def load_sentencepiece(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Load a `.model`, to encode as the library `sentencepiece` does, with BOS.

    Raises:
        UserError: as [`load_piece_tokenizer`], or if protobuf is not installed.
    """
    path = Path(path)
    proto = read_proto(path)
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    if len(pieces) > vocab_size:
        raise UserError(
            f"{path} has {len(pieces):,} pieces, but the model has {vocab_size:,} tokens: it belongs to another model."
        )
    kind = type(proto.pieces[0])
    ids = _ids(path, [piece for piece, _, _ in pieces])
    for of_type, what in ((kind.USER_DEFINED, "user-defined symbols"), (kind.UNUSED, "pieces marked as unused")):
        found = [piece for piece, _, type_ in pieces if type_ == of_type]
        if found:
            raise _unsupported(path, f"it has {what} ({', '.join(map(repr, found[:3]))})")
    ordinary = {piece: score for piece, score, type_ in pieces if type_ == kind.NORMAL}
    special = _special_tokens(path, proto, pieces)
    if special.byte_fallback and not all(byte in ids for byte in BYTES):
        raise UserError(f"{path} is damaged: some of the 256 byte pieces are missing.")

    trainer = proto.trainer_spec
    if trainer.model_type == trainer.UNIGRAM:
        # SentencePiece never chooses special pieces in a text, but `tokenizers` would if their score is best.
        scored = [(piece, ordinary.get(piece, UNREACHABLE)) for piece in ids]
        model: models.Model = models.Unigram(scored, unk_id=ids[special.unk], byte_fallback=special.byte_fallback)
    elif trainer.model_type in (trainer.BPE, trainer.CHAR):
        merges = _merges(path, ordinary) if trainer.model_type == trainer.BPE else []
        model = models.BPE(
            vocab=ids, merges=merges, byte_fallback=special.byte_fallback, unk_token=special.unk, fuse_unk=True
        )
    else:
        raise _unsupported(path, "it is a word-level model")

    backend = Tokenizer(model)
    split = _split_pattern([piece for piece in ids if piece not in ordinary], ordinary)
    if trainer.model_type == trainer.UNIGRAM and split:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(split), "isolated")
    steps = _normalization(path, proto)
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    drop_space = proto.normalizer_spec.add_dummy_prefix
    return _finish(backend, special, [decoders.Replace(SPACE, " ")], drop_space, model_max_length)


def load_llama2c_tokenizer(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Load a `.bin`, to encode as llama2.c does, with BOS.

    Raises:
        UserError: as [`load_piece_tokenizer`].
    """
    path = Path(path)
    pieces, byte_fallback = read_bin(path, vocab_size)
    ids = _ids(path, [piece for piece, _ in pieces])
    if " " not in ids:
        raise UserError(f"{path} has no piece for a space, which llama2.c adds before every text.")
    first = len(SPECIAL_TOKENS) + (len(BYTES) if byte_fallback else 0)
    merges = _merges(path, dict(pieces[first:]))
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=merges, byte_fallback=byte_fallback, unk_token=UNK, fuse_unk=not byte_fallback)
    )
    backend.normalizer = normalizers.Prepend(" ")
    return _finish(backend, SpecialTokens(UNK, BOS, EOS, None, byte_fallback), [], True, model_max_length)


def _finish(
    backend: Tokenizer, special: SpecialTokens, decoding: list, drop_space: bool, model_max_length: int
) -> PreTrainedTokenizerFast:
    """Add special tokens and the decoder."""
    backend.add_special_tokens(
        [name for name in (special.unk, special.bos, special.eos, special.pad) if name is not None]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special.bos} $A",
        pair=f"{special.bos} $A {special.bos}:1 $B:1",
        special_tokens=[(special.bos, backend.token_to_id(special.bos))],
    )
    steps = [*decoding, decoders.ByteFallback(), decoders.Fuse()]
    if drop_space:
        steps += [decoders.Replace(f"{special.bos} ", special.bos), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    pad = special.pad or (special.unk if special.byte_fallback or special.eos is None else special.eos)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special.bos,
        eos_token=special.bos,
        unk_token=special.unk,
        pad_token=pad,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def _ids(path: Path, pieces: list[str]) -> dict[str, int]:
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        duplicate = next(piece for i, piece in enumerate(pieces) if ids[piece] != i)
        raise UserError(f"{path} has the piece {duplicate!r} twice.")
    return ids


def piece_pairs(pieces: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield all pairs of pieces that form a piece."""
    for piece in pieces:
        for cut in range(1, len(piece)):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield piece[:cut], piece[cut:]


def _merges(path: Path, scores: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, best score first."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in piece_pairs(scores):
        if scores["".join(pair)] > LOWEST_SCORE:
            pairs["".join(pair)].append(pair)
    order = sorted(pairs, key=lambda piece: -scores[piece])
    for one, other in pairwise(order):
        if scores[one] == scores[other]:
            raise UserError(
                f"No tokenizer of transformers can reproduce {path}: the pieces {one!r} and {other!r} have the same "
                f"score, so the order of their merges depends on the text."
            )
    return [pair for piece in order for pair in pairs[piece]]


def _special_tokens(path: Path, proto: Any, pieces: list[tuple[str, float, int]]) -> SpecialTokens:
    kind, trainer = type(proto.pieces[0]), proto.trainer_spec
    unknown = [piece for piece, _, type_ in pieces if type_ == kind.UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"{path} is damaged: it has {len(unknown)} unknown pieces instead of one.")

    def control(index: int) -> str | None:
        return pieces[index][0] if 0 <= index < len(pieces) and pieces[index][2] == kind.CONTROL else None

    bos, eos, pad = (control(index) for index in (trainer.bos_id, trainer.eos_id, trainer.pad_id))
    if bos is None:
        raise UserError(
            f"{path} has no BOS token (`bos_id` is {trainer.bos_id}), which the models of this package need."
        )
    return SpecialTokens(unknown[0], bos, eos, pad, trainer.byte_fallback)


def _split_pattern(names: list[str], ordinary: Collection[str]) -> str | None:
    """A pattern that matches, in each name, its first character that is not an ordinary piece; None if there is none.

    In a unigram model, any piece has a better score than an unknown character. So this character is split off;
    otherwise a special name in a text would be encoded as the special piece.
    """
    spellings: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        unknown = next((i for i, character in enumerate(name) if character not in ordinary), None)
        if unknown is not None:
            spellings[name[:unknown], name[unknown]].append(re.escape(name[unknown + 1 :]))
    patterns = [
        f"(?<={re.escape(before)}){re.escape(character)}(?={'|'.join(behind)})"
        for (before, character), behind in spellings.items()
    ]
    return "|".join(patterns) or None


def _normalization(path: Path, proto: Any) -> list[normalizers.Normalizer]:
    spec = proto.normalizer_spec
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise _unsupported(path, "it marks spaces after words")
    if not spec.escape_whitespaces:
        raise _unsupported(path, "it does not mark spaces")
    if proto.denormalizer_spec.precompiled_charsmap:
        raise _unsupported(path, "it has denormalisation rules")
    rules = spec.precompiled_charsmap
    if rules and spec.name not in KNOWN_RULES:
        raise _unsupported(path, f"it has custom normalisation rules ({spec.name or 'unnamed'})")
    prefix = [normalizers.Prepend(" ")] if spec.add_dummy_prefix else []
    steps = _rules(rules) if rules else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " "), *prefix]
    else:
        # The space is added even if nothing remains of the text.
        steps = [*prefix, *steps]
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(f"{SPACE}+\\z"), ""))
    return steps


def _rules(table: bytes) -> list[normalizers.Normalizer]:
    """NFKC, with the exceptions in `table`: characters that become a space or nothing, or stay."""
    of_table, nfkc = normalizers.Precompiled(table), normalizers.NFKC()
    replaced: dict[str, list[str]] = {" ": [], "": []}
    kept: list[str] = []
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in ("Cn", "Co", "Cs", "Lo"):
            continue
        wanted, found = of_table.normalize_str(character), nfkc.normalize_str(character)
        if wanted == found:
            continue
        if wanted in replaced:
            replaced[wanted].append(character)
        elif wanted == character:
            kept.append(character)
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(Regex(f"[{''.join(map(re.escape, characters))}]"), content)
        for content, characters in replaced.items()
        if characters
    ]
    placeholders = [(character, chr(ord(PLACEHOLDER) + i)) for i, character in enumerate(kept)]
    steps += [normalizers.Replace(character, placeholder) for character, placeholder in placeholders]
    steps.append(nfkc)
    return steps + [normalizers.Replace(placeholder, character) for character, placeholder in placeholders]


def _unsupported(path: Path, reason: str) -> UserError:
    return UserError(f"No tokenizer of transformers can reproduce {path}: {reason}.")
