"""Refusal of recipes whose values contradict each other or cannot work."""

import re

from ..story_template import StoryTemplate
from ..utils.errors import UserError
from .settings import FROM_BASE, Recipe


MIN_VOCAB_SIZE = 260  # special tokens, a token for each byte, and one more
MAX_ROW_CONTEXTS = 64  # rows of 8 contexts are already full; longer ones only cost attention and memory


def check_recipe(recipe: Recipe) -> None:
    """Refuse values that contradict each other or cannot work.

    Raises:
        UserError: with the first of them.
    """
    length, row_length, optim = recipe.max_length, recipe.row_length, recipe.trainer.get("optim")
    minutes, decay, weight = recipe.max_minutes, recipe.ema_decay, recipe.article_loss_weight
    broken = [prompt for prompt in recipe.prompts or () if re.search("[\ud800-\udfff]", prompt)]
    fine_tuned = recipe.init_from is not None
    known = not (fine_tuned and length == FROM_BASE["max_length"])
    _require(
        not known or length >= 16,
        f"`max_length` must be at least 16 tokens, but is {length}; a story has about 200 tokens.",
    )
    _require(
        not known or row_length is None or length <= row_length <= MAX_ROW_CONTEXTS * length,
        f"`row_length` must be from {length} (`max_length`, so that each story fits into a row) to "
        f"{MAX_ROW_CONTEXTS * length}, but is {row_length}.",
    )
    _require(
        fine_tuned or recipe.tokenizer is not None or recipe.vocab_size >= MIN_VOCAB_SIZE,
        f"`vocab_size` must be at least {MIN_VOCAB_SIZE}, but is {recipe.vocab_size}: special tokens and bytes take "
        f"{MIN_VOCAB_SIZE - 1} entries. For children's stories, use about 10000.",
    )
    _require(
        all(recipe.prompts or ()),
        "`prompts` contains an empty string: remove it, or set `prompts` to '[]' for no sample stories.",
    )
    _require(not broken, f"`prompts`: {broken!a} contains an unpaired surrogate: write the character itself.")
    _require(
        recipe.optimizer == "adamw" or optim is None,
        f"`optimizer: muon` uses AdamW for the other weights: remove `optim` ({optim}) or `optimizer`.",
    )
    _require(
        recipe.split.strip() not in ("", "true"),
        "`split` needs a value: auto, file, line, blank-lines or a separator.",
    )
    _require(
        recipe.validation_fraction is None or 0 < recipe.validation_fraction < 1,
        f"`validation_fraction` must be between 0 and 1, but is {recipe.validation_fraction}.",
    )
    for name in ("num_proc", "early_stopping_patience", "tokenizer_stories"):
        value = getattr(recipe, name)
        _require(value in (None, "all") or value >= 1, f"`{name}` must be at least 1, but is {value}.")
    _require(
        decay is None or 0 < decay < 1, f"`ema_decay` must be between 0 and 1, for example 0.999, but is {decay}."
    )
    _require(
        recipe.copy_init is None or 0 < recipe.copy_init <= 10,
        f"`copy_init` must be above 0 and at most 10, for example 1, but is {recipe.copy_init}.",
    )
    for name in ("zero_init_residual", "copy_init"):
        _require(
            not (fine_tuned and getattr(recipe, name)),
            f"`{name}` initialises a model that is trained from scratch, so it does not go with `init_from`: remove "
            f"it, or use the recipe `finetune`.",
        )
    _require(
        recipe.keep_corpus is None or fine_tuned,
        "`keep_corpus` measures what a model forgets in fine-tuning: set `init_from`, too, or remove it.",
    )
    _require(
        not isinstance(recipe.keep_corpus, dict) or "corpus" in recipe.keep_corpus,
        "`keep_corpus` needs the key `corpus`, or is the name of a corpus.",
    )
    _require(
        not recipe.add_tokens or (fine_tuned and recipe.lora is None),
        "`add_tokens` gives a trained model new embeddings, which must be trained: set `init_from`, and no `lora`.",
    )
    _require(recipe.lora is None or fine_tuned, "`lora` adapts a trained model: set `init_from`, too.")
    _require(
        recipe.lora is None or recipe.optimizer == "adamw",
        "`lora` trains narrow matrices, for which `optimizer: muon` is not suited: use `optimizer: adamw`.",
    )
    _require(recipe.lora is None or decay is None, "`lora` and `ema_decay` cannot be combined: remove one of them.")
    _require(
        recipe.lora is None or not recipe.trainer.get("push_to_hub"),
        "`lora` and `push_to_hub` cannot be combined, because a merged model is published: run `tinystories push` "
        "after training.",
    )
    replay = recipe.replay
    _require(
        replay is None or 0 < replay < 1,
        f"`replay` must be between 0 and 1, for example 0.1, but is {replay}: it is a fraction of the training rows.",
    )
    _require(
        replay is None or recipe.keep_corpus is not None,
        "`replay` takes its stories from `keep_corpus`: set `keep_corpus`, too, for example to `auto`.",
    )
    _require(
        replay is None or not recipe.streaming, "`replay` and `streaming` cannot be combined: remove one of them."
    )
    if recipe.template is not None:
        StoryTemplate(recipe.template)
    dropout = recipe.template_dropout
    _require(
        0 <= dropout < 1, f"`template_dropout` must be at least 0 and below 1, for example 0.3, but is {dropout}."
    )
    for name in ("template_dropout", "train_on_template"):
        _require(
            recipe.template is not None or not getattr(recipe, name),
            f"`{name}` needs a `template`: set one, or remove `{name}`.",
        )
    _require(
        0 < weight <= 2,
        f"`article_loss_weight` must be above 0 and at most 2, but is {weight}; 2 already raises the probability of "
        f"an article from 0.5 to 0.67. If a model omits articles, look for the cause with `tinystories doctor`.",
    )
    _require(minutes is None or 0 < minutes < float("inf"), f"`max_minutes` must be above 0, but is {minutes}.")
    _require(
        not recipe.streaming or minutes is not None or recipe.trainer.get("max_steps", -1) > 0,
        "`streaming` needs `max_steps` or `max_minutes`, because the number of stories is not known in advance.",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
