"""The stories that a model generates for its evaluation."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation.batch import GeneratedStory, generate_stories
from ..generation.generate import context_length
from ..generation.presets import GREEDY
from ..generation.prompts import encode_prompt


MAX_NEW_TOKENS = 384  # three quarters of our models' context


def most_new_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> int:
    """The maximum number of new tokens: the same for every model, unless its context is too short for that."""
    context = context_length(model)
    longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)
    return max(1, MAX_NEW_TOKENS if context is None else min(MAX_NEW_TOKENS, context - longest))


def unprompted_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    number: int,
    *,
    preset: str,
    seed: int = 0,
    progress: bool = True,
) -> list[GeneratedStory]:
    """Stories that the model begins by itself; none with greedy decoding, which would give one story each time.

    Raises:
        UserError: if the tokenizer has no BOS token, so that the model needs a prompt.
    """
    if preset == GREEDY:
        return []
    prompts = [""] * number
    return generate_stories(
        model,
        tokenizer,
        prompts,
        preset=preset,
        max_new_tokens=most_new_tokens(model, tokenizer, prompts),
        seed=seed,
        progress=progress,
    )
