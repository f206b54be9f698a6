"""Configuration of TinyLlama: Llama's fields, plus rotary positions on a part of each head."""

import difflib
import math
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


# The classes of a saved folder for a process without this package, each with its module in the folder. All heads are
# listed, whichever was saved: a classifier can start from a language model. `transformers serve` needs
# AutoModelForDecision in a folder with code.
AUTO_MAP = {
    "AutoConfig": "configuration_tinyllama.TinyLlamaConfig",
    "AutoModel": "modeling_tinyllama.TinyLlamaModel",
    "AutoModelForCausalLM": "modeling_tinyllama.TinyLlamaForCausalLM",
    "AutoModelForDecision": "modeling_tinyllama.TinyLlamaForCausalLM",
    "AutoModelForSequenceClassification": "modeling_tinyllama.TinyLlamaForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_tinyllama.TinyLlamaForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_tinyllama.TinyLlamaForQuestionAnswering",
}

# Required keys of each type of rotary positions.
ROPE_REQUIRED_KEYS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


def _is_number(value: Any, kinds: tuple = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


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
            Not a hard limit: longer sequences work, but with lower quality (`generate` warns once), unless
            `rope_parameters` extend the context.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
        rms_norm_eps (`float`, defaults to 1e-6): added to the mean square before the root.
        use_cache (`bool`, defaults to `True`): return keys and values for decoding.
        pad_token_id (`int`, defaults to 1): a separate token, so that a loss that ignores padding still covers the
            end of a story.
        bos_token_id (`int`, defaults to 0): starts every story and prompt.
        eos_token_id (`int` or `list[int]`, defaults to 0): ends every story.
        tie_word_embeddings (`bool`, defaults to `True`): the output head is the embedding.
        rope_parameters (`dict`, *optional*): `rope_type` (`"default"`, `"linear"`, `"dynamic"`, `"yarn"`,
            `"llama3"` and others of transformers), `rope_theta` (10,000), `partial_rotary_factor` and the
            type's own keys, as in [`~transformers.LlamaConfig`]. To extend the context of a trained model, pass
            another dictionary, in `from_pretrained` or later: theta and factor are kept unless it contains them.
        attention_bias (`bool`, defaults to `False`): biases of the attention's projections.
        mlp_bias (`bool`, defaults to `False`): biases of the MLP's projections.
        attention_dropout (`float`, defaults to 0.0): dropout of the attention weights, in training only.
        resid_pdrop (`float`, defaults to 0.0): dropout of the outputs of attention and MLP, in training only; the name
            is Phi-3's.
        embd_pdrop (`float`, defaults to 0.0): dropout of the embeddings, in training only; the name is Phi-3's.

    Keyword Args:
        partial_rotary_factor (`float`, defaults to 0.5): fraction of each head that is rotated, in (0, 1]. Stored in
            `rope_parameters`, which it must not contradict. With 1.0, the model is Llama, weight for weight; below
            1.0, it computes the same function as Phi-3.

    Raises:
        ValueError: for an invalid setting; the message names the field and a valid value.

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
    resid_pdrop: float | int = 0.0
    embd_pdrop: float | int = 0.0

    def __post_init__(self, **kwargs):
        self._check_fields()
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.rope_parameters = self._gather_rope_parameters(kwargs)
        super().__post_init__(**kwargs)
        self._check_token_ids()
        self.validate_architecture()

    def __setattr__(self, name, value):
        # A dictionary that is set later, to extend the context of a trained model, keeps the theta and the rotated
        # fraction that the weights were trained with, unless it contains others.
        trained = self.__dict__.get("rope_parameters")
        if name == "rope_parameters" and isinstance(value, dict) and trained:
            value = {**{k: trained[k] for k in ("rope_theta", "partial_rotary_factor") if k in trained}, **value}
        super().__setattr__(name, value)

    def _gather_rope_parameters(self, kwargs: dict) -> dict:
        """`rope_parameters` merged with the older keys in `kwargs`, which are removed from there."""
        given = kwargs.pop("rope_scaling", None) or self.rope_parameters or {}
        if not isinstance(given, dict):
            raise ValueError(f"`rope_parameters` must be a dictionary, but is {given!r}.")
        rope = {key: value for key, value in given.items() if value is not None}
        if "type" in rope:
            rope.setdefault("rope_type", rope.pop("type"))
        for key, default in (("rope_theta", 10_000.0), ("partial_rotary_factor", 0.5)):
            separate = kwargs.pop(key, None)
            if separate is not None and key in rope and rope[key] != separate:
                raise ValueError(
                    f"`{key}` is {separate!r}, but `rope_parameters` has {rope[key]!r}: remove one of them."
                )
            rope.setdefault(key, default if separate is None else separate)
        return rope

    def validate(self):
        """All checks, as `save_pretrained` runs them."""
        self.validate_architecture()
        super().validate()

    def validate_architecture(self):
        """Check the architecture: at construction, when a model is built, and before saving."""
        self._check_fields()
        self._check_heads()
        self._check_rope()

    def _check_fields(self):
        """Check the type and the range of each field."""
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
            if not (_is_number(value, (int,)) and value >= 1) and not (value is None and optional):
                raise ValueError(f"`{name}` must be a whole number of at least 1, but is {value!r}.")
        for name in ("use_cache", "tie_word_embeddings", "attention_bias", "mlp_bias"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"`{name}` must be True or False, but is {value!r}.")
        dropouts = ("attention_dropout", "resid_pdrop", "embd_pdrop")
        for name in ("initializer_range", "rms_norm_eps", *dropouts):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise ValueError(f"`{name}` must be a finite number of at least 0, but is {value!r}.")
            if name in dropouts and value >= 1:
                raise ValueError(f"`{name}` must be in [0, 1), but is {value!r}.")
        from transformers.activations import ACT2FN  # a slow import that only models need

        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACT2FN:
            nearest = difflib.get_close_matches(str(self.hidden_act), ACT2FN, n=1) or ["silu"]
            raise ValueError(
                f"`hidden_act` {self.hidden_act!r} is unknown: set it to a known activation, such as {nearest[0]!r}."
            )

    def _check_heads(self):
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

    def _check_rope(self):
        rope = self.rope_parameters or {}
        rope_type = rope.get("rope_type", "default")
        if rope_type != "default" and rope_type not in ROPE_INIT_FUNCTIONS:
            known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
            raise ValueError(f"`rope_type` {rope_type!r} in `rope_parameters` is unknown: set it to one of {known}.")
        missing = [key for key in ROPE_REQUIRED_KEYS.get(rope_type, ()) if rope.get(key) is None]
        if missing:
            names = " and ".join(f"`{key}`" for key in missing)
            raise ValueError(f"`rope_parameters` of type {rope_type!r} need {names}: add them to {rope!r}.")
        for key, value in rope.items():
            if key in ("rope_theta", "factor") and not (_is_number(value) and value > 0):
                raise ValueError(f"`{key}` in `rope_parameters` must be a finite number above 0, but is {value!r}.")

        factor = rope.get("partial_rotary_factor")
        if not _is_number(factor) or not 0.0 < factor <= 1.0:
            raise ValueError(
                f"`partial_rotary_factor` is the fraction of each head that is rotated and must be in (0, 1], but is "
                f"{factor!r}: set it to 1.0 to rotate whole heads, or to 0.5 for the first half of each."
            )
        rotary_dim = int(self.head_dim * factor)
        if rotary_dim < 2 or rotary_dim % 2:
            raise ValueError(
                f"`partial_rotary_factor` ({factor}) of `head_dim` ({self.head_dim}) rotates {rotary_dim} dimensions, "
                f"but rotary position embedding needs pairs: choose a factor for which `head_dim * "
                f"partial_rotary_factor` is an even number of at least 2, or an even `head_dim`."
            )

    def _check_token_ids(self):
        # At construction only, so that a model can still be saved after its vocabulary was pruned.
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            ids = getattr(self, name)
            for token_id in ids if isinstance(ids, (list, tuple)) else [ids]:
                if token_id is None or (_is_number(token_id, (int,)) and 0 <= token_id < self.vocab_size):
                    continue
                raise ValueError(
                    f"`{name}` must be a token id from 0 to {self.vocab_size - 1}, but is {ids!r}: set it to the "
                    f"id that the tokenizer uses, or to None if it has no such token."
                )

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As [`~PreTrainedConfig.save_pretrained`], and lets the folder load without this package: the code of all
        heads is saved beside `config.json`, with an `auto_map` that names them."""
        self.auto_map = dict(AUTO_MAP)
        folder = Path(save_directory)
        if not folder.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            here = Path(__file__).parent
            for module in sorted({reference.split(".")[0] for reference in AUTO_MAP.values()}):
                # Loaded from a folder, this file can be alone; the model's save_pretrained copies the other one.
                if (here / f"{module}.py").exists():
                    shutil.copyfile(here / f"{module}.py", folder / f"{module}.py")
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


TinyLlamaConfig.register_for_auto_class()

__all__ = ["TinyLlamaConfig"]
