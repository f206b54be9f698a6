"""Read a `.pth` checkpoint of `WikiMiniModel`, the 24.5M story model of github.com/karthyick/llm_tinystories.

- The architecture is TinyLlama's under other names, so weights are only renamed.
- No code of the file is run: it is loaded with `weights_only=True`. Only numpy numbers are also allowed, because the
  training loop of that project saves its validation loss as one; they are decoded here and not by numpy.
- Shapes come from the weights; the configuration must match them, except for `d_ffn`, which WikiMini rounds up.
- The archive and the claimed sizes are checked before memory is allocated.
"""

import logging
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import PreTrainedTokenizerFast

from ..generation.prompts import set_prompt_prefix
from ..runs.loading import loading_problem
from ..utils.errors import UserError, first_line
from ..utils.paths import require_readable
from .verify import check_finite


logger = logging.getLogger(__name__)

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.w_gate": "mlp.gate_proj",
    "ffn.w_up": "mlp.up_proj",
    "ffn.w_down": "mlp.down_proj",
}
# The first is the name in that project; the others are likely in derived code.
FINAL_NORM_NAMES = ("final_norm", "norm", "ln_f", "norm_f", "final_layernorm", "output_norm")
# Prefixes of `torch.compile` and `DistributedDataParallel`.
WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module)\.)+")
# Rotary tables and masks, which the configuration determines.
BUFFERS = re.compile(r"(?:^|\.)(?:freqs_(?:cos|sin)|(?:cos|sin)_cached|inv_freq|cached_mask(?:_size)?)$")
# Names in the tokenizers of that project.
SPECIAL_TOKENS = {
    "bos_token": ("<|endoftext|>", "<s>"),
    "eos_token": ("<|endoftext|>", "</s>"),
    "pad_token": ("<|padding|>", "<pad>", "<unk>"),  # no byte-level encoding has an unknown token
    "unk_token": ("<unk>",),
}
ZIP_END = b"PK\x05\x06"


def load_wikimini(path: str | Path) -> TinyLlamaForCausalLM:
    """Load the model in a `.pth` checkpoint, in the dtype of its weights.

    The file holds `model_state_dict` and `config`, whose section `model` (or `config` itself) has `n_heads` and may
    have `vocab_size`, `d_model`, `n_layers`, `max_seq_len`, `rope_percentage`, `rope_base`, `rms_norm_eps` and
    `tie_embeddings`. Missing settings come from the weights, or are the defaults of that project.

    Raises:
        UserError: if the file is damaged, is of another kind, or would need code to be loaded.
    """
    path = Path(path)
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model_state_dict"), dict):
        if isinstance(checkpoint, dict):
            found = f"has only {', '.join(map(str, list(checkpoint)[:5]))}" if checkpoint else "is empty"
        else:
            found = f"is of type {type(checkpoint).__name__}"
        raise UserError(
            f"{path} is not a WikiMini checkpoint: it must be a dict with the weights as `model_state_dict` and the "
            f"settings as `config`, but {found}."
        )
    settings = _settings(path, checkpoint)
    weights = _weights(path, checkpoint["model_state_dict"])
    config = _config(path, settings, weights, checkpoint["model_state_dict"])
    named = _rename(path, weights, config)
    _check_tensors(path, named, config)

    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in named.values()))
    model = TinyLlamaForCausalLM._from_config(config, dtype=dtype)
    model.load_state_dict(named, strict=True)
    return model.eval()


def load_wikimini_tokenizer(path: str | Path, model_max_length: int) -> PreTrainedTokenizerFast:
    """Load the tokenizer in a folder or `tokenizer.json`, without the file's truncation and padding.

    It adds no special tokens to a text, as in training.

    Args:
        model_max_length: in tokens.

    Raises:
        UserError: if there is none, or it has no EOS or padding token.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        where = f"in {path}" if path.is_dir() else f"at {path}"
        raise UserError(f"There is no tokenizer.json {where}: specify the file, or its folder.")
    require_readable(file)
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(
            f"The tokenizer in {file} cannot be loaded: {first_line(error)}. Download it again, or specify another "
            f"one with --tokenizer."
        ) from None
    backend.no_truncation()
    backend.no_padding()
    special = {
        role: next((name for name in names if backend.token_to_id(name) is not None), None)
        for role, names in SPECIAL_TOKENS.items()
    }
    for role in ("bos_token", "eos_token", "pad_token"):
        if special[role] is None:
            raise UserError(f"The tokenizer in {file} has no {role}: none of {', '.join(SPECIAL_TOKENS[role])}.")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{role: name for role, name in special.items() if name is not None},
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    set_prompt_prefix(tokenizer)
    return tokenizer


class _NumpyType:
    """Replaces `numpy.dtype` in a pickle: the name of a number type, such as `f8`, with its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"f[248]|[iu][1248]|b1", name):
            raise pickle.UnpicklingError(f"numpy type {name} is not a number")
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        self.name = ("" if state[1] == "|" else state[1]) + self.name


def _numpy_number(kind: _NumpyType, data: bytes) -> float | int | bool:
    return np.frombuffer(data, dtype=kind.name, count=1).item()


NUMPY_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyType, "numpy.dtype"),
    (_numpy_number, "numpy._core.multiarray.scalar"),
    (_numpy_number, "numpy.core.multiarray.scalar"),  # numpy 1
]


def _read(path: Path) -> Any:
    _check_archive(path)
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # unpickling can raise any exception
            try:
                unsafe = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))[:3])
            except Exception:
                unsafe = ""
            if unsafe:
                raise UserError(
                    f"{path} would load {unsafe}, which can run arbitrary code, so it is not loaded. If you trust "
                    f"it, save only its `model_state_dict` and `config`, with plain values, to another file."
                ) from None
            raise UserError(
                f"{path} is not a checkpoint of torch, or is damaged: {loading_problem(error)}. Download or save it "
                f"again."
            ) from None


def _check_archive(path: Path) -> None:
    """Raise a `UserError` if the file is not a complete, undamaged zip as `torch.save` writes it."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise UserError(f"{path} is not a checkpoint of torch 1.6 or newer: it is not a zip file.")
        file.seek(max(0, path.stat().st_size - 22))
        if file.read(4) != ZIP_END:
            raise UserError(f"{path} is damaged: it is truncated or has extra bytes.")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path} is compressed, which torch never does: save it again with torch.save.")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged: {first_line(error)}.") from None
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of {damaged} is wrong.")


def _settings(path: Path, checkpoint: dict) -> dict:
    """The section of the configuration that describes the model."""
    config = checkpoint.get("config")
    if isinstance(config, dict) and isinstance(config.get("model"), dict):
        config = config["model"]
    if not isinstance(config, dict):
        found = "no `config`" if config is None else f"a `config` that is a {type(config).__name__}, not a dictionary,"
        raise UserError(
            f"{path} has {found} next to `model_state_dict`: save the settings of the model there, at least "
            f"`n_heads`, which the weights do not contain."
        )
    return config


def _heads(path: Path, settings: dict, hidden_size: int, factor: float, state: dict) -> int:
    """`n_heads`; if it is missing, the number of heads that matches the rotary tables among the weights."""
    if settings.get("n_heads") is not None:
        return _number(path, settings, "n_heads", int)
    rotated = _rotary_table(state)[1]
    fitting = [
        heads
        for heads in range(1, hidden_size + 1)
        if hidden_size % heads == 0 and int(hidden_size // heads * factor) == rotated
    ]
    if len(fitting) != 1:
        raise UserError(
            f"{path} has no `n_heads` in its config, and the weights do not contain it: load it with torch.load, add "
            f"the number of attention heads as `n_heads` next to `d_model`, and save it again."
        )
    logger.warning("`n_heads` is missing in the config; %d is inferred from the rotary tables.", fitting[0])
    return fitting[0]


def _rotary_table(state: dict) -> tuple[int | None, int | None]:
    """Number of positions and width of the rotary tables among the weights, None if unknown."""
    for key, tensor in state.items():
        kind = re.search(r"(?:^|\.)(?:freqs_cos|cos_cached|(inv_freq))$", str(key))
        if kind and isinstance(tensor, torch.Tensor) and tensor.ndim:
            if kind[1]:
                return None, 2 * tensor.shape[-1]
            positions = [size for size in tensor.shape[:-1] if size > 1]
            return (positions[0] if len(positions) == 1 else None), tensor.shape[-1]
    return None, None


def _weights(path: Path, state: dict) -> dict[str, torch.Tensor]:
    """The floating-point weights by their names without wrappers, without buffers."""
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = WRAPPERS.sub("", str(key))
        if BUFFERS.search(name):
            continue
        if name in weights:
            raise UserError(f"{path} has the weight {name} twice, under different prefixes.")
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(f"{path}: the weight {name} is not a plain tensor.")
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            raise UserError(f"{path}: {name} is {str(tensor.dtype)[6:]}, but weights must be floating-point numbers.")
        weights[name] = tensor
    # With strides of zero, a tensor can be larger than its storage. The head may share the storage of the embedding.
    claimed = sum(tensor.nbytes for name, tensor in weights.items() if name != "lm_head.weight")
    if claimed > path.stat().st_size:
        raise UserError(
            f"{path} is damaged: it declares {claimed:,} bytes of weights, but has {path.stat().st_size:,} bytes."
        )
    return weights


def _config(path: Path, settings: dict, weights: dict[str, torch.Tensor], state: dict) -> TinyLlamaConfig:
    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise UserError(f"{path} is not a WikiMini checkpoint: its weights have no {name}.")
        if weights[name].ndim != 2:
            raise UserError(f"{path}: {name} is {list(weights[name].shape)}, not a matrix.")
        return weights[name].shape

    vocab_size, hidden_size = shape("token_embedding.weight")
    blocks = {int(match[1]) for match in map(re.compile(r"blocks\.(\d{1,6})\.").match, weights) if match}
    layers = len(blocks)
    if blocks != set(range(layers)) or not blocks:
        raise UserError(f"{path} is incomplete: its blocks are not numbered from 0 without a gap.")
    intermediate_size = shape("blocks.0.ffn.w_gate.weight")[0]
    for key, found in (("vocab_size", vocab_size), ("d_model", hidden_size), ("n_layers", layers)):
        configured = _number(path, settings, key, int, found)
        if configured != found:
            raise UserError(f"{path} is inconsistent: its config has {key} {configured:,}, its weights {found:,}.")
    configured = _number(path, settings, "d_ffn", int, intermediate_size)
    if configured != intermediate_size:
        logger.info(
            "d_ffn is %d, as in the weights; the configuration has %s, which WikiMini rounds up",
            intermediate_size,
            configured,
        )

    same = "lm_head.weight" not in weights or _same(weights["lm_head.weight"], weights["token_embedding.weight"])
    tied = _switch(path, settings, "tie_embeddings", same)
    if tied and not same:
        raise UserError(
            f"{path} is inconsistent: its config ties the embeddings, but lm_head.weight differs from the embedding."
        )
    if not tied and "lm_head.weight" not in weights:
        raise UserError(f"{path}: its config has `tie_embeddings: false`, but its weights have no lm_head.weight.")
    factor = _number(path, settings, "rope_percentage", float, 0.5)
    heads = _heads(path, settings, hidden_size, factor, state)
    positions = _number(path, settings, "max_seq_len", int, _rotary_table(state)[0] or 2048)
    epsilon = _number(path, settings, "rms_norm_eps", float, 1e-6)
    theta = _number(path, settings, "rope_base", float, 10_000.0)
    try:
        return TinyLlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=positions,
            rms_norm_eps=epsilon,
            rope_parameters={"rope_theta": theta, "partial_rotary_factor": factor},
            tie_word_embeddings=tied,
        )
    except ValueError as error:
        raise UserError(f"{path} describes an invalid model: {first_line(error)}.") from None


def _number(path: Path, settings: dict, key: str, kind: type, default: float | None = None) -> Any:
    """A setting as a number; text is converted, because YAML reads `1e-6` as text."""
    value: Any = settings.get(key)
    if value is None:
        value = default
    try:
        if isinstance(value, bool) or kind(value) != float(value):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: `{key}` in its config must be a number, but is {value!r}.") from None


def _switch(path: Path, settings: dict, key: str, default: bool) -> bool:
    """A boolean setting, also from text."""
    value = settings.get(key)
    if value is None:
        return default
    known = {"true": True, "yes": True, "false": False, "no": False, "1": True, "0": False}
    text = str(value).strip().lower()
    if text not in known:
        raise UserError(f"{path}: `{key}` in its config must be true or false, but is {value!r}.")
    return known[text]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))


def _rename(path: Path, weights: dict[str, torch.Tensor], config: TinyLlamaConfig) -> dict[str, torch.Tensor]:
    """The weights under TinyLlama's names.

    Raises:
        UserError: if one is missing or left over.
    """
    norms = [name for name in FINAL_NORM_NAMES if f"{name}.weight" in weights]
    if len(norms) != 1:
        found = f"has {' and '.join(norms)}" if norms else f"has none of {', '.join(FINAL_NORM_NAMES)}"
        raise UserError(f"{path} must have one final norm, but {found}.")
    if norms[0] != FINAL_NORM_NAMES[0]:
        logger.warning("The final norm is taken from %s.weight.", norms[0])

    names = {"token_embedding.weight": "model.embed_tokens.weight", f"{norms[0]}.weight": "model.norm.weight"}
    for i in range(config.num_hidden_layers):
        for theirs, ours in BLOCK_NAMES.items():
            names[f"blocks.{i}.{theirs}.weight"] = f"model.layers.{i}.{ours}.weight"
    missing = [name for name in names if name not in weights]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path} is incomplete: its weights have no {missing[0]}{more}.")
    unknown = [name for name in weights if name not in names and name != "lm_head.weight"]
    if unknown:
        raise UserError(f"{path} has weights that TinyLlama does not have: {', '.join(unknown[:3])}.")
    head = weights["token_embedding.weight" if config.tie_word_embeddings else "lm_head.weight"]
    return {ours: weights[theirs] for theirs, ours in names.items()} | {"lm_head.weight": head}


def _check_tensors(path: Path, named: dict[str, torch.Tensor], config: TinyLlamaConfig) -> None:
    """Check that all shapes match the configuration and all values are finite."""
    with torch.device("meta"):
        expected = TinyLlamaForCausalLM(config).state_dict()
    for name, tensor in named.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} is {list(tensor.shape)}, but its config implies {list(expected[name].shape)}."
            )
        check_finite(tensor, name, path)
