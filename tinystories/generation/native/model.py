"""`use_native_decoding(model)`: the native step behind an ordinary model of transformers.

Design decisions
- **The model stays itself.** Its class becomes a subclass of its own, of the same name, with another `forward`, so
  that `generate`, pipelines, streamers, beams, assisted decoding, saving and Trainer go on as they did. A copy and a
  pickle are of the ordinary class again.
- **Each call decides for itself.** The native step is taken where it gives what the ordinary forward would: on a CPU,
  in evaluation, without gradients, with a cache of the usual kind, and with nothing asked for but logits. All else is
  the ordinary forward, and both go on with the same cache.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from transformers import PreTrainedModel, TopPLogitsWarper
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...utils.errors import UserError
from ..sampling import NativeTopPWarper
from .cache import PreallocatedCacheLayer
from .engine import WEIGHTS, Engine, is_wrapped, preallocated_layers, unsupported_reason


logger = logging.getLogger(__name__)


def use_native_decoding(model: PreTrainedModel, weights: str = "float32", *, warn: bool = True) -> PreTrainedModel:
    """Make `generate` of a TinyLlama or Llama fast on a CPU; returns the same model.

    Only the speed changes: with "float32" weights, the logits are those of the ordinary model up to the order of
    summation, and later changes of weights take effect. If the model or the machine does not support it, the model is
    unchanged, and a warning gives the reason. Calling it again changes `weights`.

    Args:
        weights: "float32" reads the model's weights in place. "int8" makes a copy of its matrices, a quarter of their
            size, with each row rounded to eight bits; the copy is renewed when torch registers a change of a weight,
            which it does not for writes through `.data`.
        warn: whether to warn if the model is unchanged.

    Raises:
        ValueError: for weights of another name.
    """
    try:
        return require_native_decoding(model, weights)
    except UserError as reason:
        if warn:
            logger.warning("Native decoding is not used: %s.", reason)
        return model


def require_native_decoding(model: PreTrainedModel, weights: str = "float32") -> PreTrainedModel:
    """As `use_native_decoding`, but raises `UserError` with the reason where it is not possible."""
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be one of {', '.join(WEIGHTS)}, but is {weights!r}.")
    plain = undo_native_decoding(model)
    if reason := unsupported_reason(plain):
        raise UserError(reason)
    engine = Engine(plain, weights)
    plain.__dict__["_engine"] = engine
    plain.__class__ = _native_class(type(plain))
    return plain


def undo_native_decoding(model: PreTrainedModel) -> PreTrainedModel:
    """Undo `use_native_decoding`; returns the same model."""
    if isinstance(model, NativeDecodingMixin):
        model.__class__ = type(model).ordinary
        del model.__dict__["_engine"]
    return model


@contextmanager
def native_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Use native decoding within the block where the model allows it."""
    before = isinstance(model, NativeDecodingMixin)
    if not before:
        use_native_decoding(model, warn=False)
    try:
        yield
    finally:
        if not before:
            undo_native_decoding(model)


class NativeDecodingMixin:
    """The methods that native decoding replaces."""

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        if self._native_can(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, labels,
                            use_cache, logits_to_keep, kwargs):  # fmt: skip
            logits = self._engine.logits(
                self, input_ids, position_ids, attention_mask, past_key_values, logits_to_keep
            )
            if logits is not None:
                output = CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
                as_dictionary = kwargs.get("return_dict")
                if as_dictionary is None:
                    as_dictionary = self.config.return_dict
                return output if as_dictionary else output.to_tuple()
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def row_logits(
        self, ids: torch.Tensor, past: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """Logits of one new token a row, for rows of different lengths: see `Engine.row_logits`. None, too, where the
        model has hooks, which this would pass by."""
        return None if is_wrapped(vars(self)) else self._engine.row_logits(self, ids, past, keys, values)

    def _native_can(self, ids, mask, positions, cache, embeds, labels, use_cache, keep, kwargs) -> bool:
        config = self.config
        return (
            type(ids) is torch.Tensor
            and ids.ndim == 2
            and ids.numel() > 0
            and ids.device.type == "cpu"
            and cache is not None
            and isinstance(cache, Cache)
            and embeds is None
            and labels is None
            and use_cache is not False
            and type(keep) is int
            and keep >= 0
            and (mask is None or (type(mask) is torch.Tensor and mask.ndim == 2 and mask.device.type == "cpu"))
            and (positions is None or (type(positions) is torch.Tensor and positions.device.type == "cpu"))
            and not self.training
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and all(not value or name in _HARMLESS for name, value in kwargs.items())
            and not (config.output_attentions or config.output_hidden_states)
            and config._attn_implementation in ("sdpa", "eager")
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs,
    ):
        """As ever, but without looking at everything anew for each single token, which takes as long as a layer."""
        if (
            next_sequence_length == 1
            and not is_first_iteration
            and isinstance(past_key_values, DynamicCache)
            and inputs_embeds is None
            and kwargs.keys() <= _EVERY_STEP
            and input_ids.device.type == "cpu"
        ):
            inputs = {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values, **kwargs}
            if inputs.get("position_ids") is not None:
                inputs["position_ids"] = inputs["position_ids"][..., -1:]
            if attention_mask is not None:
                inputs["attention_mask"] = attention_mask
            return inputs
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        given = model_kwargs.get("past_key_values")
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if given is None and type(cache) is DynamicCache and preallocated_layers(cache, len(cache.layers)) is not None:
            cache.layers[:] = [PreallocatedCacheLayer(generation_config.max_length) for _ in cache.layers]
        return result

    def _get_logits_processor(self, *args, **kwargs):
        processors = super()._get_logits_processor(*args, **kwargs)
        processors[:] = [NativeTopPWarper.of(each) if type(each) is TopPLogitsWarper else each for each in processors]
        return processors

    def __reduce_ex__(self, protocol):
        state = {name: value for name, value in self.__dict__.items() if name != "_engine"}
        return _new, (type(self).ordinary,), state


_HARMLESS = ("return_dict",)
_EVERY_STEP = {"position_ids", "use_cache", "logits_to_keep"}  # what `generate` says of each step anyway


def _new(ordinary: type) -> PreTrainedModel:
    return ordinary.__new__(ordinary)


@cache
def _native_class(ordinary: type) -> type:
    """The subclass for a model's class. It bears that one's name, which transformers saves and looks up."""
    names = {"__module__": ordinary.__module__, "__qualname__": ordinary.__qualname__, "ordinary": ordinary}
    return type(ordinary.__name__, (NativeDecodingMixin, ordinary), {**names, "__doc__": ordinary.__doc__})
