"""LoRA fine-tuning through `peft`: small matrices are trained beside the frozen ones of the base model."""

import dataclasses
from typing import Any

from modeling_tinyllama import TinyLlamaForCausalLM

from ..recipe import Recipe
from ..runs.adapter import require_peft
from ..runs.builtin_model import model_path
from ..utils.errors import UserError
from .arguments import user_errors
from .fine_tuning import BaseModel


# `peft` chooses modules by the type of a model, and does not know this one.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 8, 2  # and `lora_alpha` as a multiple of the rank
EMBEDDINGS = {"embed_tokens", "lm_head"}
NAMED_ALIKE = ("tinyllama", "llama")  # architectures with the same names of weights


def lora_settings(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `LoraConfig` for a recipe.

    Raises:
        UserError: if `peft` is not installed, or for settings that LoRA cannot use.
    """
    given = dict(recipe.lora or {})
    fields = {field.name for field in dataclasses.fields(require_peft().LoraConfig)}
    if unknown := sorted(given.keys() - fields):
        raise UserError(
            f"`lora` has no field {unknown[0]}: use fields of peft's LoraConfig, such as r, lora_alpha, "
            f"lora_dropout or "
            f"target_modules."
        )
    rank = given.get("r", RANK)
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"`lora`: `r` must be an integer of at least 1, but is {rank!r}.")
    settings = {"r": rank, "lora_alpha": ALPHA * rank, "target_modules": TARGETS, **given}
    trained = {*_names(settings["target_modules"]), *_names(settings.get("modules_to_save"))}
    if trained & EMBEDDINGS or settings.get("trainable_token_indices"):
        raise UserError(
            "`lora` cannot train the embeddings, which are also the output head: remove "
            f"{', '.join(sorted(trained & EMBEDDINGS)) or 'trainable_token_indices'}."
        )
    return {**settings, "task_type": "CAUSAL_LM"}


def _names(modules: Any) -> list[str]:
    return [modules] if isinstance(modules, str) else list(modules or ())


def with_lora(model: TinyLlamaForCausalLM, base: BaseModel, recipe: Recipe) -> Any:
    """The model as a `PeftModel`, in which only the adapter is trained.

    Raises:
        UserError: for settings that `peft` refuses, or a base model that an adapter cannot belong to.
    """
    peft = require_peft()
    if base.architecture not in NAMED_ALIKE:
        raise UserError(
            f"`lora` cannot be used with {base.name}, whose weights have other names than those of TinyLlama, "
            f"so that the "
            f"adapter could not be loaded: run `tinystories import {base.name} OUT`, and use --init_from OUT."
        )
    if base.config.vocab_size != base.vocab_size:
        raise UserError(
            f"`lora` cannot be used with {base.name}, which has no embedding for a padding token, so that the adapter "
            f"could not be loaded: train without `lora`."
        )
    with user_errors("lora"):
        config = peft.LoraConfig(**lora_settings(recipe), base_model_name_or_path=model_path(base.name))
        model.config.name_or_path = model.name_or_path = model_path(base.name)
        return peft.get_peft_model(model, config)
