"""Models of github.com/karpathy/llama2.c, from the files that its C programs read. Their tokenizers are in `spm.py`.

Design decisions
- **All three kinds of model file**: "legacy" (seven integers, then float32), version 1 (a header of 256 bytes, then
  float32) and version 2 (int8 in groups, each with a float32 scale, as `runq.c` reads it). Of an int8 file the weights
  are taken as they are when multiplied out; that `runq.c` rounds activations too is its way to compute.
- **Rotary positions turn rows, not numbers.** llama2.c rotates the pairs (0, 1), (2, 3) of each head and transformers
  the pairs (0, n/2), (1, n/2 + 1), so the rows of the query and key projections change places and nothing is computed.
  The rest is fixed in llama2.c: whole heads are rotated, theta is 10,000, the norm's epsilon 1e-5.
- **The header is checked against the length of the file before anything is read.** A file without a magic number is a
  legacy model exactly if its length is what its first seven integers imply.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

from ..utils.errors import UserError, first_line


MAGIC = 0x616B3432  # "ak42"
HEADER_BYTES = {0: 28, 1: 256, 2: 256}
KINDS = {0: "legacy, float32", 1: "version 1, float32", 2: "version 2, int8"}


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
