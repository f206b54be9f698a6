"""TinyLlama: a Llama-style decoder.

RMSNorm before attention and MLP, rotary positions on the first part of each head, SwiGLU, tied embeddings, grouped
key/value heads allowed. With `partial_rotary_factor=1.0` the weights are those of `LlamaForCausalLM`, name for name.
`labels` equal `input_ids`: the loss shifts them.
"""

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
    """Root mean square norm (https://arxiv.org/abs/1910.07467), computed in float32."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.float()
        variance = hidden_states.square().mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class TinyLlamaRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotated part of a head (https://arxiv.org/abs/2104.09864)."""

    inv_freq: torch.Tensor

    def __init__(self, config: TinyLlamaConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = (config.rope_parameters or {}).get("rope_type", "default")

        rope_init = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = rope_init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: TinyLlamaConfig, device=None, **kwargs) -> tuple[torch.Tensor, float]:
        """Inverse frequencies `[rotary_dim / 2]` and the scaling of cosine and sine."""
        rope = config.rope_parameters or {}
        head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        rotary_dim = int(head_dim * rope["partial_rotary_factor"])
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float, device=device) / rotary_dim
        return 1.0 / rope["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`position_ids` `[batch, length]` to cosines and sines `[batch, length, rotary_dim]` in the dtype of `x`."""
        # A product and not a matmul, which autocast would compute in bfloat16.
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        cos = angles.cos() * self.attention_scaling
        sin = angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary_pos_emb(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first `cos.shape[-1]` dimensions of each head; the others are unchanged.

    `unsqueeze_dim` is the dimension of the heads: 1 in `[batch, heads, length, head_dim]`, 2 in
    `[batch, length, heads, head_dim]`.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotary_dim = cos.shape[-1]

    def rotate(states: torch.Tensor) -> torch.Tensor:
        if rotary_dim == states.shape[-1]:
            return states * cos + rotate_half(states) * sin
        rotated, passed = states.split((rotary_dim, states.shape[-1] - rotary_dim), dim=-1)
        return torch.cat((rotated * cos + rotate_half(rotated) * sin, passed), dim=-1)

    return rotate(q), rotate(k)


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


def repeat_kv(hidden_states: torch.Tensor, n_rep: int) -> torch.Tensor:
    """`[batch, key_value_heads, length, head_dim]` to `[batch, key_value_heads * n_rep, length, head_dim]`."""
    return hidden_states if n_rep == 1 else hidden_states.repeat_interleave(n_rep, dim=1)


def eager_attention_forward(
    module: "TinyLlamaAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its weights `[batch, heads, length, key_length]` as the second result."""
    key_states = repeat_kv(key, module.num_key_value_groups)
    value_states = repeat_kv(value, module.num_key_value_groups)

    attn_weights = torch.matmul(query, key_states.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    return torch.matmul(attn_weights, value_states).transpose(1, 2).contiguous(), attn_weights


class TinyLlamaAttention(nn.Module):
    """Causal attention with rotary positions and grouped key/value heads."""

    def __init__(self, config: TinyLlamaConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True

        query_dim = config.num_attention_heads * self.head_dim
        key_value_dim = num_key_value_heads * self.head_dim
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query_states = self.q_proj(hidden_states).view(hidden_shape)
        key_states = self.k_proj(hidden_states).view(hidden_shape)
        value_states = self.v_proj(hidden_states).view(hidden_shape)

        # Rotated before they are transposed, so that the heads of a token stay contiguous in memory.
        query_states, key_states = apply_rotary_pos_emb(
            query_states, key_states, *position_embeddings, unsqueeze_dim=2
        )
        states = (query_states, key_states, value_states)
        query_states, key_states, value_states = (each.transpose(1, 2) for each in states)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, self.layer_idx)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query_states,
            key_states,
            value_states,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn_output.reshape(*input_shape, -1).contiguous()), attn_weights


class TinyLlamaDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: TinyLlamaConfig, layer_idx: int):
        super().__init__()
        self.self_attn = TinyLlamaAttention(config, layer_idx)
        self.mlp = TinyLlamaMLP(config)
        self.input_layernorm = TinyLlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = TinyLlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        residual = hidden_states
        hidden_states, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = residual + self.dropout(hidden_states)

        residual = hidden_states
        hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
        return residual + self.dropout(hidden_states)


@auto_docstring(custom_intro="The base class of all TinyLlama models.")
class TinyLlamaPreTrainedModel(PreTrainedModel):
    config: TinyLlamaConfig
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


def flash_attention_kwargs(position_ids: torch.Tensor) -> dict:
    """`cu_seqlens` for flash attention if `position_ids` `[batch, length]` restart within a row, otherwise empty.

    transformers itself finds packed documents only in batches of one row."""
    starts = nn.functional.pad(position_ids.diff() != 1, (1, 0), value=True).flatten().nonzero()[:, 0]
    if len(starts) == len(position_ids):
        return {}
    cu_seqlens = nn.functional.pad(starts, (0, 1), value=position_ids.numel()).to(torch.int32)
    longest = cu_seqlens.diff().max().item()
    lengths = {"max_length_q": longest, "max_length_k": longest}
    return {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens, **lengths}


@auto_docstring(custom_intro="TinyLlama without a head: it returns the hidden states of the last layer.")
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
    def forward(  # type: ignore[misc]  # TransformersKwargs repeats position_ids
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)

        # Before a cache is created: only without one, transformers masks packed documents, whose `position_ids`
        # restart within a row.
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        packable = attention_mask is None and past_key_values is None and kwargs.get("cu_seq_lens_q") is None
        if packable and position_ids is not None and is_flash_attention_requested(self.config):
            kwargs |= flash_attention_kwargs(position_ids.expand(inputs_embeds.shape[:2]))
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + past_seen_tokens

        hidden_states = nn.functional.dropout(inputs_embeds, p=self.config.embd_pdrop, training=self.training)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for decoder_layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = decoder_layer(
                hidden_states,
                attention_mask=causal_mask,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The positions of `hidden_states` `[batch, length, hidden]` to compute logits for, as in newer transformers: the
    last few (0: all), a 1-D tensor of positions, a 2-D tensor of positions `[batch, n]`, or a 2-D mask."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


@auto_docstring(custom_intro="TinyLlama with a language modeling head, which is the embedding by default.")
class TinyLlamaForCausalLM(TinyLlamaPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: TinyLlamaConfig):
        super().__init__(config)
        self.model = TinyLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(  # type: ignore[misc]  # TransformersKwargs repeats position_ids
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Equal to `input_ids`, with -100 where no loss is wanted. They are shifted here: position t is scored on
            token t+1.

        Example:

        ```python
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer

        >>> model = AutoModelForCausalLM.from_pretrained("runs/quickstart", trust_remote_code=True)
        >>> tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
        >>> inputs = tokenizer("Once upon a time", return_tensors="pt")
        >>> tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True)
        ```"""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))

        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)

        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TinyLlamaHead(PreTrainedModel):
    """Registers the base model, which transformers' generic heads get from `AutoModel`. Otherwise, a model folder
    would need `trust_remote_code=True` a second time."""

    def __init__(self, config: TinyLlamaConfig):
        AutoModel.register(type(config), TinyLlamaModel, exist_ok=True)
        super().__init__(config)


class TinyLlamaForSequenceClassification(
    TinyLlamaHead, GenericForSequenceClassification, TinyLlamaPreTrainedModel
): ...


class TinyLlamaForTokenClassification(TinyLlamaHead, GenericForTokenClassification, TinyLlamaPreTrainedModel): ...


class TinyLlamaForQuestionAnswering(TinyLlamaHead, GenericForQuestionAnswering, TinyLlamaPreTrainedModel): ...


for auto_class, model_class, names in (
    ("AutoModel", TinyLlamaModel, "MODEL"),
    ("AutoModelForCausalLM", TinyLlamaForCausalLM, "MODEL_FOR_CAUSAL_LM"),
    ("AutoModelForSequenceClassification", TinyLlamaForSequenceClassification, "MODEL_FOR_SEQUENCE_CLASSIFICATION"),
    ("AutoModelForTokenClassification", TinyLlamaForTokenClassification, "MODEL_FOR_TOKEN_CLASSIFICATION"),
    ("AutoModelForQuestionAnswering", TinyLlamaForQuestionAnswering, "MODEL_FOR_QUESTION_ANSWERING"),
):
    # So that `save_pretrained` copies this file; here and not in the package, since this file is also loaded alone.
    model_class.register_for_auto_class(auto_class)
    # `Trainer` decides by class name whether to shift smoothed labels, and pipelines whether they support a model.
    getattr(modeling_auto, f"{names}_MAPPING_NAMES").setdefault(TinyLlamaConfig.model_type, model_class.__name__)


__all__ = [
    "TinyLlamaForCausalLM",
    "TinyLlamaForQuestionAnswering",
    "TinyLlamaForSequenceClassification",
    "TinyLlamaForTokenClassification",
    "TinyLlamaModel",
    "TinyLlamaPreTrainedModel",
]
