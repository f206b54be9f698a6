"""Find and read tokenizer files: SentencePiece's `.model`, and the `.bin` that llama2.c creates from one.

- A `.model` is a protobuf message. A `.bin` is a list of spellings and scores; it does not contain its length.
- If there are both next to a model, the `.bin` is used if both encode stories identically, otherwise the `.model`.
"""

import math
import struct
from pathlib import Path
from typing import Any

from ..utils.errors import UserError, first_line, install_command


UNK, BOS, EOS = SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LONGEST_PIECE = 1024  # bytes; a file with longer ones is of another kind


def find_piece_tokenizer(folder: Path, vocab_size: int) -> tuple[Path | None, list[str]]:
    """Find the tokenizer of a model with `vocab_size` tokens in a folder.

    Returns:
        The file, or None and the names that were searched for. A single candidate is returned even if it does not fit,
        so that loading it reports the reason.

    Raises:
        UserError: if there are several candidates and none fits, or one of them is damaged.
    """
    names = [f"tok{vocab_size}.bin", f"tok{vocab_size}.model", "tokenizer.bin", "tokenizer.model"]
    others = sorted(file for file in folder.glob("*.model") if file.is_file() and file.name not in names)
    existing = [folder / name for name in names if (folder / name).is_file()]
    fitting = [file for file in (*existing, *others) if _pieces_in(file, vocab_size) == vocab_size]
    if not fitting:
        if len(existing) > 1:
            for file in filter(is_sentencepiece, existing):
                read_proto(file)  # raises if it is damaged
            found = ", ".join(file.name for file in existing)
            raise UserError(
                f"None of the tokenizers in {folder} ({found}) has the {vocab_size:,} pieces of the model: specify "
                f"another file with --tokenizer."
            )
        return next(iter(existing), None), [*names, "*.model"]
    # A `.bin` without byte pieces cannot encode unknown characters.
    fitting.sort(key=lambda file: not is_sentencepiece(file) and not _has_bytes(_read_raw(file, vocab_size)))
    return fitting[0], []


def alternative_to(chosen: Path, vocab_size: int) -> Path | None:
    """The `.model` that a `.bin` was probably created from: the one of the same name in its folder, if it fits."""
    beside = chosen.with_suffix(".model")
    fits = not is_sentencepiece(chosen) and beside.is_file() and _pieces_in(beside, vocab_size) == vocab_size
    return beside if fits else None


def is_sentencepiece(path: Path) -> bool:
    """Whether a file is a `.model`, by its name or content, and not a `.bin`."""
    with path.open("rb") as file:
        start = file.read(4)
    # The first field of the message is a piece; a `.bin` begins with a number below 1,025 in four bytes.
    return path.suffix == ".model" or (start[:1] == b"\n" and start[2:] != bytes(2))


def _pieces_in(path: Path, vocab_size: int) -> int | None:
    """The number of pieces in the file, or None if it cannot be read."""
    try:
        return len(read_proto(path).pieces) if is_sentencepiece(path) else len(_read_raw(path, vocab_size))
    except UserError:
        return None


def read_proto(path: Path) -> Any:
    """The `ModelProto` message in a `.model`, read with the schema that transformers has.

    Raises:
        UserError: if the file is not such a model, is damaged, or protobuf is not installed.
    """
    try:
        from transformers.convert_slow_tokenizer import import_protobuf

        schema = import_protobuf()
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(f"{path} needs protobuf to be read: {install_command('import')}.") from None
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{path} is damaged, or is not a SentencePiece model ({first_line(error)}): download it again, or specify "
            f"another file with --tokenizer."
        ) from None
    if not proto.pieces:
        raise UserError(
            f"{path} is not a SentencePiece model: it has no pieces. Specify another file with --tokenizer."
        )
    for i, piece in enumerate(proto.pieces):
        if not piece.piece or not math.isfinite(piece.score):
            raise UserError(f"{path} is damaged: piece {i:,} is {piece.piece!r} with the score {piece.score}.")
    return proto


def read_bin(path: Path, vocab_size: int) -> tuple[list[tuple[str, float]], bool]:
    """Name and score of each piece in a `.bin`, and whether pieces 3 to 258 are the bytes, named as in `tokenizers`.

    Raises:
        UserError: if the file is not such a tokenizer, is damaged, or has another number of pieces.
    """
    raw = _read_raw(path, vocab_size)
    byte_fallback = _has_bytes(raw)
    names = [*SPECIAL_TOKENS, *BYTES] if byte_fallback else SPECIAL_TOKENS
    if len(raw) < len(SPECIAL_TOKENS):
        raise UserError(f"{path} has {len(raw)} pieces, fewer than the {len(SPECIAL_TOKENS)} special tokens.")
    pieces: list[tuple[str, float]] = []
    for i, (spelling, score) in enumerate(raw):
        if i < len(names):
            byte = i - len(SPECIAL_TOKENS)
            if byte >= 0 and spelling not in _spellings(byte):
                raise UserError(f"{path} is not a llama2.c tokenizer: piece {i} should be byte {byte}.")
            name = names[i]
        else:
            try:
                name = spelling.decode()
            except UnicodeDecodeError:
                raise UserError(f"{path} is damaged: piece {i:,} is not UTF-8.") from None
        pieces.append((name, score))
    return pieces, byte_fallback


def _read_raw(path: Path, vocab_size: int) -> list[tuple[bytes, float]]:
    """Spelling and score of each piece in a `.bin`."""
    raw: list[tuple[bytes, float]] = []
    left = path.stat().st_size
    with path.open("rb") as file:
        longest = int.from_bytes(file.read(4), "little")
        left -= 4
        if not 0 < longest <= LONGEST_PIECE:
            raise UserError(
                f"{path} is neither a SentencePiece model nor a llama2.c tokenizer: specify another file with "
                f"--tokenizer."
            )
        while len(raw) < vocab_size:
            if left < 8:
                raise UserError(
                    f"{path} ends after {len(raw):,} pieces, but the model has {vocab_size:,}: it is truncated, or "
                    f"belongs to another model."
                )
            score, length = struct.unpack("<fi", file.read(8))
            left -= 8 + length
            if not 0 < length <= longest:
                raise UserError(
                    f"{path} is not a llama2.c tokenizer: piece {len(raw):,} would have {length:,} bytes, but the "
                    f"longest has {longest:,}."
                )
            if left < 0:
                raise UserError(f"{path} is truncated: it ends in piece {len(raw):,}.")
            if not math.isfinite(score):
                raise UserError(f"{path} is damaged: the score of piece {len(raw):,} is {score}.")
            raw.append((file.read(length), score))
    if left:
        raise UserError(
            f"{path} has {left:,} extra bytes after the {vocab_size:,} pieces of the model: it is damaged, or "
            f"belongs to another model."
        )
    return raw


def _spellings(byte: int) -> tuple[bytes, ...]:
    """Names of a byte in a `.bin`: early versions of llama2.c wrote the byte, or the character of that number."""
    return BYTES[byte].encode(), bytes([byte]), chr(byte).encode()


def _has_bytes(raw: list[tuple[bytes, float]]) -> bool:
    """Whether pieces 3 to 258 are the bytes; the first two do not occur in text."""
    begin = len(SPECIAL_TOKENS)
    return len(raw) >= begin + len(BYTES) and any(raw[begin + byte][0] in _spellings(byte) for byte in (0, 1))
