"""Fine-tuning: the model that training starts from, and what a recipe takes from it.

- Weights, shape, vocabulary and tokenizer are those of the base model. A recipe that gives other values is refused.
- Stories are packed as for a new model, between the base's own BOS and EOS tokens: a model that was trained to end
  stories at `<s>`, as those of llama2.c, still does. Every token that ended its texts before ends them afterwards.
- The recipe in the run folder has the values of the base, so that a run can be resumed without it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AddedToken, GenerationConfig, PreTrainedTokenizerBase

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import vocabulary_size

from ..generation.generate import default_new_tokens, eos_token_ids, preset_config
from ..generation.presets import preset_of
from ..generation.prompts import decode, set_prompt_prefix
from ..recipe import DERIVED, FROM_BASE, KEEP_AUTO, Recipe, check_recipe, known_keys
from ..utils.errors import UserError
from .arguments import user_errors
from .build import complete_special_tokens
from .forgetting import keep_settings


DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")  # no property of the weights
ROW_FRACTION = 1.5  # row length by context length
LONGEST = 2_048  # tokens of a story, unless the recipe gives another `max_length`


@dataclass
class BaseModel:
    """The model that fine-tuning starts from.

    Attributes:
        name: as the user gave it.
        model: in float32 on the CPU.
        tokenizer: with the special tokens that training needs.
        vocab_size: entries of the embedding as it was loaded.
        changes: special tokens that the tokenizer did not have, in words.
        architecture: `tinyllama`, `llama` or `phi3`, as it was saved; `file` for a single file.
    """

    name: str
    model: TinyLlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    changes: list[str]
    architecture: str

    @classmethod
    def of(
        cls, name: str, model: TinyLlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, architecture: str
    ) -> "BaseModel":
        """A loaded model, prepared for training: special tokens are completed, and the embedding has a row for each.

        Raises:
            UserError: for a tokenizer that training cannot use.
        """
        vocab_size = model.config.vocab_size
        changes = complete_special_tokens(tokenizer, name)
        tokenizer.model_max_length = model.config.max_position_embeddings
        # Prompts begin as stories do in training, whatever special tokens this tokenizer adds.
        set_prompt_prefix(tokenizer, [tokenizer.bos_token_id])
        # The rotary frequencies are float32 in every dtype.
        model = model.float()
        model.config.dtype = torch.float32
        grow_embeddings(model, vocabulary_size(tokenizer))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.config, key, getattr(tokenizer, key))
        return cls(name, model, tokenizer, vocab_size, changes, architecture)

    @property
    def config(self) -> TinyLlamaConfig:
        return self.model.config

    def new_model(self, recipe: Recipe) -> TinyLlamaForCausalLM:
        """The model, with the dropouts of the recipe."""
        dropouts = {name: recipe.model.get(name, getattr(self.config, name)) for name in DROPOUTS}
        if all(getattr(self.config, name) == value for name, value in dropouts.items()):
            return self.model
        with user_errors("model"):
            config = TinyLlamaConfig.from_dict({**self.config.to_dict(), **dropouts})
        model = TinyLlamaForCausalLM(config)
        model.load_state_dict(self.model.state_dict())
        model.generation_config = self.model.generation_config
        return model

    def generation_config(self, recipe: Recipe) -> GenerationConfig:
        """The recipe's preset, with every token that ended the base's stories."""
        config = preset_config(recipe.preset, self.tokenizer, max_new_tokens=default_new_tokens(recipe.max_length))
        ends = eos_token_ids(self.model, self.tokenizer)
        if len(ends) > 1:
            config.eos_token_id = ends
        return config

    @torch.no_grad()
    def add_tokens(self, tokens: list[str]) -> None:
        """Add names or markers to the vocabulary; their embeddings are the mean of those of their pieces.

        Raises:
            UserError: for a token that is empty, exists, or would change how other text is encoded.
        """
        pieces = {token: self._pieces(token) for token in dict.fromkeys(tokens)}
        sample = [f"One day {token} said: {token}, go.\n{token}" for token in pieces]
        before = self._round_trip(sample)
        new = [AddedToken(token, normalized=False) for token in pieces]
        first = vocabulary_size(self.tokenizer)
        self.tokenizer.add_tokens(new)
        if vocabulary_size(self.tokenizer) != first + len(new) or self._round_trip(sample) != before:
            raise UserError(
                f"`add_tokens` ({', '.join(pieces)}): with them, the tokenizer of {self.name} would change the text "
                f"around them. Remove `add_tokens`, or use a model with byte-level BPE, such as those that this "
                f"package "
                f"trains."
            )
        grow_embeddings(self.model, first + len(new))
        for embedding in {self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight}:
            for number, ids in enumerate(pieces.values()):
                embedding[first + number] = embedding[ids].mean(0)

    def _pieces(self, token: str) -> list[int]:
        ids = self.tokenizer(token, add_special_tokens=False)["input_ids"]
        if not token.strip():
            raise UserError(f"`add_tokens`: {token!r} is empty: remove it.")
        if token != token.strip():
            raise UserError(f"`add_tokens`: {token!r} begins or ends with white space: write {token.strip()!r}.")
        if len(ids) < 2:
            raise UserError(f"`add_tokens`: {token!r} is already a token: remove it.")
        return ids

    def _round_trip(self, texts: list[str]) -> list[str]:
        return [decode(self.tokenizer, self.tokenizer(text)["input_ids"]) for text in texts]


@torch.no_grad()
def grow_embeddings(model: TinyLlamaForCausalLM, vocab_size: int) -> None:
    """Give a model an embedding for each token, the mean of all for new ones; further embeddings are kept."""
    before = model.config.vocab_size
    if vocab_size <= before:
        return
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    for embedding in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        embedding[before:] = embedding[:before].mean(0)


def complete_recipe(recipe: Recipe, base: BaseModel, *, resumed: bool = False) -> Recipe:
    """The recipe with the values of the base model for all keys that follow from it.

    Args:
        resumed: whether `base` is a checkpoint, whose vocabulary may have more tokens than that of the base model.

    Raises:
        UserError: if it gives other values.
    """
    config = base.config
    _refuse(_differences(recipe, config, None if resumed else base.vocab_size), base.name)
    context = config.max_position_embeddings
    if recipe.max_length > context:
        raise UserError(
            f"`max_length` is {recipe.max_length:,}, but the context length of {base.name} is {context:,} "
            f"tokens: remove "
            f"`max_length`."
        )
    length = recipe.max_length or min(context, LONGEST)
    completed = dataclasses.replace(
        recipe,
        vocab_size=recipe.vocab_size or base.vocab_size,
        max_length=length,
        # The shortest row without padding would hold all of a few stories, and leave a step per epoch.
        row_length=recipe.row_length or round(ROW_FRACTION * length),
        keep_corpus=keep_settings(recipe),
        preset=recipe.preset or _preset(base.model.generation_config),
        model={**_model_section(config), **recipe.model},
    )
    check_recipe(completed)
    return completed


def with_values_of(recipe: Recipe, saved: Recipe) -> Recipe:
    """A recipe that is resumed, with the values that the run took from its base model."""
    if recipe.init_from is None or saved.init_from is None:
        return recipe
    taken = {name: getattr(saved, name) for name, open_ in FROM_BASE.items() if getattr(recipe, name) == open_}
    taken["row_length"] = recipe.row_length or saved.row_length
    keep, before = recipe.keep_corpus, saved.keep_corpus
    if isinstance(before, dict) and keep in (KEEP_AUTO, before["corpus"]):
        taken["keep_corpus"] = before
    return dataclasses.replace(recipe, model={**saved.model, **recipe.model}, **taken)


def _differences(recipe: Recipe, config: TinyLlamaConfig, vocab_size: int | None = None) -> list[str]:
    """The values of a recipe that contradict a model, in words.

    Args:
        vocab_size: of the model; None if that of the recipe need not be the same.
    """
    of_base = {
        **_model_section(config),
        "partial_rotary_factor": (config.rope_parameters or {})["partial_rotary_factor"],
    }
    asked = {name: value for name, value in recipe.model.items() if name not in DROPOUTS and value is not None}
    if vocab_size is not None and recipe.vocab_size != FROM_BASE["vocab_size"]:
        of_base, asked = {**of_base, "vocab_size": vocab_size}, {**asked, "vocab_size": recipe.vocab_size}
    return [f"{name} is {value}, not {of_base[name]}" for name, value in asked.items() if value != of_base[name]]


def _refuse(found: list[str], name: str) -> None:
    if found:
        raise UserError(
            f"The settings contradict the base model {name}, whose shape and vocabulary cannot change: "
            f"{'; '.join(found)}. Remove these settings, or train from scratch: `tinystories train` without "
            f"--init_from."
        )


def _model_section(config: TinyLlamaConfig) -> dict[str, Any]:
    """The section `model` of a recipe for a configuration."""
    names = [name for section, name in known_keys() if section == "model" and name not in DERIVED]
    return {name: getattr(config, name) for name in names if name != "partial_rotary_factor"}


def _preset(config: GenerationConfig | None) -> str:
    return "balanced" if config is None else preset_of(config.to_dict()) or "balanced"
