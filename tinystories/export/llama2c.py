"""Read model files of github.com/karpathy/llama2.c.

- Three formats: legacy (seven integers, then float32), version 1 (a header of 256 bytes, then float32), and version 2
  (int8 in groups with a float32 scale each; they are converted to float32).
- llama2.c rotates the pairs (0, 1), (2, 3) of each head and transformers (0, n/2), (1, n/2 + 1), so the rows of the
  query and key projections are reordered.
- The file size must match the header. A file without the magic number is in the legacy format.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

from ..utils.console import counted
from ..utils.errors import UserError
from .verify import check_finite


MAGIC = 0x616B3432  # "ak42"
HEADER_BYTES = {0: 28, 1: 256, 2: 256}
# The sections after the header. `head` exists only if it is not tied.
ORDER = ("attention_norm", "ffn_norm", "norm", "embedding", "wq", "wk", "wv", "wo", "w1", "w2", "w3", "head")
LEGACY_ORDER = ("embedding", "attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm", "cosines",
                "sines", "head")  # fmt: skip
LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}
FORMATS = {0: "legacy, float32", 1: "version 1, float32", 2: "version 2, int8"}


@dataclass(frozen=True)
class Header:
    """The header of a model file, with llama2.c's field names; version 0 is legacy.

    Attributes:
        group_size: number of weights with the same scale, in version 2; otherwise 1.
    """

    version: int
    tied: bool
    group_size: int
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int

    @property
    def head_size(self) -> int:
        return self.dim // self.n_heads

    def sections(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of each section after the header, in order."""
        layers, dim, hidden = self.n_layers, self.dim, self.hidden_dim
        kv_dim, table = self.n_kv_heads * self.head_size, (self.seq_len, self.head_size // 2)
        shapes = {
            "embedding": (self.vocab_size, dim),
            "attention_norm": (layers, dim),
            "wq": (layers, dim, dim),
            "wk": (layers, kv_dim, dim),
            "wv": (layers, kv_dim, dim),
            "wo": (layers, dim, dim),
            "ffn_norm": (layers, dim),
            "w1": (layers, hidden, dim),
            "w2": (layers, dim, hidden),
            "w3": (layers, hidden, dim),
            "norm": (dim,),
            "cosines": table,
            "sines": table,
            "head": (self.vocab_size, dim),
        }
        for name in LEGACY_ORDER if self.version == 0 else ORDER:
            if name != "head" or not self.tied:
                yield name, shapes[name]

    def is_int8(self, name: str) -> bool:
        """Whether a section is stored as int8."""
        return self.version == 2 and "norm" not in name

    def file_bytes(self) -> int:
        """The size of a file with this header."""
        total = HEADER_BYTES[self.version]
        for name, shape in self.sections():
            numbers = math.prod(shape)
            total += numbers + 4 * (numbers // self.group_size) if self.is_int8(name) else 4 * numbers
        return total

    def error(self) -> str | None:
        """Why this header is invalid, or None if it is valid."""
        for name in ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len", "group_size"):
            if getattr(self, name) < 1:
                return f"{name} is {getattr(self, name):,}"
        if self.dim % self.n_heads:
            return f"dim ({self.dim:,}) is not a multiple of n_heads ({self.n_heads:,})"
        if self.n_heads % self.n_kv_heads:
            return f"n_heads ({self.n_heads:,}) is not a multiple of n_kv_heads ({self.n_kv_heads:,})"
        if self.head_size % 2:
            return f"the head dimension is {self.head_size}, but rotary positions need an even one"
        for name, shape in self.sections():
            if self.is_int8(name) and math.prod(shape[-2:]) % self.group_size:
                return f"{name} cannot be divided into groups of {self.group_size:,}"
        return None


def is_llama2c(path: str | Path) -> bool:
    """Whether a file has a valid header of a llama2.c model."""
    try:
        read_header(path)
    except UserError:
        return False
    return True


def read_header(path: str | Path) -> Header:
    """Read the header of a model file, and check that it matches the file size.

    Raises:
        UserError: if the file is not a llama2.c model, is truncated, or has extra bytes.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(256)
    if len(start) < HEADER_BYTES[0]:
        raise UserError(
            f"{path} is not a llama2.c model, or is truncated: it has {counted(len(start), 'byte')}, fewer than the "
            f"header."
        )
    magic, version = struct.unpack_from("<Ii", start)
    group_size = 1
    if magic == MAGIC:
        if version not in (1, 2):
            raise UserError(
                f"{path} is a llama2.c model of version {version}, but only the legacy format and versions 1 and 2 "
                f"are supported: export the model again with llama2.c's export.py."
            )
        if len(start) < HEADER_BYTES[version]:
            raise UserError(f"{path} is truncated: it ends in its header.")
        *sizes, tied = struct.unpack_from("<7iB", start, 8)
        if version == 2:
            (group_size,) = struct.unpack_from("<i", start, 37)
        if tied > 1:
            raise UserError(f"{path} is damaged: the flag for a tied head is {tied}, neither 0 nor 1.")
    else:
        version, sizes = 0, list(struct.unpack_from("<7i", start))
        tied = sizes[5] > 0
        sizes[5] = abs(sizes[5])

    header = Header(version, bool(tied), group_size, *sizes)
    if error := header.error():
        raise UserError(f"{path} {'is damaged' if version else 'is not a llama2.c model'}: {error}.")
    size, expected = path.stat().st_size, header.file_bytes()
    if size != expected:
        problem = "it is truncated" if size < expected else "it has extra bytes"
        alternative = "" if version else ", or is not a llama2.c model"
        raise UserError(
            f"{path} has {size:,} bytes, but its header implies {expected:,}: {problem}{alternative}. Download or "
            f"export it again."
        )
    return header


def load_llama2c(path: str | Path) -> TinyLlamaForCausalLM:
    """Load the model in a `.bin` file, in float32.

    Raises:
        UserError: if the file is not a llama2.c model, or damaged.
    """
    path = Path(path)
    header = read_header(path)
    config = TinyLlamaConfig(
        vocab_size=header.vocab_size,
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.n_layers,
        num_attention_heads=header.n_heads,
        num_key_value_heads=header.n_kv_heads,
        max_position_embeddings=header.seq_len,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        tie_word_embeddings=header.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    read = _read_sections(path, header)
    if header.version == 0:
        _check_rotary_table(path, header, read.pop("cosines"), read.pop("sines"))

    weights = {"model.embed_tokens.weight": read["embedding"], "model.norm.weight": read["norm"]}
    weights["lm_head.weight"] = read["embedding" if header.tied else "head"]
    for section, name in LAYER_NAMES.items():
        for i, weight in enumerate(read[section]):
            weight = _pairs_to_halves(weight, header.head_size) if section in ("wq", "wk") else weight
            weights[f"model.layers.{i}.{name}.weight"] = weight
    model = TinyLlamaForCausalLM._from_config(config, dtype=torch.float32)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _read_sections(path: Path, header: Header) -> dict[str, torch.Tensor]:
    data = np.memmap(path, dtype=np.uint8, mode="r")
    offset = HEADER_BYTES[header.version]
    sections: dict[str, torch.Tensor] = {}

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal offset
        numbers = np.frombuffer(data, dtype=kind, count=count, offset=offset)
        offset += numbers.nbytes
        return numbers

    for name, shape in header.sections():
        count = math.prod(shape)
        if header.is_int8(name):
            # Each matrix is followed by its scales.
            matrices = shape[0] if len(shape) == 3 else 1
            numbers = np.empty((matrices, count // matrices // header.group_size, header.group_size), np.float32)
            for matrix in numbers:
                int8 = take("i1", matrix.size).reshape(matrix.shape)
                scales = take("<f4", len(matrix))
                if not (np.isfinite(scales).all() and (scales >= 0).all()):
                    raise UserError(f"{path} is damaged: {name} has a scale that is negative or not finite.")
                np.multiply(int8, scales[:, None], out=matrix, casting="unsafe")
        else:
            numbers = take("<f4", count).astype(np.float32)
        sections[name] = torch.from_numpy(numbers.reshape(shape))
        check_finite(sections[name], name, path)
    return sections


def _check_rotary_table(path: Path, header: Header, cosines: torch.Tensor, sines: torch.Tensor) -> None:
    """Check the rotary table of a legacy file, which some writers leave zero, against the header."""
    if not cosines.any() and not sines.any():
        return
    exponents = torch.arange(0, header.head_size, 2, dtype=torch.float64) / header.head_size
    angles = torch.arange(header.seq_len, dtype=torch.float64)[:, None] / 10_000.0**exponents
    difference = max((cosines - angles.cos()).abs().max().item(), (sines - angles.sin()).abs().max().item())
    if difference > 1e-2:
        raise UserError(f"{path} is damaged: its table of rotary positions does not match its header.")


def _pairs_to_halves(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """Reorder the rows of each head in a weight `[heads * head_size, dim]`: even rows first, then odd ones."""
    heads = weight.view(-1, head_size // 2, 2, weight.shape[-1])
    return heads.transpose(1, 2).reshape(weight.shape)
