"""From a model of transformers to the native step: which models it fits, where their weights lie, and its calls."""

import ctypes
import threading
from weakref import WeakSet

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ...utils.errors import UserError
from .build import library
from .cache import PreallocatedCacheLayer
from .memory import Arena, use_large_pages


ARCHITECTURES = ("tinyllama", "llama")
WEIGHTS = ("float32", "int8")
# Rotary types whose angles depend on how long the text has become: their tables are made anew for each call.
CHANGING_ROPE = ("dynamic", "longrope")
TABLE_STEP = 512  # positions by which the table of cosines and sines grows

MOST_THREADS = 16  # more than memory can feed with weights
WORTH_A_THREAD = 1 << 20  # bytes of weights to read, or as much work for more rows, that one more thread is woken for

_POSITION_BEYOND_TABLE = 4  # of the native step's answers

Pointer, Int, Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


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


def unsupported_reason(model: nn.Module, weights: str = "float32") -> str | None:
    """Why a model cannot be decoded natively, or None."""
    if not isinstance(model, PreTrainedModel) or getattr(model.config, "model_type", None) not in ARCHITECTURES:
        return f"{type(model).__name__} is not a TinyLlama or Llama for causal language modelling"
    inner = getattr(model, "model", None)
    if inner is None or not hasattr(model, "lm_head") or not hasattr(inner, "layers"):
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
    if len(inner.layers) != model.config.num_hidden_layers:
        return "some of the model's layers are not used"
    for module in model.modules():
        if module is not model and is_wrapped(vars(module)):
            return f"a {type(module).__name__} in the model has hooks"
    for name, module in _linears(model):
        if type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}, not a plain Linear"
        if module.bias is not None:
            return f"{name} has a bias"
    return None


def is_wrapped(module: dict) -> bool:
    """Whether more than its class's `forward` runs in a module, given by its attributes. What transformers leaves
    behind after it has once recorded hidden states does nothing by itself."""
    if module["_forward_pre_hooks"] or "forward" in module:
        return True
    hooks = module["_forward_hooks"]
    recording = "transformers.utils.output_capturing"
    return bool(hooks) and any(getattr(hook, "__module__", None) != recording for hook in hooks.values())


def _linears(model: nn.Module):
    yield "lm_head", model.lm_head
    for index, layer in enumerate(model.model.layers):
        for block, name in _LAYER_MATRICES:
            yield f"layers.{index}.{block}.{name}", getattr(getattr(layer, block), name)


class Engine:
    """The native step for one model, whose weights it reads where they are.

    Args:
        weights: "float32", or "int8": a copy of every matrix, rounded to eight bits with a scale for each of its rows.

    Raises:
        UserError: where the step cannot be had.
    """

    def __init__(self, model: PreTrainedModel, weights: str = "float32"):
        self.weights = weights
        self._library = library()
        self._lock = threading.Lock()
        if weights == "float32":
            use_large_pages(model, self._library)
        if model not in _proven:
            _prove(model, _Plan(model, self._library, "float32"))
            _proven.add(model)
        self._plan: _Plan | None = _Plan(model, self._library, weights)

    def logits(
        self,
        model: PreTrainedModel,
        ids: torch.Tensor,
        positions: torch.Tensor | None,
        mask: torch.Tensor | None,
        cache: Cache,
        keep: int,
    ) -> torch.Tensor | None:
        """The logits `[batch, keep, vocabulary]` of the last `keep` (0: all) of new tokens, which are added to the
        cache; None where the step does not apply, and then nothing was done.

        Args:
            ids: `[batch, length]`, of new tokens.
            positions: `[batch or 1, length]`; None: they follow what is in the cache.
            mask: `[batch, past + length]`, 0 for padding on the left.
        """
        plan = self._current(model)
        return None if plan is None else plan.run(ids, positions, mask, cache, keep)

    def row_logits(
        self,
        model: PreTrainedModel,
        ids: torch.Tensor,
        past: torch.Tensor,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
    ) -> torch.Tensor | None:
        """The logits `[rows, vocabulary]` of one new token a row, where each row has a past of its own; None where the
        step does not apply, and then nothing was done.

        Args:
            ids: `[rows]`, of the new tokens.
            past: `[rows]`, how many tokens of a row are there already; its new token takes this place.
            keys, values: for each layer `[rows, key_value_heads, room, head_dim]`, contiguous and in float32; the new
                tokens' are written there.
        """
        plan = self._current(model)
        return None if plan is None else plan.run_rows(ids, past, keys, values)

    def _current(self, model: PreTrainedModel) -> "_Plan | None":
        """The plan for a model as it is now; None where the step fits it no more."""
        plan = self._plan
        if plan is None or not plan.holds():
            with self._lock:
                fits = unsupported_reason(model, self.weights) is None
                plan = self._plan = _Plan(model, self._library, self.weights) if fits else None
        return plan


_proven: WeakSet = WeakSet()  # models for which the step was seen to give the ordinary forward's logits


@torch.no_grad()
def _prove(model: PreTrainedModel, plan: "_Plan") -> None:
    """Compare a few logits: code that came with a checkpoint may compute something else under the same names.

    Raises:
        UserError: where they differ.
    """
    ids = (torch.arange(8) * 7919 % model.config.vocab_size).view(2, 4)
    cache = DynamicCache(config=model.config)
    parts = [plan.run(part, None, None, cache, 0) for part in (ids[:, :3], ids[:, 3:])]
    if any(part is None for part in parts):
        raise UserError("native decoding does not support this model's cache")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.autocast("cpu", enabled=False):
            theirs = model(input_ids=ids, use_cache=False).logits
    finally:
        for module, training in modes:
            module.training = training
    closeness = 1e-3 * (1 + theirs.abs().max().nan_to_num().item())
    if not torch.allclose(torch.cat(parts, dim=1), theirs, rtol=0, atol=closeness, equal_nan=True):
        raise UserError("native decoding does not reproduce this model's logits")


class _Plan:
    """Where the weights of a model lie, for as long as nobody puts others in their place."""

    def __init__(self, model: PreTrainedModel, native: ctypes.CDLL, weights: str):
        inner, config = model.model, model.config
        self._native, self._weights, self._config, self._rotary = native, weights, config, inner.rotary_emb
        self._copies: list[torch.Tensor] = []
        if weights == "int8":
            self._arena = Arena(_eight_bit_bytes(model, native.tinystories_padding()))
        self._places = [
            (parent._modules, name, child) for parent in model.modules() for name, child in parent.named_children()
        ]
        self._modules = [module.__dict__ for module in model.modules() if module is not model]
        self._parameters: list[tuple[dict, torch.Tensor, int, int]] = []

        self._layers = (_Layer * len(inner.layers))()
        for layer, place in zip(inner.layers, self._layers, strict=True):
            for name in _LAYER_NORMS:
                setattr(place, name, self._weight(getattr(layer, name)).data_ptr())
            for block, name in _LAYER_MATRICES:
                setattr(place, name, self._matrix(getattr(getattr(layer, block), name)))
        attention = inner.layers[0].self_attn
        self._rope = self._rope_state()
        self._table = self._cosines_and_sines(min(TABLE_STEP, config.max_position_embeddings))
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
        weight = module._parameters["weight"]
        self._parameters.append((module._parameters, weight, weight.data_ptr(), _version(weight)))
        return weight

    def _matrix(self, module: nn.Linear) -> _Matrix:
        weight = self._weight(module)
        if self._weights == "float32":
            return _Matrix(weight.data_ptr(), None)
        rounded, scale = eight_bit(weight.detach(), self._native.tinystories_padding())
        rounded = self._arena.keep(rounded)
        self._copies += [rounded, scale]
        return _Matrix(rounded.data_ptr(), scale.data_ptr())

    def _rope_state(self) -> tuple:
        frequencies = self._rotary.inv_freq
        return frequencies.data_ptr(), _version(frequencies), self._rotary.attention_scaling

    def holds(self) -> bool:
        """Whether all is still where it was, and nothing was put around a module that the step would pass by."""
        for children, name, child in self._places:
            if children.get(name) is not child:
                return False
        if any(map(is_wrapped, self._modules)):
            return False
        for parameters, weight, pointer, _ in self._parameters:
            if parameters.get("weight") is not weight or weight.data_ptr() != pointer:
                return False
        if self._weights == "int8" and any(_version(weight) != seen for _, weight, _, seen in self._parameters):
            return False
        return self._rotary.rope_type in CHANGING_ROPE or self._rope_state() == self._rope

    def _cosines_and_sines(self, positions: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[positions, rotary_dim]` each, of the model's own making, so that every rotary type is right."""
        if isinstance(positions, int):
            positions = torch.arange(positions)[None]
        cosines, sines = self._rotary(torch.empty(0), positions)
        return cosines.float().flatten(0, 1).contiguous(), sines.float().flatten(0, 1).contiguous()

    def run(self, ids, positions, mask, cache: Cache, keep: int) -> torch.Tensor | None:
        """See `Engine.logits`."""
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
            if layer.get_seq_length() != past or not layer.fits(batch, heads, dim):
                return None
            layer.make_room(batch, heads, length, dim)
        keep = min(keep, length) or length
        keys, values = ([layer.memory[which] for layer in layers] for which in (0, 1))
        logits = self._step(ids, positions, mask, torch.tensor([past]), keys, values, keep)
        if logits is not None:
            for layer in layers:
                layer.grow(length)
        return logits

    def run_rows(self, ids, past, keys, values) -> torch.Tensor | None:
        """See `Engine.row_logits`."""
        if self._rotary.rope_type in CHANGING_ROPE:  # the longest row would decide for all
            return None
        shape = (len(ids), self._model.key_value_heads, keys[0].shape[2], self._model.head_dim)
        for tensor in (*keys, *values):
            if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                return None
        if past.min() < 0 or past.max() >= shape[2]:
            return None
        logits = self._step(ids[:, None], past[:, None], None, past, keys, values, keep=1)
        return None if logits is None else logits[:, 0]

    def _step(self, ids, positions, mask, past, keys, values, keep) -> torch.Tensor | None:
        """Logits `[batch, keep, vocabulary]`, with the new tokens' keys and values behind the `past` ones of each
        sequence, `[batch]` or `[1]`."""
        batch, length = ids.shape
        if self._rotary.rope_type in CHANGING_ROPE:
            table = self._cosines_and_sines(positions)
            positions = torch.arange(positions.numel()).view(positions.shape)
        else:
            table = self._table
        ids, positions, past = map(_whole_numbers, (ids, positions, past))
        mask = None if mask is None else _whole_numbers(mask)
        logits = torch.empty(batch, keep, self._model.vocabulary)
        key_places, value_places = (
            (Pointer * len(tensors))(*(tensor.data_ptr() for tensor in tensors)) for tensors in (keys, values)
        )
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
            keys=ctypes.addressof(key_places),
            values=ctypes.addressof(value_places),
            capacity=keys[0].shape[2],
            cosines=table[0].data_ptr(),
            sines=table[1].data_ptr(),
            table=len(table[0]),
            keep=keep,
            logits=logits.data_ptr(),
            threads=min(
                torch.get_num_threads(), MOST_THREADS, 1 + self._bytes * min(ids.numel(), 8) // WORTH_A_THREAD
            ),
        )
        status = self._native.tinystories_step(ctypes.byref(step))
        if status == _POSITION_BEYOND_TABLE:
            last = int(positions.max())
            table = self._table = self._cosines_and_sines((last // TABLE_STEP + 1) * TABLE_STEP)
            step.cosines, step.sines, step.table = table[0].data_ptr(), table[1].data_ptr(), len(table[0])
            status = self._native.tinystories_step(ctypes.byref(step))
        return None if status else logits


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was written to, as far as torch counts."""
    return 0 if tensor.is_inference() else tensor._version


def _whole_numbers(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64).contiguous()


def eight_bit(weight: torch.Tensor, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix `[out, in]` as whole numbers from -127 to 127 `[out, in, padded with zeros]`, and what to multiply each
    row by `[out]`."""
    scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    rounded = (weight / scale[:, None]).round().to(torch.int8)
    return nn.functional.pad(rounded, (0, -weight.shape[1] % padding)).contiguous(), scale


def _eight_bit_bytes(model: PreTrainedModel, padding: int) -> int:
    """What the matrices take with eight bits a weight."""
    shapes = [module.weight.shape for _, module in _linears(model)]
    return sum(outs * (ins + -ins % padding) + 64 for outs, ins in shapes)


def preallocated_layers(cache: Cache, count: int) -> list[PreallocatedCacheLayer] | None:
    """The layers of a cache, which are made roomy if they are not; None for a cache of another kind."""
    layers = cache.layers
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
