"""Forward steps of a model of transformers in C: which models are supported, pointers to their weights, calls."""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ...utils.errors import UserError
from ...utils.evaluation_mode import evaluation_mode
from .build import library
from .cache import PreallocatedCacheLayer
from .draft_length import Costs
from .memory import Arena, use_large_pages


ARCHITECTURES = ("tinyllama", "llama")
WEIGHTS = ("float32", "int8")
DRAFTS = ("int8", None)  # weights that draft tokens
DYNAMIC_ROPE = ("dynamic", "longrope")  # rotary types whose angles depend on the length of the sequence
TABLE_STEP = 512  # positions by which the table of cosines and sines grows

MAX_THREADS = 16  # more do not read weights faster
BYTES_PER_THREAD = 1 << 20  # bytes of weights times new tokens, from which another thread makes a step faster

_POSITION_BEYOND_TABLE = 4  # status of the C function

Pointer, Int, Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


# The structures of step.c


class _Matrix(ctypes.Structure):
    _fields_ = [("weight", Pointer), ("scale", Pointer)]


_LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
_LAYER_MATRICES = (
    ("self_attn", "q_proj"), ("self_attn", "k_proj"), ("self_attn", "v_proj"), ("self_attn", "o_proj"),
    ("mlp", "gate_proj"), ("mlp", "up_proj"), ("mlp", "down_proj"),
)  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in _LAYER_NORMS] + [(name, _Matrix) for _, name in _LAYER_MATRICES]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, Int) for name in ("hidden", "inner", "layers", "heads", "key_value_heads", "head_dim", "rotary_dim",
                                   "vocabulary", "eight_bit")),
        ("epsilon", Float), ("scaling", Float),
        ("embedding", Pointer), ("final_norm", Pointer), ("head", _Matrix), ("layer", Pointer),
    ]  # fmt: skip


class _Step(ctypes.Structure):
    _fields_ = [
        ("model", Pointer), ("batch", Int), ("length", Int), ("ids", Pointer), ("positions", Pointer),
        ("position_stride", Int), ("mask", Pointer), ("past", Pointer), ("past_stride", Int), ("keys", Pointer),
        ("values", Pointer), ("capacity", Int), ("cosines", Pointer), ("sines", Pointer), ("table", Int),
        ("keep", Int), ("logits", Pointer), ("threads", Int),
    ]  # fmt: skip


def unsupported_reason(model: nn.Module) -> str | None:
    """Why native decoding does not support a model, or None if it does."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    if (
        not isinstance(model, PreTrainedModel)
        or getattr(model.config, "model_type", None) not in ARCHITECTURES
        or not hasattr(model, "lm_head")
        or layers is None
    ):
        return f"{type(model).__name__} is not a TinyLlama or Llama for causal language modelling"
    if model.config.hidden_act not in ("silu", "swish"):
        return f"the model's activation is {model.config.hidden_act}, not silu"
    for parameter in model.parameters():
        if parameter.device.type != "cpu":
            return f"the model is on {parameter.device.type}, not on the CPU"
        if parameter.dtype != torch.float32:
            return f"the model's weights are {str(parameter.dtype).removeprefix('torch.')}, not float32"
        if not parameter.is_contiguous():
            return "the model's weights are not contiguous in memory"
    if getattr(model, "hf_quantizer", None) is not None:
        return "the model is quantized already"
    if len(layers) != model.config.num_hidden_layers:
        return f"the model has {len(layers)} layers, but its config {model.config.num_hidden_layers}"
    for module in model.modules():
        if module is not model and is_wrapped(vars(module)):
            return f"a {type(module).__name__} in the model has hooks"
    for name, module in _linears(model):
        if type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}, not a plain Linear"
        if module.bias is not None:
            return f"{name} has a bias"
    return None


def is_wrapped(attributes: dict[str, Any]) -> bool:
    """Whether a module, given by its attributes, runs hooks or a `forward` of its own instance.

    Hooks that remain after transformers has recorded hidden states are ignored, because they have no effect.
    """
    if attributes["_forward_pre_hooks"] or "forward" in attributes:
        return True
    hooks = attributes["_forward_hooks"]
    recording = "transformers.utils.output_capturing"
    return bool(hooks) and any(getattr(hook, "__module__", None) != recording for hook in hooks.values())


def _linears(model: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "lm_head", model.lm_head
    for index, layer in enumerate(model.model.layers):
        for block, name in _LAYER_MATRICES:
            yield f"layers.{index}.{block}.{name}", getattr(getattr(layer, block), name)


class Engine:
    """Native decoding of one model.

    Args:
        weights: "float32" to read the model's weights in place, or "int8" for a copy with a scale for each row.
        draft: weights with which tokens are drafted; see `speculation.py`.

    Attributes:
        costs: measured times of drafts and of the passes that check them.

    Raises:
        UserError: if the C code cannot be compiled, or gives other logits than the model.
    """

    def __init__(self, model: PreTrainedModel, weights: str = "float32", draft: str | None = None):
        self.weights, self.draft_weights, self.costs = weights, draft, Costs()
        self._library = library()
        self._lock = threading.Lock()
        if weights == "float32":
            use_large_pages(model, self._library)
        if model not in _verified:
            _verify(model, NativeModel(model, self._library, "float32"))
            _verified.add(model)
        self._native: NativeModel | None = NativeModel(model, self._library, weights)
        self._draft: NativeModel | None = None

    def native(self, model: PreTrainedModel) -> "NativeModel | None":
        """Pointers to the current weights; None if the model has changed so that it is no longer supported."""
        native = self._native
        if native is None or not native.is_current():
            with self._lock:
                supported = unsupported_reason(model) is None
                native = self._native = NativeModel(model, self._library, self.weights) if supported else None
        return native

    def draft(self, model: PreTrainedModel) -> "NativeModel | None":
        """The weights that draft tokens, rounded at first use and after a change; None as for `native`."""
        draft = self._draft
        if draft is None or not draft.is_current():
            with self._lock:
                weights = self.draft_weights if unsupported_reason(model) is None else None
                draft = self._draft = NativeModel(model, self._library, weights) if weights else None
        return draft


_verified: WeakSet = WeakSet()  # models whose logits were compared with those of the C code


@torch.no_grad()
def _verify(model: PreTrainedModel, native: "NativeModel") -> None:
    """Compare a few logits, since remote code may compute something else under the same names.

    Raises:
        UserError: if they differ.
    """
    ids = (torch.arange(8) * 7919 % model.config.vocab_size).view(2, 4)
    cache = DynamicCache(config=model.config)
    parts = []
    for part in ids.split([3, 1], dim=1):
        logits = native.logits(part, None, None, cache, 0)
        if logits is None:
            raise UserError("native decoding does not support this model's cache")
        parts.append(logits)
    with evaluation_mode(model), torch.autocast("cpu", enabled=False):
        expected = model(input_ids=ids, use_cache=False).logits
    tolerance = 1e-3 * (1 + expected.abs().max().nan_to_num().item())
    if not torch.allclose(torch.cat(parts, dim=1), expected, rtol=0, atol=tolerance, equal_nan=True):
        raise UserError("native decoding does not reproduce this model's logits")


class NativeModel:
    """The structures that the C code reads: pointers to the weights, valid until a weight or module is replaced."""

    def __init__(self, model: Any, native: ctypes.CDLL, weights: str):
        inner, config = model.model, model.config
        self._native, self._weights, self._rotary = native, weights, inner.rotary_emb
        self._quantized: list[torch.Tensor] = []
        if weights == "int8":
            self._arena = Arena(_quantized_bytes(model, native.tinystories_padding()))
        self._children = [
            (parent._modules, name, child) for parent in model.modules() for name, child in parent.named_children()
        ]
        self._attributes = [module.__dict__ for module in model.modules() if module is not model]
        self._parameters: list[tuple[dict, torch.Tensor, int, int]] = []

        self._layers = (_Layer * len(inner.layers))()
        for layer, pointers in zip(inner.layers, self._layers, strict=True):
            for name in _LAYER_NORMS:
                setattr(pointers, name, self._weight(getattr(layer, name)).data_ptr())
            for block, name in _LAYER_MATRICES:
                setattr(pointers, name, self._matrix(getattr(getattr(layer, block), name)))
        attention = inner.layers[0].self_attn
        self._rope = self._rope_state()
        self._table = self._cosines_and_sines(torch.arange(min(TABLE_STEP, config.max_position_embeddings))[None])
        self._model = _Model(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            layers=len(inner.layers),
            heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            rotary_dim=self._table[0].shape[-1],
            vocabulary=model.lm_head.weight.shape[0],
            eight_bit=weights == "int8",
            epsilon=inner.norm.variance_epsilon,
            scaling=attention.scaling,
            embedding=self._weight(inner.embed_tokens).data_ptr(),
            final_norm=self._weight(inner.norm).data_ptr(),
            head=self._matrix(model.lm_head),
            layer=ctypes.addressof(self._layers),
        )
        self._bytes = sum(weight.numel() for _, weight, _, _ in self._parameters) * (1 if weights == "int8" else 4)

    def _weight(self, module: nn.Module) -> torch.Tensor:
        weight = module.get_parameter("weight")
        self._parameters.append((module._parameters, weight, weight.data_ptr(), _version(weight)))
        return weight

    def _matrix(self, module: nn.Module) -> _Matrix:
        weight = self._weight(module)
        if self._weights == "float32":
            return _Matrix(weight.data_ptr(), None)
        rounded, scale = quantize_rows(weight.detach(), self._native.tinystories_padding())
        rounded = self._arena.copy(rounded)
        self._quantized += [rounded, scale]
        return _Matrix(rounded.data_ptr(), scale.data_ptr())

    def _rope_state(self) -> tuple:
        frequencies = self._rotary.inv_freq
        return frequencies.data_ptr(), _version(frequencies), self._rotary.attention_scaling

    def is_current(self) -> bool:
        """Whether all modules and weights are still in place, and no module has hooks."""
        for children, name, child in self._children:
            if children.get(name) is not child:
                return False
        if any(map(is_wrapped, self._attributes)):
            return False
        for parameters, weight, pointer, _ in self._parameters:
            if parameters.get("weight") is not weight or weight.data_ptr() != pointer:
                return False
        if self._weights == "int8" and any(_version(weight) != seen for _, weight, _, seen in self._parameters):
            return False
        return self.has_dynamic_rope or self._rope_state() == self._rope

    @property
    def has_dynamic_rope(self) -> bool:
        """Whether the angles of a position depend on the length of the sequence."""
        return self._rotary.rope_type in DYNAMIC_ROPE

    @property
    def table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `[positions, rotary_dim]` each, of the first positions, if they are not dynamic."""
        return self._table

    @property
    def vocabulary(self) -> int:
        return self._model.vocabulary

    def _cosines_and_sines(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[positions, rotary_dim]` each, computed by the model's own module, which implements its rotary type."""
        cosines, sines = self._rotary(torch.empty(0), positions)
        return cosines.float().flatten(0, 1).contiguous(), sines.float().flatten(0, 1).contiguous()

    def logits(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
        cache: Cache,
        keep: int,
    ) -> torch.Tensor | None:
        """Add new tokens to the cache and return the logits `[batch, keep, vocabulary]` of the last `keep` (0: all).

        None if this is not supported; then the cache holds the same tokens as before.

        Args:
            ids: `[batch, length]`.
            positions: `[batch or 1, length]`; by default they continue the cache.
            mask: `[batch, past + length]`, 0 for padding on the left.
        """
        batch, length = ids.shape
        layers = preallocated_layers(cache, len(self._layers))
        if layers is None:
            return None
        past = layers[0].get_seq_length()
        if positions is None:
            positions = torch.arange(past, past + length)[None]
        if positions.ndim != 2 or positions.shape[1] != length or positions.shape[0] not in (1, batch):
            return None
        if mask is not None and mask.shape != (batch, past + length):
            return None
        heads, dim = self._model.key_value_heads, self._model.head_dim
        for layer in layers:
            if layer.get_seq_length() != past or not layer.accepts(batch, heads, dim):
                return None
            layer.reserve(batch, heads, length, dim)
        keep = min(keep, length) or length
        keys, values = ([layer.memory[which] for layer in layers] for which in (0, 1))
        logits = self._step(ids, positions, mask, torch.tensor([past]), keys, values, keep)
        if logits is not None:
            for layer in layers:
                layer.extend(length)
        return logits

    def row_logits(
        self, ids: torch.Tensor, past: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """Logits `[rows, vocabulary]` of one new token per row, for rows of different lengths.

        None if this is not supported; then nothing was written.

        Args:
            ids: `[rows]`.
            past: `[rows]`, the length of each row; the keys and values of its new token are written there.
            keys, values: for each layer `[rows, key_value_heads, capacity, head_dim]`, contiguous and in float32.
        """
        if self.has_dynamic_rope:  # the longest row would determine the angles of all
            return None
        shape = (len(ids), self._model.key_value_heads, keys[0].shape[2], self._model.head_dim)
        for tensor in (*keys, *values):
            if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                return None
        if past.min() < 0 or past.max() >= shape[2]:
            return None
        logits = self._step(ids[:, None], past[:, None], None, past, keys, values, keep=1)
        return None if logits is None else logits[:, 0]

    def _step(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        past: torch.Tensor,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        keep: int,
    ) -> torch.Tensor | None:
        """Logits `[batch, keep, vocabulary]`; writes keys and values after the `past` tokens `[batch or 1]`."""
        batch, length = ids.shape
        if self.has_dynamic_rope:
            table = self._cosines_and_sines(positions)
            positions = torch.arange(positions.numel()).view(positions.shape)
        else:
            table = self._table
        ids, positions, past = map(_as_int64, (ids, positions, past))
        mask = None if mask is None else _as_int64(mask)
        logits = torch.empty(batch, keep, self._model.vocabulary)
        key_pointers, value_pointers = map(_pointers, (keys, values))
        step = _Step(
            model=ctypes.addressof(self._model),
            batch=batch,
            length=length,
            ids=ids.data_ptr(),
            positions=positions.data_ptr(),
            position_stride=length if len(positions) > 1 else 0,
            mask=None if mask is None else mask.data_ptr(),
            past=past.data_ptr(),
            past_stride=1 if len(past) > 1 else 0,
            keys=ctypes.addressof(key_pointers),
            values=ctypes.addressof(value_pointers),
            capacity=keys[0].shape[2],
            keep=keep,
            logits=logits.data_ptr(),
            threads=self.threads(ids.numel()),
        )
        return logits if self.run(step, table, int(positions.max())) else None

    def threads(self, tokens: int) -> int:
        """The number of threads for a step of so many tokens."""
        return min(torch.get_num_threads(), MAX_THREADS, 1 + self._bytes * min(tokens, 8) // BYTES_PER_THREAD)

    def run(self, step: _Step, table: tuple[torch.Tensor, torch.Tensor], last_position: int) -> bool:
        """Call the C function; False if the step is not supported and nothing was written."""
        step.cosines, step.sines, step.table = table[0].data_ptr(), table[1].data_ptr(), len(table[0])
        status = self._native.tinystories_step(ctypes.byref(step))
        if status == _POSITION_BEYOND_TABLE:
            positions_needed = (last_position // TABLE_STEP + 1) * TABLE_STEP
            table = self._table = self._cosines_and_sines(torch.arange(positions_needed)[None])
            step.cosines, step.sines, step.table = table[0].data_ptr(), table[1].data_ptr(), len(table[0])
            status = self._native.tinystories_step(ctypes.byref(step))
        return not status


class SingleRow:
    """Steps of one sequence, at any place of its cache, with less work for each call than `NativeModel.logits`.

    Args:
        keys, values: for each layer `[1, key_value_heads, capacity, head_dim]`, contiguous and in float32.
        most: largest number of tokens in a step.
    """

    def __init__(
        self, native: NativeModel, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], most: int = 1
    ):
        self._native = native
        self._ids, self._positions = torch.empty(2, most, dtype=torch.int64)
        self._past = torch.zeros(1, dtype=torch.int64)
        self._tensors, self._pointers = (keys, values), (_pointers(keys), _pointers(values))  # keeps them in memory
        self._step = _Step(
            model=ctypes.addressof(native._model),
            batch=1,
            ids=self._ids.data_ptr(),
            positions=self._positions.data_ptr(),
            past=self._past.data_ptr(),
            keys=ctypes.addressof(self._pointers[0]),
            values=ctypes.addressof(self._pointers[1]),
            capacity=keys[0].shape[2],
        )

    def __call__(self, tokens: list[int], past: int) -> torch.Tensor | None:
        """Logits `[tokens, vocabulary]` after each of the tokens, which follow the first `past` ones.

        Their keys and values are written to the cache; None if this is not supported, and nothing was written.
        """
        native, step, count = self._native, self._step, len(tokens)
        for place, token in enumerate(tokens):
            self._ids[place], self._positions[place] = token, past + place
        self._past[0] = past
        logits = torch.empty(count, native.vocabulary)
        step.length = step.keep = count
        step.logits, step.threads = logits.data_ptr(), native.threads(count)
        return logits if native.run(step, native.table, past + count - 1) else None


def _pointers(tensors: Sequence[torch.Tensor]) -> ctypes.Array:
    return (Pointer * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _version(tensor: torch.Tensor) -> int:
    """The number of in-place changes that torch has counted."""
    return 0 if tensor.is_inference() else tensor._version


def _as_int64(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64).contiguous()


def quantize_rows(weight: torch.Tensor, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix `[out, in]` in int8 `[out, in, padded with zeros]`, and the scale of each row `[out]`."""
    scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    rounded = (weight / scale[:, None]).round().to(torch.int8)
    return nn.functional.pad(rounded, (0, -weight.shape[1] % padding)).contiguous(), scale


def _quantized_bytes(model: PreTrainedModel, padding: int) -> int:
    """Bytes of an arena for all matrices in int8."""
    shapes = [module.get_parameter("weight").shape for _, module in _linears(model)]
    return sum(outs * (ins + -ins % padding) + 64 for outs, ins in shapes)


def preallocated_layers(cache: Cache, count: int) -> list[PreallocatedCacheLayer] | None:
    """The layers of a cache, replaced by `PreallocatedCacheLayer`; None for an unsupported cache."""
    layers: list[Any] = cache.layers
    if len(layers) == count and all(type(layer) is PreallocatedCacheLayer for layer in layers):
        return layers
    if not isinstance(cache, DynamicCache) or cache.offloading:
        return None
    if not layers and cache.layer_class_to_replicate is DynamicLayer:
        layers += [PreallocatedCacheLayer() for _ in range(count)]
    if len(layers) != count or any(type(layer) not in (DynamicLayer, PreallocatedCacheLayer) for layer in layers):
        return None
    layers[:] = [PreallocatedCacheLayer.of(layer) if type(layer) is DynamicLayer else layer for layer in layers]
    return layers
