"""`use_native_decoding(model)`: native decoding for a model of transformers, behind its usual interface.

- The model's class is replaced by a subclass of the same name with another `forward`, so `generate`, pipelines,
  streamers, beam search, assisted decoding, saving and `Trainer` work as before. Copies and pickles have the
  original class.
- Each call of `forward` uses native code only where the result is the same: on a CPU, in evaluation mode, without
  gradients, with a dynamic cache, and where only logits are requested. Other calls use the original `forward`, with
  the same cache.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch
from transformers import GenerationMixin, PreTrainedModel, TopPLogitsWarper
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...utils.errors import UserError
from ..sampling import NativeTopPWarper
from .cache import PreallocatedCacheLayer
from .engine import DRAFTS, WEIGHTS, Engine, is_wrapped, preallocated_layers, unsupported_reason
from .generate_lookahead import lookahead_in, lookahead_of
from .speculation import Lookahead


logger = logging.getLogger(__name__)


def use_native_decoding(
    model: PreTrainedModel, weights: str = "float32", *, draft: str | None = "int8", warn: bool = True
) -> PreTrainedModel:
    """Make `generate` of a TinyLlama or Llama fast on a CPU; returns the same model.

    With float32 weights, the logits are those of the original model up to the order of summation, and changes of
    weights take effect. An unsupported model is returned unchanged, with a warning. Call it again to change `weights`.

    Args:
        weights: "float32" reads the model's weights in place. "int8" uses a copy of the matrices with rows rounded to
            eight bits, a quarter of their size. The copy is renewed when a weight changes, but not after a change
            through `.data`, which torch does not count.
        draft: with "int8", `generate` of a single sequence with float32 weights is speculative where that is faster:
            a copy in int8 drafts tokens, which the weights check. The text is the same. The copy, a quarter of the
            size of the matrices, is made at first use. None: no speculation.
        warn: whether to log why native decoding is not used.

    Raises:
        ValueError: for another value of `weights` or `draft`.
    """
    try:
        return require_native_decoding(model, weights, draft=draft)
    except UserError as reason:
        if warn:
            logger.warning("Native decoding is not used: %s.", reason)
        return model


def require_native_decoding(
    model: PreTrainedModel, weights: str = "float32", *, draft: str | None = "int8"
) -> PreTrainedModel:
    """`use_native_decoding`, but raises `UserError` for an unsupported model."""
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be one of {', '.join(WEIGHTS)}, but is {weights!r}.")
    if draft not in DRAFTS:
        raise ValueError(f"`draft` must be one of {', '.join(map(str, DRAFTS))}, but is {draft!r}.")
    undo_native_decoding(model)
    if reason := unsupported_reason(model):
        raise UserError(reason)
    model.__dict__["_engine"] = Engine(model, weights, draft if weights == "float32" else None)
    model.__class__ = _native_class(type(model))  # type: ignore[arg-type]  # mypy takes the class for unhashable
    return model


def undo_native_decoding(model: PreTrainedModel) -> PreTrainedModel:
    """Undo `use_native_decoding`; returns the same model."""
    if original := getattr(model, "original_class", None):
        model.__class__ = original
        del model.__dict__["_engine"]
    return model


@contextmanager
def native_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Use native decoding within the block, if the model is supported."""
    if isinstance(model, NativeDecodingMixin):
        yield
        return
    use_native_decoding(model, warn=False)
    try:
        yield
    finally:
        undo_native_decoding(model)


if TYPE_CHECKING:

    class _Base(PreTrainedModel, GenerationMixin):
        """What the model's own class provides."""
else:
    _Base = object


class NativeDecodingMixin(_Base):
    """The methods that native decoding replaces."""

    original_class: type[PreTrainedModel]
    _engine: Engine

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
        if (
            input_ids is not None
            and isinstance(past_key_values, Cache)
            and isinstance(logits_to_keep, int)
            and logits_to_keep >= 0
            and inputs_embeds is None
            and labels is None
            and use_cache is not False
            and self._supports_call(input_ids, attention_mask, position_ids, kwargs)
        ):
            logits = None
            if ahead := lookahead_of(past_key_values):
                logits = ahead.logits(input_ids, position_ids, attention_mask, past_key_values)
            if logits is None and (native := self._engine.native(self)) is not None:
                logits = native.logits(input_ids, position_ids, attention_mask, past_key_values, logits_to_keep)
            if logits is not None:
                output = CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
                return_dict = kwargs.get("return_dict")
                if return_dict is None:
                    return_dict = self.config.return_dict
                return output if return_dict else output.to_tuple()
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

    def _sample(self, input_ids, logits_processor, stopping_criteria, generation_config, *args, **kwargs):
        cache = kwargs.get("past_key_values")
        with lookahead_in(self, self._engine, input_ids, logits_processor, generation_config, cache):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, *args, **kwargs
            )

    def row_logits(
        self, ids: torch.Tensor, past: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> torch.Tensor | None:
        """`NativeModel.row_logits`; also None if the model has hooks, which would not run."""
        native = None if is_wrapped(vars(self)) else self._engine.native(self)
        return None if native is None else native.row_logits(ids, past, keys, values)

    def lookahead(self, past: int, last: int, eos_ids: Collection[int]) -> Lookahead | None:
        """`Lookahead.of` for this model; also None if it has hooks, which would not run."""
        return None if is_wrapped(vars(self)) else Lookahead.of(self, self._engine, past, last, eos_ids)

    def _supports_call(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None, options: dict
    ) -> bool:
        config = self.config
        return (
            type(ids) is torch.Tensor
            and ids.ndim == 2
            and ids.numel() > 0
            and ids.device.type == "cpu"
            and (mask is None or (type(mask) is torch.Tensor and mask.ndim == 2 and mask.device.type == "cpu"))
            and (positions is None or (type(positions) is torch.Tensor and positions.device.type == "cpu"))
            and not self.training
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and all(not value or name == "return_dict" for name, value in options.items())
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
        """The inputs of a forward step; those of a single token without the checks of transformers, which take as long
        as a layer."""
        if (
            next_sequence_length == 1
            and not is_first_iteration
            and isinstance(past_key_values, DynamicCache)
            and inputs_embeds is None
            and kwargs.keys() <= _STEP_ARGUMENTS
            and input_ids.device.type == "cpu"
        ):
            if ahead := lookahead_of(past_key_values):
                ahead.sequence = input_ids
            inputs = {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values, **kwargs}
            if inputs.get("position_ids") is not None:
                inputs["position_ids"] = inputs["position_ids"][..., -1:]
            if attention_mask is not None:
                inputs["attention_mask"] = attention_mask
            return inputs
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
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
        return _new, (self.original_class,), state


_STEP_ARGUMENTS = {"position_ids", "use_cache", "logits_to_keep"}  # that `generate` passes in each step


def _new(original: type[PreTrainedModel]) -> PreTrainedModel:
    return original.__new__(original)


@cache
def _native_class(original: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The native subclass of a model's class, with the same name, which transformers saves and looks up."""
    names = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(original.__name__, (NativeDecodingMixin, original), {**names, "original_class": original})
