"""Models and tokenizers of github.com/karpathy/llama2.c, from the files that its C programs read.

Design decisions
- **All three kinds of model file**: "legacy" (seven integers, then float32), version 1 (a header of 256 bytes, then
  float32) and version 2 (int8 in groups, each with a float32 scale, as `runq.c` reads it). Of an int8 file the weights
  are taken as they are when multiplied out; that `runq.c` rounds activations too is its way to compute.
- **Rotary positions turn rows, not numbers.** llama2.c rotates the pairs (0, 1), (2, 3) of each head and transformers
  the pairs (0, n/2), (1, n/2 + 1), so the rows of the query and key projections change places and nothing is computed.
  The rest is fixed in llama2.c: whole heads are rotated, theta is 10,000, the norm's epsilon 1e-5.
- **The header is checked against the length of the file before anything is read.** A file without a magic number is a
  legacy model exactly if its length is what its first seven integers imply.
- **The tokenizer is a list of merges.** llama2.c joins, again and again, the two neighbours whose union has the best
  score. With distinct scores that is a BPE whose merges are all pairs that make a piece, in the order of the pieces'
  scores; the order of the pairs that make the same piece was not seen to matter in thousands of random vocabularies.
  Where two pieces that can be made have the same score, it takes the leftmost, which no list of merges says,
  and the tokenizer is refused.
- **A space is a space.** A text gets one in front, and pieces have them as they are: the sign that SentencePiece
  writes for it would make that sign in a text a space too.
- **A story ends where the next begins.** llama2.c trains on `<s> story <s> story`, and its programs stop at `<s>`;
  the models of Meta end with `</s>`. So the tokenizer keeps the ids of the file, and `generate()` stops at both.
- **`<unk>` pads.** No text has it, since unknown characters are spelt in bytes, and another token would need a row
  that the embedding does not have.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import PreTrainedTokenizerFast
from tinystories.tokenization.bpe import CHAT_TEMPLATE

from ..errors import UserError, first_line


MAGIC = 0x616B3432  # "ak42"
HEADER_BYTES = {0: 28, 1: 256, 2: 256}
KINDS = {0: "legacy, float32", 1: "version 1, float32", 2: "version 2, int8"}
UNK, BOS, EOS = SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
FIRST_PIECE = len(SPECIAL_TOKENS) + 256
# Longer ones are not in any vocabulary: who claims them is another kind of file.
LONGEST_PIECE = 1024
# What llama2.c starts its search for the best score from.
LOWEST_SCORE = -1e10


@dataclass(frozen=True)
class Header:
    """The head of a model file; field names are llama2.c's."""

    version: int
    """0 for legacy."""
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int
    tied: bool
    group_size: int
    """Numbers that share a scale, in version 2."""

    @property
    def head_size(self) -> int:
        return self.dim // self.n_heads

    def sections(self) -> Iterator[tuple[str, tuple[int, ...], bool]]:
        """What follows the header, in order: name, shape, whether it may be int8. The layers of a kind are one."""
        layers, dim, hidden = self.n_layers, self.dim, self.hidden_dim
        kv_dim = self.n_kv_heads * self.head_size
        embedding = ("embedding", (self.vocab_size, dim), True)
        norms = [
            ("attention_norm", (layers, dim), False),
            ("ffn_norm", (layers, dim), False),
            ("norm", (dim,), False),
        ]
        attention = [
            ("wq", (layers, dim, dim), True),
            ("wk", (layers, kv_dim, dim), True),
            ("wv", (layers, kv_dim, dim), True),
            ("wo", (layers, dim, dim), True),
        ]
        ffn = [
            ("w1", (layers, hidden, dim), True),
            ("w2", (layers, dim, hidden), True),
            ("w3", (layers, hidden, dim), True),
        ]
        table = (self.seq_len, self.head_size // 2)
        if self.version == 0:
            yield from [embedding, norms[0], *attention, norms[1], *ffn, norms[2]]
            yield from [("cosines", table, False), ("sines", table, False)]
        else:
            yield from [*norms, embedding, *attention, *ffn]
        if not self.tied:
            yield ("head", (self.vocab_size, dim), True)

    def file_bytes(self) -> int:
        """The length of a file with this header."""
        total = HEADER_BYTES[self.version]
        for _, shape, may_be_int8 in self.sections():
            numbers = math.prod(shape)
            int8 = self.version == 2 and may_be_int8
            total += numbers + 4 * (numbers // self.group_size) if int8 else 4 * numbers
        return total


def read_header(path: str | Path) -> Header:
    """The header of a model file whose length is what it implies.

    Raises:
        UserError: where the file is no model of llama2.c, is cut short, or goes on after its end.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    with path.open("rb") as file:
        start = file.read(256)
    if len(start) < HEADER_BYTES[0]:
        raise UserError(f"{path} is {len(start)} bytes long, which is not even the header of a model.")
    magic, version = struct.unpack_from("<Ii", start)
    group_size = 1
    if magic == MAGIC:
        if version not in (1, 2):
            raise UserError(f"{path} is a llama2.c model of version {version}; legacy, 1 and 2 can be read.")
        if len(start) < HEADER_BYTES[version]:
            raise UserError(f"{path} is cut short: it ends in its header.")
        *sizes, tied = struct.unpack_from("<7iB", start, 8)
        if version == 2:
            (group_size,) = struct.unpack_from("<i", start, 37)
        if tied > 1:
            raise UserError(f"{path} is damaged: whether the head is the embedding is {tied}, neither 0 nor 1.")
    else:
        version, sizes = 0, list(struct.unpack_from("<7i", start))
        tied = sizes[5] > 0
        sizes[5] = abs(sizes[5])

    header = Header(version, *sizes, bool(tied), group_size)
    is_model = "is no model of llama2.c" if version == 0 else "is damaged"
    fault = _fault(header)
    if fault:
        raise UserError(f"{path} {is_model}: {fault}.")
    length, expected = path.stat().st_size, header.file_bytes()
    if length != expected:
        trouble = "it is cut short" if length < expected else "something follows its end"
        instead = " or it is damaged" if version else ", or it is no model of llama2.c"
        raise UserError(f"{path} is {length:,} bytes long, and its header implies {expected:,}: {trouble}{instead}.")
    return header


def load_llama2c(path: str | Path) -> TinyLlamaForCausalLM:
    """The model in a `.bin` file, float32, ready for inference.

    Raises:
        UserError: where the file is no model of llama2.c, or damaged.
    """
    path = Path(path)
    header = read_header(path)
    try:
        config = TinyLlamaConfig(
            vocab_size=header.vocab_size,
            hidden_size=header.dim,
            intermediate_size=header.hidden_dim,
            num_hidden_layers=header.n_layers,
            num_attention_heads=header.n_heads,
            num_key_value_heads=header.n_kv_heads,
            max_position_embeddings=header.seq_len,
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
            partial_rotary_factor=1.0,
            tie_word_embeddings=header.tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    except ValueError as error:
        raise UserError(f"{path} describes no model that can be built: {first_line(error)}.") from None
    read = _read_sections(path, header)
    if header.version == 0:
        _check_rotary_table(path, header, read.pop("cosines"), read.pop("sines"))

    weights = {"model.embed_tokens.weight": read["embedding"], "model.norm.weight": read["norm"]}
    weights["lm_head.weight"] = read["embedding" if header.tied else "head"]
    for i in range(header.n_layers):
        for theirs, ours in (
            ("attention_norm", "input_layernorm"),
            ("wv", "self_attn.v_proj"),
            ("wo", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("w1", "mlp.gate_proj"),
            ("w2", "mlp.down_proj"),
            ("w3", "mlp.up_proj"),
        ):
            weights[f"model.layers.{i}.{ours}.weight"] = read[theirs][i]
        for theirs, ours in (("wq", "q_proj"), ("wk", "k_proj")):
            weights[f"model.layers.{i}.self_attn.{ours}.weight"] = _pairs_to_halves(read[theirs][i], header.head_size)
    model = TinyLlamaForCausalLM._from_config(config, dtype=torch.float32)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def load_llama2c_tokenizer(path: str | Path, vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a file such as `tokenizer.bin`, which encodes as llama2.c does, `<s>` in front.

    As with every tokenizer of transformers, the name of a special token in a text is that token; with
    `split_special_tokens=True` it is spelt out, as llama2.c always does.

    Decoding drops one space at the beginning, where llama2.c drops the one after `<s>`. It does so where there is no
    `<s>`, too, as transformers' own Llama tokenizers do, since special tokens are skipped before anything is decoded:
    so decode a story whole. What decodes new tokens alone, as the pipeline of transformers 5 does, loses a space.

    Args:
        vocab_size: of the model; the file does not say how many pieces it has.
        model_max_length: in tokens.

    Raises:
        UserError: where the file is no such tokenizer, or no list of merges encodes as it does.
    """
    path = Path(path)
    pieces = _read_pieces(path, vocab_size)
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(piece for i, (piece, _) in enumerate(pieces) if ids[piece] != i)
        raise UserError(f"{path} has the piece {twice!r} twice.")
    if " " not in ids:
        raise UserError(f"{path} has no piece for the space, which llama2.c puts in front of every text.")

    backend = Tokenizer(models.BPE(vocab=ids, merges=_merges(path, pieces, ids), byte_fallback=True, unk_token=UNK))
    backend.normalizer = normalizers.Prepend(" ")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, ids[BOS])]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(f"{BOS} ", BOS), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=UNK,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def _fault(header: Header) -> str | None:
    for name in ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len", "group_size"):
        if getattr(header, name) < 1:
            return f"{name} is {getattr(header, name):,}"
    if header.dim % header.n_heads:
        return f"dim ({header.dim:,}) is not a multiple of n_heads ({header.n_heads:,})"
    if header.n_heads % header.n_kv_heads:
        return f"n_heads ({header.n_heads:,}) is not a multiple of n_kv_heads ({header.n_kv_heads:,})"
    if header.head_size % 2:
        return f"a head is {header.head_size} wide, and rotary positions turn pairs"
    for name, shape, may_be_int8 in header.sections():
        if header.version == 2 and may_be_int8 and math.prod(shape[-2:]) % header.group_size:
            return f"{name} cannot be divided into groups of {header.group_size:,}"
    return None


def _read_sections(path: Path, header: Header) -> dict[str, torch.Tensor]:
    data = np.memmap(path, dtype=np.uint8, mode="r")
    offset = HEADER_BYTES[header.version]
    sections: dict[str, torch.Tensor] = {}

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal offset
        numbers = np.frombuffer(data, dtype=kind, count=count, offset=offset)
        offset += numbers.nbytes
        return numbers

    for name, shape, may_be_int8 in header.sections():
        count = math.prod(shape)
        if header.version == 2 and may_be_int8:
            # The scales of each matrix follow it, so that the layers of a kind come one by one.
            matrices = shape[0] if len(shape) == 3 else 1
            numbers = np.empty((matrices, count // matrices // header.group_size, header.group_size), np.float32)
            for matrix in numbers:
                int8 = take("i1", matrix.size).reshape(matrix.shape)
                scales = take("<f4", len(matrix))
                if not (np.isfinite(scales).all() and (scales >= 0).all()):
                    raise UserError(f"{path} is damaged: a scale in {name} is not finite, or negative.")
                np.multiply(int8, scales[:, None], out=matrix, casting="unsafe")
        else:
            numbers = take("<f4", count).astype(np.float32)
        sections[name] = torch.from_numpy(numbers.reshape(shape))
        if not torch.isfinite(sections[name]).all():
            raise UserError(f"{path} is damaged: {name} holds numbers that are not finite.")
    return sections


def _check_rotary_table(path: Path, header: Header, cosines: torch.Tensor, sines: torch.Tensor) -> None:
    """Legacy files hold the positions' cosines and sines, which newer programs skip and some writers leave zero. Where
    they are something else, the file is not what its header says."""
    if not cosines.any() and not sines.any():
        return
    exponents = torch.arange(0, header.head_size, 2, dtype=torch.float64) / header.head_size
    angles = torch.arange(header.seq_len, dtype=torch.float64)[:, None] / 10_000.0**exponents
    apart = max((cosines - angles.cos()).abs().max().item(), (sines - angles.sin()).abs().max().item())
    if apart > 1e-2:
        raise UserError(f"{path} is damaged, or not what its header says: its table of rotary positions is another.")


def _pairs_to_halves(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """Rows of `[heads * head_size, dim]`, of each head first those with an even number, then those with an odd one."""
    heads = weight.view(-1, head_size // 2, 2, weight.shape[-1])
    return heads.transpose(1, 2).reshape(weight.shape)


def _read_pieces(path: Path, vocab_size: int) -> list[tuple[str, float]]:
    """Names and scores of the pieces, bytes named as `tokenizers` names them."""
    if not path.is_file():
        raise UserError(f"There is no tokenizer {path}.")
    if vocab_size < FIRST_PIECE:
        raise UserError(
            f"A model of {vocab_size} tokens has no tokenizer of llama2.c, where special tokens and bytes alone are "
            f"{FIRST_PIECE}."
        )
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

    pieces: list[tuple[str, float]] = []
    for i, (spelling, score) in enumerate(raw):
        if i < len(SPECIAL_TOKENS):
            name = SPECIAL_TOKENS[i]
        elif i < FIRST_PIECE:
            byte = i - len(SPECIAL_TOKENS)
            name = f"<0x{byte:02X}>"
            # Early versions of llama2.c wrote the byte itself, or the character of that number.
            if spelling not in (name.encode(), bytes([byte]), chr(byte).encode()):
                raise UserError(f"{path} is no tokenizer of llama2.c: piece {i} should be byte {byte}.")
        else:
            try:
                name = spelling.decode()
            except UnicodeDecodeError:
                raise UserError(f"{path} is damaged: piece {i:,} is not UTF-8.") from None
        pieces.append((name, score))
    return pieces


def _merges(path: Path, pieces: list[tuple[str, float]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs that make a piece, best score first."""
    made_of: dict[int, list[tuple[str, str]]] = {}
    for i, (piece, score) in enumerate(pieces[FIRST_PIECE:], FIRST_PIECE):
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs = [pair for pair in cuts if all(ids.get(part, 0) >= FIRST_PIECE for part in pair)]
        if pairs and score > LOWEST_SCORE:
            made_of[i] = pairs
    order = sorted(made_of, key=lambda i: -pieces[i][1])
    for one, other in zip(order, order[1:], strict=False):
        if pieces[one][1] == pieces[other][1]:
            raise UserError(
                f"{path} gives the pieces {pieces[one][0]!r} and {pieces[other][0]!r} the same score: which of them "
                f"llama2.c makes depends on where they stand, and no tokenizer of transformers can do the same."
            )
    return [pair for i in order for pair in made_of[i]]
