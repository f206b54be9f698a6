"""Tokenizers of scored pieces, as tokenizers of transformers: SentencePiece's `.model`, and the `.bin` that llama2.c
makes of one.

Design decisions
- **A `.model` encodes as the library `sentencepiece` does, a `.bin` as llama2.c does.** They differ where
  SentencePiece normalises (llama2.c drops that part) and where a model is no BPE (llama2.c always merges). So of two
  files beside a model the `.bin` is taken if both give the same ids for stories, and else the `.model`, with which
  the model was trained.
- **The schema of a `.model` is that of transformers**, read with protobuf, which is the lighter of two packages: the
  library `sentencepiece` is four times as large, and its interface does not give the normalisation rules.
- **A BPE is a list of merges.** Both programs join, again and again, the two neighbours whose union has the best
  score. With distinct scores that is a BPE whose merges are all pairs that make a piece, in the order of the pieces'
  scores; the order of the pairs that make the same piece was not seen to matter in thousands of random vocabularies.
  Where two pieces that can be made have the same score, the leftmost is taken, which no list of merges says, and the
  tokenizer is refused.
- **Unknown characters** are spelt in bytes where the vocabulary has them. Where it has not (most character-level
  vocabularies), each run of them is one `<unk>`, as SentencePiece has it.
- **Normalisation rules** (`nmt_nfkc`, `nfkc`) are in the file as a table, and here NFKC, behind what the table has
  of its own: signs that become a space or nothing. The `Precompiled` normalizer, which takes such a table, applies it
  to whole graphemes and drops what follows the first match in one. NFKC differs where combining marks stand in
  another order than Unicode's or behind a letter that is composed already, and in letters that are newer than the
  Unicode of `tokenizers`.
- **A space is a space in a `.bin`**: pieces have them as they are. SentencePiece writes a sign for it, and takes that
  sign in a text for a space, too.
- **A story ends where the next begins.** llama2.c trains on `<s> story <s> story`, so `<s>` begins and ends a text.
  Whoever imports another kind of model says so with [`set_eos_token`].
- **`<unk>` pads** where no text has it, because characters are spelt in bytes; and `</s>` elsewhere. Another token
  would need a row that the embedding does not have.
"""

import math
import re
import struct
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tinystories.tokenization import PreTrainedTokenizerFast
from tinystories.tokenization.bpe import CHAT_TEMPLATE

from ..utils.errors import UserError, first_line


UNK, BOS, EOS = SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"  # what SentencePiece writes for a space
# Longer ones are not in any vocabulary: who claims them is another kind of file.
LONGEST_PIECE = 1024
# What llama2.c starts its search for the best score from.
LOWEST_SCORE = -1e10
# Of a piece that no text has.
NEVER = -1e4
# SentencePiece's own rules without case folding. Others have sequences of any kind.
KNOWN_RULES = ("nmt_nfkc", "nfkc")
KEPT = "\ue000"  # stands, from here on, for signs that NFKC must not see


@dataclass(frozen=True)
class Roles:
    """Names of the special tokens."""

    unk: str
    bos: str
    eos: str | None
    pad: str | None
    byte_fallback: bool


def load_piece_tokenizer(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a `.model` of SentencePiece or a `.bin` of llama2.c; the content of the file decides which.

    As with every tokenizer of transformers, the name of a special token in a text is that token; with
    `split_special_tokens=True` it is spelt out, as both programs always do.

    Decoding drops one space at the beginning, where llama2.c drops the one after `<s>`. It does so where there is no
    `<s>`, too, as transformers' own Llama tokenizers do, since special tokens are skipped before anything is decoded:
    so decode a story whole. What decodes new tokens alone, as the pipeline of transformers 5 does, loses a space.

    Args:
        vocab_size: of the model; a `.bin` does not say how many pieces it has.
        model_max_length: in tokens.

    Raises:
        UserError: where the file is no such tokenizer, is another model's, or `tokenizers` cannot encode as it does.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no tokenizer {path}.")
    load = load_sentencepiece if _is_sentencepiece(path) else load_llama2c_tokenizer
    return load(path, vocab_size, model_max_length)


def find_piece_tokenizer(folder: Path, vocab_size: int) -> tuple[Path | None, list[str]]:
    """The file in `folder` that is the tokenizer of a model with `vocab_size` tokens, or else None, and the names that
    were looked for. A sole candidate is given even if it does not fit, so that loading it says why."""
    names = [f"tok{vocab_size}.bin", f"tok{vocab_size}.model", "tokenizer.bin", "tokenizer.model"]
    others = sorted(file for file in folder.glob("*.model") if file.is_file() and file.name not in names)
    there = [folder / name for name in names if (folder / name).is_file()]
    fitting = [file for file in (*there, *others) if _pieces_in(file, vocab_size) == vocab_size]
    if not fitting:
        if len(there) > 1:
            for file in filter(_is_sentencepiece, there):
                _read_proto(file)  # may raise what is wrong
            found = ", ".join(file.name for file in there)
            raise UserError(
                f"None of the tokenizers in {folder} ({found}) has the {vocab_size:,} pieces of the model: name its "
                f"file with --tokenizer."
            )
        return next(iter(there), None), [*names, "*.model"]
    # A `.bin` without bytes does not say what an unknown character is.
    fitting.sort(key=lambda file: not _is_sentencepiece(file) and not _has_bytes(_read_bin(file, vocab_size)))
    return fitting[0], []


def alternative_to(chosen: Path, vocab_size: int) -> Path | None:
    """The `.model` beside a `.bin` that it seems to have been made of."""
    beside = chosen.with_suffix(".model")
    fits = not _is_sentencepiece(chosen) and beside.is_file() and _pieces_in(beside, vocab_size) == vocab_size
    return beside if fits else None


def set_eos_token(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    """Set the EOS token, and the padding token to another one."""
    tokenizer.eos_token = token
    if tokenizer.pad_token == token:
        tokenizer.pad_token = tokenizer.unk_token


def load_sentencepiece(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a `.model`, which encodes as the library `sentencepiece` does, `<s>` in front.

    Raises:
        UserError: as [`load_piece_tokenizer`], and where protobuf is not installed.
    """
    path = Path(path)
    proto = _read_proto(path)
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    if len(pieces) > vocab_size:
        raise UserError(
            f"{path} has {len(pieces):,} pieces, and the model {vocab_size:,} tokens: it is another model's."
        )
    kind = type(proto.pieces[0])
    ids = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(piece for i, (piece, _, _) in enumerate(pieces) if ids[piece] != i)
        raise UserError(f"{path} has the piece {twice!r} twice.")
    for of_type, what in ((kind.USER_DEFINED, "user-defined symbols"), (kind.UNUSED, "pieces marked as unused")):
        found = [piece for piece, _, type_ in pieces if type_ == of_type]
        if found:
            raise _unlike(path, f"it has {what} ({', '.join(map(repr, found[:3]))})")
    ordinary = {piece: score for piece, score, type_ in pieces if type_ == kind.NORMAL}
    roles = _roles(path, proto, pieces)
    if roles.byte_fallback and not all(byte in ids for byte in BYTES):
        raise UserError(f"{path} is damaged: it spells characters in bytes and has not all 256.")

    trainer = proto.trainer_spec
    if trainer.model_type == trainer.UNIGRAM:
        # SentencePiece finds no other pieces in a text, and `tokenizers` all that are worth their score.
        scored = [(piece, ordinary.get(piece, NEVER)) for piece in ids]
        model = models.Unigram(scored, unk_id=ids[roles.unk], byte_fallback=roles.byte_fallback)
    elif trainer.model_type in (trainer.BPE, trainer.CHAR):
        merges = _merges(path, ordinary) if trainer.model_type == trainer.BPE else []
        model = models.BPE(
            vocab=ids, merges=merges, byte_fallback=roles.byte_fallback, unk_token=roles.unk, fuse_unk=True
        )
    else:
        raise _unlike(path, "it divides text into words")

    backend = Tokenizer(model)
    apart = _guard([piece for piece in ids if piece not in ordinary], ordinary)
    if trainer.model_type == trainer.UNIGRAM and apart:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(apart), "isolated")
    steps = _normalization(path, proto)
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    drop_space = proto.normalizer_spec.add_dummy_prefix
    return _finish(backend, roles, [decoders.Replace(SPACE, " ")], drop_space, model_max_length)


def load_llama2c_tokenizer(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a file such as `tokenizer.bin`, which encodes as llama2.c does, `<s>` in front.

    Raises:
        UserError: as [`load_piece_tokenizer`].
    """
    path = Path(path)
    raw = _read_bin(path, vocab_size)
    byte_fallback = _has_bytes(raw)
    pieces = _named(path, raw, byte_fallback)
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(piece for i, (piece, _) in enumerate(pieces) if ids[piece] != i)
        raise UserError(f"{path} has the piece {twice!r} twice.")
    if " " not in ids:
        raise UserError(f"{path} has no piece for the space, which llama2.c puts in front of every text.")
    first = len(SPECIAL_TOKENS) + (len(BYTES) if byte_fallback else 0)
    merges = _merges(path, dict(pieces[first:]))
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=merges, byte_fallback=byte_fallback, unk_token=UNK, fuse_unk=not byte_fallback)
    )
    backend.normalizer = normalizers.Prepend(" ")
    return _finish(backend, Roles(UNK, BOS, EOS, None, byte_fallback), [], True, model_max_length)


def _finish(
    backend: Tokenizer, roles: Roles, decoding: list, drop_space: bool, model_max_length: int
) -> PreTrainedTokenizerFast:
    """The special tokens, the decoder and the settings."""
    # Names of their own in any text, and left out where special tokens are skipped.
    backend.add_special_tokens([name for name in (roles.unk, roles.bos, roles.eos, roles.pad) if name is not None])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{roles.bos} $A",
        pair=f"{roles.bos} $A {roles.bos}:1 $B:1",
        special_tokens=[(roles.bos, backend.token_to_id(roles.bos))],
    )
    steps = [*decoding, decoders.ByteFallback(), decoders.Fuse()]
    if drop_space:
        steps += [decoders.Replace(f"{roles.bos} ", roles.bos), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    pad = roles.pad or (roles.unk if roles.byte_fallback or roles.eos is None else roles.eos)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=roles.bos,
        eos_token=roles.bos,
        unk_token=roles.unk,
        pad_token=pad,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def _merges(path: Path, scores: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, best score first."""
    made_of: dict[str, list[tuple[str, str]]] = {}
    for piece, score in scores.items():
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs = [pair for pair in cuts if pair[0] in scores and pair[1] in scores]
        if pairs and score > LOWEST_SCORE:
            made_of[piece] = pairs
    order = sorted(made_of, key=lambda piece: -scores[piece])
    for one, other in zip(order, order[1:], strict=False):
        if scores[one] == scores[other]:
            raise UserError(
                f"{path} gives the pieces {one!r} and {other!r} the same score: which of them is made depends on "
                f"where they stand, and no tokenizer of transformers can do the same."
            )
    return [pair for piece in order for pair in made_of[piece]]


# --- SentencePiece


def _is_sentencepiece(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    # A message of fields, of which the first is a piece; a `.bin` begins with a number below 1,025 in four bytes.
    return path.suffix == ".model" or (start[:1] == b"\n" and start[2:] != bytes(2))


def _read_proto(path: Path):
    """The message `ModelProto` in the file, with pieces in it."""
    try:
        from transformers.convert_slow_tokenizer import import_protobuf

        schema = import_protobuf()
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(
            f"{path} needs one more package to be read: pip install 'tinyllama-stories[import]' (protobuf)."
        ) from None
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is no SentencePiece model, or damaged: {first_line(error)}.") from None
    if not proto.pieces:
        raise UserError(f"{path} is no SentencePiece model: it has no pieces.")
    for i, piece in enumerate(proto.pieces):
        if not piece.piece or not math.isfinite(piece.score):
            raise UserError(f"{path} is damaged: piece {i:,} is {piece.piece!r} with the score {piece.score}.")
    return proto


def _roles(path: Path, proto, pieces: list[tuple[str, float, int]]) -> Roles:
    kind, trainer = type(proto.pieces[0]), proto.trainer_spec
    unknown = [piece for piece, _, type_ in pieces if type_ == kind.UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"{path} is damaged: it has {len(unknown)} pieces for the unknown, and one is needed.")

    def control(index: int) -> str | None:
        return pieces[index][0] if 0 <= index < len(pieces) and pieces[index][2] == kind.CONTROL else None

    bos, eos, pad = (control(index) for index in (trainer.bos_id, trainer.eos_id, trainer.pad_id))
    if bos is None:
        raise UserError(f"{path} has no token that begins a text (`bos_id` is {trainer.bos_id}), which models need.")
    return Roles(unknown[0], bos, eos, pad, trainer.byte_fallback)


def _guard(names: list[str], ordinary: Collection[str]) -> str | None:
    """A regular expression of a character in each of the `names`, where they stand in a text, that no ordinary piece
    has. Any score is better than that of an unknown character, so that this character must be looked at alone for a
    name to be spelt. None where there is no such name."""
    spelt = defaultdict(list)
    for name in names:
        unknown = next((i for i, character in enumerate(name) if character not in ordinary), None)
        if unknown is not None:
            spelt[name[:unknown], name[unknown]].append(re.escape(name[unknown + 1 :]))
    patterns = [
        f"(?<={re.escape(before)}){re.escape(character)}(?={'|'.join(behind)})"
        for (before, character), behind in spelt.items()
    ]
    return "|".join(patterns) or None


def _normalization(path: Path, proto) -> list[normalizers.Normalizer]:
    spec = proto.normalizer_spec
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise _unlike(path, "it puts the sign for a space behind words")
    if not spec.escape_whitespaces:
        raise _unlike(path, "it has no sign for spaces")
    if proto.denormalizer_spec.precompiled_charsmap:
        raise _unlike(path, "it changes text that it decodes")
    rules = spec.precompiled_charsmap
    if rules and spec.name not in KNOWN_RULES:
        raise _unlike(path, f"it has normalisation rules of its own ({spec.name or 'without a name'})")
    prefix = [normalizers.Prepend(" ")] if spec.add_dummy_prefix else []
    steps = _rules(rules) if rules else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " "), *prefix]
    else:
        # A text of which nothing remains gets its space nevertheless.
        steps = [*prefix, *steps]
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(f"{SPACE}+\\z"), ""))
    return steps


def _rules(table: bytes) -> list[normalizers.Normalizer]:
    """NFKC, and what `table` has of its own."""
    of_table, nfkc = normalizers.Precompiled(table), normalizers.NFKC()
    to_space, to_nothing, kept = [], [], []
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in ("Cn", "Co", "Cs", "Lo"):
            continue
        wanted, found = of_table.normalize_str(character), nfkc.normalize_str(character)
        if wanted != found:
            if wanted in ("", " "):
                (to_space if wanted else to_nothing).append(character)
            elif wanted == character:
                kept.append(character)
    steps: list[normalizers.Normalizer] = []
    for characters, content in ((to_space, " "), (to_nothing, "")):
        if characters:
            steps.append(normalizers.Replace(Regex(f"[{''.join(map(re.escape, characters))}]"), content))
    stand_ins = [(character, chr(ord(KEPT) + i)) for i, character in enumerate(kept)]
    steps += [normalizers.Replace(character, stand_in) for character, stand_in in stand_ins]
    steps.append(nfkc)
    return steps + [normalizers.Replace(stand_in, character) for character, stand_in in stand_ins]


def _unlike(path: Path, why: str) -> UserError:
    return UserError(f"No tokenizer of transformers encodes as {path} does: {why}.")


# --- llama2.c


def _pieces_in(path: Path, vocab_size: int) -> int | None:
    """How many pieces the file has, as far as that can be told without reporting what is wrong with it."""
    try:
        return len(_read_proto(path).pieces) if _is_sentencepiece(path) else len(_read_bin(path, vocab_size))
    except UserError:
        return None


def _read_bin(path: Path, vocab_size: int) -> list[tuple[bytes, float]]:
    """Spellings and scores of all pieces in a `.bin`."""
    raw: list[tuple[bytes, float]] = []
    left = path.stat().st_size
    with path.open("rb") as file:
        longest = int.from_bytes(file.read(4), "little")
        left -= 4
        if not 0 < longest <= LONGEST_PIECE:
            raise UserError(f"{path} is no tokenizer of llama2.c: its longest piece would have {longest:,} bytes.")
        while len(raw) < vocab_size:
            if left < 8:
                raise UserError(
                    f"{path} ends after {len(raw):,} pieces, and the model has {vocab_size:,}: it is cut short, or "
                    f"another model's."
                )
            score, length = struct.unpack("<fi", file.read(8))
            left -= 8 + length
            if not 0 < length <= longest:
                raise UserError(
                    f"{path} is no tokenizer of llama2.c: piece {len(raw):,} would have {length:,} bytes, and the "
                    f"longest {longest:,}."
                )
            if left < 0:
                raise UserError(f"{path} is cut short: it ends in piece {len(raw):,}.")
            if not math.isfinite(score):
                raise UserError(f"{path} is damaged: the score of piece {len(raw):,} is {score}.")
            raw.append((file.read(length), score))
    if left:
        raise UserError(
            f"{path} goes on for {left:,} bytes after the {vocab_size:,} pieces that the model has: it is another "
            f"model's, or damaged."
        )
    return raw


def _spellings(byte: int) -> tuple[bytes, ...]:
    """How a `.bin` may name a byte: early versions of llama2.c wrote it itself, or the character of that number."""
    return BYTES[byte].encode(), bytes([byte]), chr(byte).encode()


def _has_bytes(raw: list[tuple[bytes, float]]) -> bool:
    """Whether pieces 3 to 258 are the bytes; the first two of them are in no text."""
    begin = len(SPECIAL_TOKENS)
    return len(raw) >= begin + len(BYTES) and any(raw[begin + byte][0] in _spellings(byte) for byte in (0, 1))


def _named(path: Path, raw: list[tuple[bytes, float]], byte_fallback: bool) -> list[tuple[str, float]]:
    """Names and scores of the pieces, bytes named as `tokenizers` names them."""
    names = [*SPECIAL_TOKENS, *BYTES] if byte_fallback else SPECIAL_TOKENS
    if len(raw) < len(SPECIAL_TOKENS):
        raise UserError(f"{path} has {len(raw)} pieces, and special tokens alone are {len(SPECIAL_TOKENS)}.")
    pieces: list[tuple[str, float]] = []
    for i, (spelling, score) in enumerate(raw):
        if i < len(names):
            byte = i - len(SPECIAL_TOKENS)
            if byte >= 0 and spelling not in _spellings(byte):
                raise UserError(f"{path} is no tokenizer of llama2.c: piece {i} should be byte {byte}.")
            name = names[i]
        else:
            try:
                name = spelling.decode()
            except UnicodeDecodeError:
                raise UserError(f"{path} is damaged: piece {i:,} is not UTF-8.") from None
        pieces.append((name, score))
    return pieces
