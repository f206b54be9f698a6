"""Configuration of TinyLlama: Llama's fields, plus rotary positions on a part of each head."""

from transformers.configuration_utils import PreTrainedConfig


class TinyLlamaConfig(PreTrainedConfig):
    r"""
    Settings of a TinyLlama model. With no arguments this is the 24.5M-parameter story model (24,557,120 parameters).

    Args:
        vocab_size (`int`, defaults to 10,000): entries of the vocabulary, rows of the embedding.
        hidden_size (`int`, defaults to 448): width of the residual stream; a multiple of `num_attention_heads`.
        intermediate_size (`int`, defaults to 1,536): inner width of the SwiGLU MLP, used exactly as given.
        num_hidden_layers (`int`, defaults to 7): decoder layers.
        num_attention_heads (`int`, defaults to 7): query heads.
        num_key_value_heads (`int`, *optional*): key/value heads, a divisor of `num_attention_heads` (the default is
            one for each query head).
        head_dim (`int`, *optional*): width of a head, `hidden_size // num_attention_heads` unless given.
        hidden_act (`str`, defaults to `"silu"`): activation of the MLP's gate.
        max_position_embeddings (`int`, defaults to 512): longest sequence, in tokens, that the model is trained on.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
        rms_norm_eps (`float`, defaults to 1e-6): added to the mean square before the root.
        use_cache (`bool`, defaults to `True`): return keys and values for decoding.
        pad_token_id, bos_token_id, eos_token_id (`int`, default to 1, 0, 0): padding is a token of its own, so that
            a loss that ignores padding still trains the end of a story.
        tie_word_embeddings (`bool`, defaults to `True`): the output head is the embedding.
        rope_parameters (`dict`, *optional*): `rope_type` (`"default"`, `"linear"`, `"dynamic"`, `"yarn"`,
            `"llama3"`), `rope_theta` (10,000), `partial_rotary_factor` and the type's own keys, as in
            [`~transformers.LlamaConfig`].
        partial_rotary_factor (`float`, defaults to 0.5): share of each head that is rotated, in (0, 1]. Stored inside
            `rope_parameters`. With 1.0 the model is Llama, weight for weight; below 1.0 it is Phi-3's function.
        attention_bias, mlp_bias (`bool`, default to `False`): biases of the projections.
        attention_dropout (`float`, defaults to 0.0): dropout of the attention weights, in training only.

    Raises:
        ValueError: for a setting that no model can be built from; the message names the field and a value that works.

    ```python
    >>> from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

    >>> TinyLlamaForCausalLM(TinyLlamaConfig()).num_parameters()
    24557120
    ```"""

    model_type = "tinyllama"
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 10_000
    hidden_size: int = 448
    intermediate_size: int = 1_536
    num_hidden_layers: int = 7
    num_attention_heads: int = 7
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    tie_word_embeddings: bool = True
    rope_parameters: dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        self._require_counts()
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        kwargs.setdefault("partial_rotary_factor", 0.5)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def _require_counts(self):
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            optional = name in ("num_key_value_heads", "head_dim")
            if (value is None and optional) or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
                continue
            raise ValueError(f"`{name}` must be a whole number of at least 1, but is {value!r}.")

    def validate_architecture(self):
        """Refuse shapes that cannot be built. Runs at construction, and whenever the configuration is validated."""
        self._require_counts()
        heads, key_value_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads:
            nearest = max(heads, round(self.hidden_size / heads) * heads)
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` ({heads}): "
                f"set `hidden_size` to {nearest}, or change the number of heads."
            )
        if heads % key_value_heads:
            divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise ValueError(
                f"`num_attention_heads` ({heads}) must be a multiple of `num_key_value_heads` ({key_value_heads}): "
                f"set `num_key_value_heads` to one of {divisors}."
            )
        factor = self.rope_parameters.get("partial_rotary_factor", 1.0)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0.0 < factor <= 1.0:
            raise ValueError(
                f"`partial_rotary_factor` is the share of each head that is rotated and must lie in (0, 1], but is "
                f"{factor!r}: set it to 1.0 to rotate whole heads, or to 0.5 for the first half of each."
            )
        rotary_dim = int(self.head_dim * factor)
        if rotary_dim < 2 or rotary_dim % 2:
            raise ValueError(
                f"`partial_rotary_factor` ({factor}) of `head_dim` ({self.head_dim}) rotates {rotary_dim} dimensions, "
                f"but rotary positions turn pairs: choose a factor for which `head_dim * partial_rotary_factor` is an "
                f"even number of at least 2, or an even `head_dim`."
            )


__all__ = ["TinyLlamaConfig"]
