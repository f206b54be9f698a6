"""Encoding of prompts, and decoding of completions.

A prompt starts like a document in training and never ends with EOS. Many tokenizers append one to every text
(`<s> $A </s>`, `add_eos_token=True`); after it, a model does not continue the prompt.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..story_template import StoryTemplate
from ..utils.errors import UserError


OPENING_WORDS, OPENING_CHARACTERS = 6, 60

if TYPE_CHECKING:  # `llamacpp` works without transformers
    from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Token ids of `prompt`, with the special tokens that the tokenizer puts before a text, and without EOS.

    Raises:
        UserError: if the prompt is empty and the tokenizer has no BOS token.
    """
    return encode_prompt_with(
        _encoder(tokenizer), prompt, bos_token_id=tokenizer.bos_token_id, eos_token_ids={tokenizer.eos_token_id}
    )


def instruction(tokenizer: "PreTrainedTokenizerBase", fields: Mapping[str, str]) -> str:
    """The text in front of a story, by the template with which the model was trained; empty without fields.

    Args:
        fields: such as `{"words": "dragon, key, rain"}`.

    Raises:
        UserError: if the model was trained without a template, or with one that lacks a field.
    """
    if not fields:
        return ""
    template = StoryTemplate.of_tokenizer(tokenizer)
    if template is None:
        raise UserError(
            f"The model takes no fields such as {next(iter(fields))}, because it was trained without a "
            f"`template`: use a "
            f"model that was trained with one, or only a prompt (docs/finetuning.md describes templates)."
        )
    template.check_fields(fields)
    return template.render(fields)


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], fields: Mapping[str, str] | None = None
) -> list[int]:
    """Token ids of a prompt for the answer to `messages`, by the tokenizer's chat template, as in `pipeline`.

    For a tokenizer without one, the last user message is the beginning of a story, as in the template of this project.
    If the last message is the assistant's, the prompt ends with it, and the answer continues it.

    Args:
        messages: each with `role` and `content`.
        fields: of the template that the model was trained with.

    Raises:
        UserError: if the template refuses the messages, the prompt is empty, or as [`instruction`].
    """
    from jinja2 import TemplateError

    from tinystories.tokenization.bpe import CHAT_TEMPLATE

    instruction(tokenizer, fields or {})
    values: dict[str, Any] = dict(fields or {})
    continued = messages[-1]["role"] == "assistant"
    try:
        encoded: Any = tokenizer.apply_chat_template(
            messages,
            chat_template=None if tokenizer.chat_template else CHAT_TEMPLATE,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            tokenize=True,
            return_dict=True,
            **values,
        )
    except (TemplateError, ValueError) as error:
        raise UserError(f"The chat template of the model refuses these messages: {error}") from None
    ids = list(encoded["input_ids"])
    if not ids:
        raise UserError("With this tokenizer, an empty message has no tokens: it needs at least one word.")
    return ids


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int], *, skip_special_tokens: bool = True) -> str:
    """The text of `ids`, without removing spaces before punctuation."""
    return str(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False))


def encode_prompt_with(
    encode: Callable[[str, bool], list[int]],
    prompt: str,
    *,
    bos_token_id: int | None,
    eos_token_ids: Collection[int | None],
) -> list[int]:
    """`encode_prompt` for any tokenizer.

    Args:
        encode: `encode(text, add_special_tokens)` returns token ids.
        bos_token_id: used for a prompt without tokens.
        eos_token_ids: removed from the end of the prompt.

    Raises:
        UserError: as [`encode_prompt`].
    """
    prefix, _ = _added(encode)
    ids = prefix + list(encode(prompt, False))
    while len(ids) > len(prefix) and ids[-1] in eos_token_ids:
        ids.pop()
    if not ids and bos_token_id is not None:
        ids = [bos_token_id]
    if not ids:
        raise UserError("With this tokenizer, an empty prompt has no tokens: the prompt needs at least one word.")
    return ids


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer adds before a text, and after it."""
    return _added(_encoder(tokenizer))


def set_prompt_prefix(tokenizer: "PreTrainedTokenizerBase", prefix: list[int] | None = None) -> None:
    """Make the tokenizer add `prefix` before a text and nothing after it; `save_pretrained` saves that.

    A plain call, as in `pipeline`, then encodes prompts like `encode_prompt`. A tokenizer without a backend of the
    `tokenizers` library is not changed.

    Args:
        prefix: ids of special tokens; by default those that it already adds before a text.
    """
    from tokenizers import processors

    before, after = added_tokens(tokenizer)
    prefix = before if prefix is None else prefix
    if (before, []) == (prefix, after) or not hasattr(tokenizer, "backend_tokenizer"):
        return
    # Some classes rebuild their template from these when they are loaded.
    for name, value in {"add_bos_token": bool(prefix), "add_eos_token": False}.items():
        if name in tokenizer.init_kwargs:
            tokenizer.init_kwargs[name] = value
        if hasattr(tokenizer, f"_{name}"):
            setattr(tokenizer, name, value)
    names = tokenizer.convert_ids_to_tokens(prefix)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*names, "$A"],
        pair=[*names, "$A", *(f"{name}:1" for name in names), "$B:1"],
        special_tokens=list(dict(zip(names, prefix, strict=True)).items()),
    )


def openings(stories: Iterable[str]) -> Iterator[str]:
    """The first words of stories, as prompts, each once; none of a story that would leave nothing to generate."""
    return iter(dict.fromkeys(filter(None, map(_opening, stories))))


def _opening(story: str) -> str | None:
    begun = ""
    for word in islice(re.finditer(r"\s*\S+", story), OPENING_WORDS):
        if word.end() > OPENING_CHARACTERS:
            break
        begun = story[: word.end()]
    begun = begun or story[:OPENING_CHARACTERS]
    return begun if len(begun) < len(story) else None


def _encoder(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str, bool], list[int]]:
    def encode(text: str, special: bool) -> list[int]:
        options = {"return_token_type_ids": False, "return_attention_mask": False, "verbose": False}
        return tokenizer(text, add_special_tokens=special, **options)["input_ids"]

    return encode


def _added(encode: Callable[[str, bool], list[int]]) -> tuple[list[int], list[int]]:
    bare, whole = (list(encode("a", special)) for special in (False, True))
    for first in range(len(whole) - len(bare) + 1 if bare else 0):
        if whole[first : first + len(bare)] == bare:
            return whole[:first], whole[first + len(bare) :]
    return [], []
