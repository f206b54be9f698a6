"""TinyLlama: a Llama-style decoder for stories.

RMSNorm before attention and MLP, rotary positions on the first part of each head, SwiGLU, no biases, tied embeddings,
grouped key/value heads allowed. With `partial_rotary_factor=1.0` the weights are those of `LlamaForCausalLM`, name for
name. The labels are shifted here, in the loss, and nowhere else: pass `labels` equal to `input_ids`.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.integrations import use_kernel_forward_from_hub
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.auto import AutoModel, modeling_auto
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tinyllama import TinyLlamaConfig


@use_kernel_forward_from_hub("RMSNorm")
class TinyLlamaRMSNorm(nn.Module):
    """Root mean square norm (https://arxiv.org/abs/1910.07467), computed in float32 whatever the input is."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        hidden_states = hidden_states.float()
        mean_square = hidden_states.square().mean(-1, keepdim=True)
        normed = hidden_states * torch.rsqrt(mean_square + self.variance_epsilon)
        return self.weight * normed.to(dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class TinyLlamaRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotated part of a head (https://arxiv.org/abs/2104.09864)."""

    def __init__(self, config: TinyLlamaConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters.get("rope_type", "default")

        rope_init: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: TinyLlamaConfig, device=None, **kwargs) -> tuple[torch.Tensor, float]:
        """Inverse frequencies, `[rotary_dim / 2]`, and the scaling of cosine and sine, which is 1 here."""
        rotary_dim = int(config.head_dim * config.rope_parameters["partial_rotary_factor"])
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float, device=device) / rotary_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`position_ids` `[batch, length]` to cosines and sines `[batch, length, rotary_dim]` in the dtype of `x`."""
        # A plain product and not a matmul: autocast would run a matmul in bfloat16 and blur the positions.
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        cos = angles.cos() * self.attention_scaling
        sin = angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary_pos_emb(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first `cos.shape[-1]` dimensions of each head of `query` and `key` and pass the rest through.

    `unsqueeze_dim` is where these have their heads: 1 in `[batch, heads, length, head_dim]`, 2 in
    `[batch, length, heads, head_dim]`.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotary_dim = cos.shape[-1]

    def rotate(states: torch.Tensor) -> torch.Tensor:
        if rotary_dim == states.shape[-1]:
            return states * cos + rotate_half(states) * sin
        turned, passed = states.split((rotary_dim, states.shape[-1] - rotary_dim), dim=-1)
        return torch.cat((turned * cos + rotate_half(turned) * sin, passed), dim=-1)

    return rotate(query), rotate(key)


class TinyLlamaMLP(nn.Module):
    """SwiGLU (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: TinyLlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


def repeat_kv(states: torch.Tensor, groups: int, dim: int = 1) -> torch.Tensor:
    """`[batch, key_value_heads, length, head_dim]` to `[batch, key_value_heads * groups, length, head_dim]`; `dim` is
    where the heads are."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=dim)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, with its weights `[batch, heads, length, key_length]` as second result."""
    key = repeat_kv(key, module.num_key_value_groups)
    value = repeat_kv(value, module.num_key_value_groups)

    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


# Operators are registered per process. Copies of this file (the package, and the code of each model folder) need names
# of their own: a second registration under one name destroys the operators that the first module still holds.
_OPERATORS = f"tinyllama_{hashlib.sha256(__name__.encode()).hexdigest()[:16]}"


@torch.library.custom_op(f"{_OPERATORS}::story_offsets", mutates_args=())
def story_offsets(position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where packed stories begin in `position_ids` `[batch, length]`, which count up within a story.

    An operator of its own, because the number of stories changes from batch to batch: its results have shapes that
    `torch.compile` knows, and the device is waited for once in a forward pass and not in each layer.

    Returns:
        Places among all `batch * length`, `[batch * length + 1]`, int32: where each story begins, then the end; and
        how many of these there are, `[]`, int64, on the CPU. What is behind them is the end again.
    """
    begins = torch.ones_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids.diff(dim=-1) != 1
    found = begins.flatten().nonzero().flatten()
    offsets = position_ids.new_full((position_ids.numel() + 1,), position_ids.numel(), dtype=torch.int32)
    offsets[: len(found)] = found
    return offsets, torch.tensor(len(found) + 1)


@story_offsets.register_fake
def _(position_ids):
    offsets = position_ids.new_empty((position_ids.numel() + 1,), dtype=torch.int32)
    return offsets, torch.empty((), dtype=torch.int64)


def story_bounds(offsets: torch.Tensor, count: torch.Tensor, length: int) -> list[tuple[int, int, int]]:
    """Row, begin and end of each packed story of rows of `length`, from [`story_offsets`]."""
    places = offsets[: count.item()].tolist()
    return [
        (begin // length, begin % length, begin % length + end - begin)
        for begin, end in zip(places, places[1:], strict=False)
    ]


# What attends faster on a CPU than torch does, if `tinystories.generation.native.attention` has put something here:
# its `forward` and `backward` take the arguments of the two operators below, and answer None to what they do
# not compute.
native_attention = None


@torch.library.custom_op(f"{_OPERATORS}::attend_within_stories", mutates_args=())
def attend_within_stories(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    count: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of packed stories, story by story, so that no work goes into what a mask would hide.

    Args:
        query, key, value: `[batch, length, heads, head_dim]`, all of one dtype; on a GPU one of 16 bits.
        offsets, count: from [`story_offsets`].

    Returns:
        What is attended to, `[batch, length, heads, head_dim]`, and the log-sums of the scores, which the backward
        pass needs: `[batch, heads, length]` on a CPU, `[heads, batch * length]` on a GPU.
    """
    batch, length = query.shape[:2]
    if query.device.type == "cuda":
        offsets = offsets[: count.item()]
        output, sums, *_ = torch.ops.aten._flash_attention_forward(
            query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), offsets, offsets, length, length, 0.0, True,
            False, scale=scaling,
        )  # fmt: skip
        return output.view(query.shape), sums
    if native_attention is not None:
        if (found := native_attention.forward(query, key, value, offsets, count, scaling)) is not None:
            return found
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    log_sums = torch.empty((batch, query.shape[2], length), dtype=torch.promote_types(query.dtype, torch.float))
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    for row, begin, end in story_bounds(offsets, count, length):
        story = slice(row, row + 1), slice(None), slice(begin, end)
        output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[story], key[story], value[story], 0.0, True, scale=scaling
        )
        attended[row, begin:end] = output[0].transpose(0, 1)
        log_sums[row, :, begin:end] = sums[0]
    return attended, log_sums


@attend_within_stories.register_fake
def _(query, key, value, offsets, count, scaling):
    batch, length, heads, _ = query.shape
    sums_shape = (heads, batch * length) if query.device.type == "cuda" else (batch, heads, length)
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    return attended, query.new_empty(sums_shape, dtype=torch.promote_types(query.dtype, torch.float))


@torch.library.custom_op(f"{_OPERATORS}::attend_within_stories_backward", mutates_args=())
def attend_within_stories_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    count: torch.Tensor,
    attended: torch.Tensor,
    log_sums: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `query`, `key` and `value`, `[batch, length, heads, head_dim]`."""
    length = query.shape[1]
    if query.device.type == "cuda":
        offsets = offsets[: count.item()]
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)
        gradients = torch.ops.aten._flash_attention_backward(
            gradient.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1),
            attended.flatten(0, 1), log_sums, offsets, offsets, length, length, 0.0, True, unused, unused[:0],
            scale=scaling,
        )  # fmt: skip
        return tuple(each.view(query.shape) for each in gradients)
    if native_attention is not None:
        found = native_attention.backward(gradient, query, key, value, offsets, count, attended, log_sums, scaling)
        if found is not None:
            return found
    results = _gradients_like(query, key, value)
    gradient, query, key, value, attended = (each.transpose(1, 2) for each in (gradient, query, key, value, attended))
    for row, begin, end in story_bounds(offsets, count, length):
        story = slice(row, row + 1), slice(None), slice(begin, end)
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient[story], query[story], key[story], value[story], attended[story], log_sums[story], 0.0, True,
            scale=scaling,
        )  # fmt: skip
        for whole, part in zip(results, gradients, strict=True):
            whole[row, begin:end] = part[0].transpose(0, 1)
    return results


@attend_within_stories_backward.register_fake
def _(gradient, query, key, value, offsets, count, attended, log_sums, scaling):
    return _gradients_like(query, key, value)


def _gradients_like(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # In memory as the projections gave them, whose own backward pass wants them so.
    return tuple(torch.empty_like(each, memory_format=torch.contiguous_format) for each in states)


def _save_for_backward(ctx, inputs, output):
    query, key, value, offsets, count, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value, offsets, count, *output)


def _backward(ctx, gradient, _):
    gradients = attend_within_stories_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.scaling)
    return *gradients, None, None, None


attend_within_stories.register_autograd(_backward, setup_context=_save_for_backward)


@torch.compiler.assume_constant_result
def _has_flash_attention(device_index: int) -> bool:
    """Whether a GPU and this torch have flash attention (https://arxiv.org/abs/2307.08691), and it is allowed."""
    return (
        torch.version.hip is None
        and torch.cuda.get_device_capability(device_index) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.backends.cuda.flash_sdp_enabled()
    )


def _dtype_of_products(states: torch.Tensor) -> torch.dtype:
    """Of matrix products with `states` here, which autocast may change."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


class TinyLlamaAttention(nn.Module):
    """Causal attention with rotary positions and, if the configuration says so, grouped key/value heads."""

    def __init__(self, config: TinyLlamaConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True

        query_dim = config.num_attention_heads * self.head_dim
        key_value_dim = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_dim, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_dim, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_dim, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        packed_stories: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_and_length = hidden_states.shape[:-1]
        per_head = (*batch_and_length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(per_head)
        key = self.k_proj(hidden_states).view(per_head)
        value = self.v_proj(hidden_states).view(per_head)

        if packed_stories is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings, unsqueeze_dim=2)
            key, value = (repeat_kv(each, self.num_key_value_groups, dim=2) for each in (key, value))
            # Under autocast the rotation leaves float32 behind, which would halve the speed.
            query, key = query.to(value.dtype), key.to(value.dtype)
            attended, _ = attend_within_stories(query, key, value, *packed_stories, self.scaling)
            return self.o_proj(attended.reshape(*batch_and_length, -1)), None

        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.reshape(*batch_and_length, -1).contiguous()), weights


class TinyLlamaDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: TinyLlamaConfig, layer_idx: int):
        super().__init__()
        self.self_attn = TinyLlamaAttention(config, layer_idx)
        self.mlp = TinyLlamaMLP(config)
        self.input_layernorm = TinyLlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = TinyLlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


@auto_docstring
class TinyLlamaPreTrainedModel(PreTrainedModel):
    config: TinyLlamaConfig
    config_class = TinyLlamaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TinyLlamaDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": TinyLlamaDecoderLayer,
        "attentions": TinyLlamaAttention,
    }


def _flash_story_bounds(position_ids: torch.LongTensor) -> dict:
    """Where packed stories begin and end, as flash attention takes it: for `position_ids` `[batch, length]` that start
    again in mid-row, offsets into `[batch * length]` and the longest story in tokens; otherwise nothing."""
    offsets, count = story_offsets(position_ids)
    offsets = offsets[: count.item()]
    if len(offsets) == len(position_ids) + 1:
        return {}
    longest = offsets.diff().max().item()
    return {
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
    }


@auto_docstring
class TinyLlamaModel(TinyLlamaPreTrainedModel):
    def __init__(self, config: TinyLlamaConfig):
        super().__init__(config)
        config.validate_architecture()
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(TinyLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = TinyLlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = TinyLlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)

        # The mask comes before a new cache is made: transformers separates packed stories (`position_ids` that start
        # again in mid-row) only where it sees no cache, and an empty one would let each story see those before it.
        # Flash attention has no such mask, and by itself it looks for packed stories in batches of one row only.
        packable = position_ids is not None and attention_mask is None and past_key_values is None
        if packable and is_flash_attention_requested(self.config) and kwargs.get("cu_seq_lens_q") is None:
            kwargs |= _flash_story_bounds(position_ids.expand(inputs_embeds.shape[:2]))
        if packable and not use_cache and self._attends_within_stories(inputs_embeds):
            kwargs["packed_stories"] = story_offsets(position_ids.expand(inputs_embeds.shape[:2]))
        else:
            attention_mask = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0) + seen

        hidden_states = nn.functional.dropout(inputs_embeds, p=self.config.embd_pdrop, training=self.training)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _attends_within_stories(self, inputs_embeds: torch.Tensor) -> bool:
        """Whether packed stories are cheaper one by one than under a mask: where torch has flash attention for it,
        and no weights are dropped."""
        if self.config._attn_implementation != "sdpa" or (self.training and self.config.attention_dropout):
            return False
        device = inputs_embeds.device
        if device.type == "cuda":
            return (
                _dtype_of_products(inputs_embeds) in (torch.bfloat16, torch.float16)
                and self.config.head_dim % 8 == 0
                and self.config.head_dim <= 256
                and _has_flash_attention(device.index)
            )
        return device.type == "cpu"


def _select_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The positions of `hidden_states` `[batch, length, hidden]` that logits are wanted for.

    An int keeps that many last ones (0: all); a 1-D tensor keeps those positions of every row; a 2-D integer tensor
    `[batch, n]` keeps its own positions of each row; a 2-D mask keeps where it is true, flattened to `[n, hidden]`.
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


# Logits that are held at once while the loss is computed: on a CPU what its caches hold.
_LOGITS_AT_ONCE = {"cpu": 2**21}
_LOGITS_AT_ONCE_ELSEWHERE = 2**27


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of a head without bias, some positions at a time, so that the logits of a whole batch are
    never held: with a small model they are most of the memory that a training step moves."""

    @staticmethod
    def forward(
        ctx, hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The sum in nats, `[]`; its gradients are computed here, too, where they cost little more.

        Args:
            hidden_states: `[positions, hidden]`.
            weight: `[vocab, hidden]`.
            targets: `[positions]`, -100 where no loss is wanted.
            dtype: of the matrix products; softmax and sums are float32.
        """
        device = hidden_states.device.type
        wanted = targets != -100
        index = torch.where(wanted, targets, 0)[:, None]
        # Where no loss is wanted nothing is given to the weight, whatever stands in that row of the gradient.
        low_hidden, low_weight = (hidden_states * wanted[:, None]).to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=torch.float, device=hidden_states.device)
        hidden_gradients = []
        weight_gradient = torch.zeros_like(weight, dtype=torch.float)
        at_once = max(64, _LOGITS_AT_ONCE.get(device, _LOGITS_AT_ONCE_ELSEWHERE) // len(weight))
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(targets), at_once):
                part = slice(begin, begin + at_once)
                logits = low_hidden[part] @ low_weight.T
                logprobs = nn.functional.log_softmax(logits, dim=-1, dtype=torch.float)
                of_targets = logprobs.gather(-1, index[part])
                total = total - (of_targets[:, 0] * wanted[part]).sum()
                # Into memory that is there: in small steps, new memory costs more than the sums.
                gradient = torch.exp(logprobs, out=logprobs if dtype == torch.float else logits)
                gradient.scatter_(-1, index[part], torch.expm1(of_targets).to(dtype))
                hidden_gradients.append(gradient @ low_weight)
                if dtype == torch.float:
                    weight_gradient.addmm_(gradient.T, low_hidden[part])
                else:
                    weight_gradient += gradient.T @ low_hidden[part]
        hidden_gradient = torch.cat(hidden_gradients) * wanted[:, None]
        ctx.save_for_backward(hidden_gradient.to(hidden_states.dtype), weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None, None


@auto_docstring
class TinyLlamaForCausalLM(TinyLlamaPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: TinyLlamaConfig):
        super().__init__(config)
        self.model = TinyLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @auto_docstring
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
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Equal to `input_ids`, with -100 where no loss is wanted. They are shifted here: position t is scored on
            token t+1.
        skip_logits (`bool`, *optional*, defaults to `False`):
            With `labels`: compute the loss alone, without the logits of the whole batch, which saves time and memory
            in training. `logits` is None then.

        Example:

        ```python
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer

        >>> model = AutoModelForCausalLM.from_pretrained("runs/quickstart", trust_remote_code=True)
        >>> tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
        >>> inputs = tokenizer("Once upon a time", return_tensors="pt")
        >>> tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True)
        ```"""
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        loss = logits = None
        if labels is not None and skip_logits:
            loss = self._loss_without_logits(outputs.last_hidden_state, labels, kwargs.get("num_items_in_batch"))
        else:
            logits = self.lm_head(_select_positions(outputs.last_hidden_state, logits_to_keep))
        if labels is not None and logits is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)

        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss_without_logits(
        self, hidden_states: torch.Tensor, labels: torch.LongTensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        dtype = _dtype_of_products(hidden_states)
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()
        total = HeadLoss.apply(hidden_states.flatten(0, 1), self.lm_head.weight, targets, dtype)
        if num_items_in_batch is None:
            num_items_in_batch = (targets != -100).sum()
        return total / num_items_in_batch


class _HeadOnTinyLlama:
    """The heads that transformers gives ask `AutoModel` for their base. Where this code came out of a model folder,
    `AutoModel` has not heard of it and would ask once more whether to trust it: so it is told first."""

    def __init__(self, config: TinyLlamaConfig):
        AutoModel.register(type(config), TinyLlamaModel, exist_ok=True)
        super().__init__(config)


class TinyLlamaForSequenceClassification(
    _HeadOnTinyLlama, GenericForSequenceClassification, TinyLlamaPreTrainedModel
): ...


class TinyLlamaForTokenClassification(_HeadOnTinyLlama, GenericForTokenClassification, TinyLlamaPreTrainedModel): ...


class TinyLlamaForQuestionAnswering(_HeadOnTinyLlama, GenericForQuestionAnswering, TinyLlamaPreTrainedModel): ...


# transformers decides some things by class name: whether `Trainer` shifts labels that it smooths, and which models a
# pipeline and `transformers serve` support. `register` of the Auto classes does not enter these names.
for names, model_class in (
    (modeling_auto.MODEL_MAPPING_NAMES, TinyLlamaModel),
    (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, TinyLlamaForCausalLM),
    (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, TinyLlamaForSequenceClassification),
    (modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, TinyLlamaForTokenClassification),
    (modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES, TinyLlamaForQuestionAnswering),
):
    names.setdefault(TinyLlamaConfig.model_type, model_class.__name__)


# So that `save_pretrained` copies this code into the folder; here and not in the package, because this file is also
# loaded alone, out of such a folder.
TinyLlamaModel.register_for_auto_class("AutoModel")
TinyLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
TinyLlamaForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
TinyLlamaForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
TinyLlamaForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")


__all__ = [
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]
