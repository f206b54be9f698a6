"""Generate many stories at once, for evaluation.

- Works with any causal model of transformers and its tokenizer, and changes neither: no pad token or padding side is
  set; random state and training mode are restored.
- Rows are padded on the left with their own first token, masked. So no pad token is needed, and a repetition penalty,
  which ignores the mask, counts no token that is not in the story.
- By default each story may fill the context that remains after the longest prompt, so that its length does not depend
  on the other stories of its batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..utils.errors import UserError
from ..utils.progress import progress_bar
from ..utils.random_state import preserved_random_state
from .generate import context_length, eos_token_ids, sampling_config, temporary_generation_config
from .presets import check_preset, check_sampling, resolve_max_new_tokens
from .prompts import decode, encode_prompt


# Prompts that are nearly always followed by an article: in 16,054 TinyStories, 100% of the occurrences of "a time
# there was" and 91% of those of "cat found"; of "wanted to play with", it is 34%, and of the other prompts at most
# 11%.
ARTICLE_FOLLOWS = ("Once upon a time there was", "The happy cat found")

# The first five are the evaluation prompts of karthyick/llm_tinystories.
PROMPTS = [
    "Once upon a time there was",
    "One day, a little girl named Lily",
    "In the garden, a small bird",
    "A big dog wanted to play with",
    "The happy cat found",
    # Names and families
    "Sara and her brother Max",
    "One sunny morning, Grandpa",
    "Two best friends, Oli and Kate,",
    "My name is Pip and I",
    "On her birthday, Rosie",
    # Animals
    "Deep in the forest, an old bear",
    "Once there were three ducks who",
    "The baby elephant could not sleep because",
    "A little frog who could not jump",
    "An ant named Andy was tired of being small, so he",
    "Tuck the turtle was very slow, but",
    # Speech
    '"Look at me!" shouted Leo',
    '"I lost my shoe," Sam told his mom',
    '"Why are you crying?" asked Mom. Tim',
    '"Shh," whispered Dad. "If we are quiet,',
    # Weather
    "It was raining hard, so Mia",
    "The snow fell all night. When Ella woke up,",
    "It was very hot, and the fish",
    # Problems
    "Lucy's kite was stuck, and she",
    "Mr. Brown's shop was closed, but",
    "Nobody knew how",
    # Feelings
    "Ben was sad because",
    "Jack was afraid when he",
    "Anna shared her cake, and her friend",
    "Zoe did not like peas",
]


@dataclass(frozen=True)
class GeneratedStory:
    """A prompt and its completion.

    Attributes:
        prompt: as given.
        text: prompt and completion, not post-processed.
        ended: whether the story ended with EOS; otherwise it was cut off at `max_new_tokens`.
        new_tokens: number of tokens of the completion, EOS excluded.
        ids: these tokens.
    """

    prompt: str
    text: str
    ended: bool
    new_tokens: int
    ids: tuple[int, ...] = field(default=(), repr=False)

    @property
    def completion(self) -> str:
        return self.text[len(self.prompt) :]


def generate_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    preset: str | None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> list[GeneratedStory]:
    """One completion of each of `prompts`.

    The same seed generates the same stories on the same machine, for the same prompts and `batch_size`: the stories of
    a batch share one random number generator. Greedy stories differ between batch sizes only by the rounding of
    logits.

    Args:
        preset: one of `PRESETS`, or "greedy"; None for the model's own.
        sampling: overrides of single settings, as for [`generate_story`].
        max_new_tokens: by default the remaining context length after the longest prompt.
        progress: whether to show a progress bar on stderr.

    Raises:
        UserError: for an unknown preset, a setting that is out of range, a prompt that fills the context or has no
            tokens, and a `max_new_tokens` that exceeds the remaining context length, or is missing for a model without
            a context length.
    """
    sampling = sampling or {}
    if preset is not None:
        check_preset(preset)
    check_sampling(preset, sampling)
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1, but is {batch_size}.")
    rows = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    if not rows:
        return []
    context = context_length(model)
    longest, prompt = max(zip(map(len, rows), prompts, strict=True))
    if context is not None and longest >= context:
        raise UserError(
            f"A prompt has {longest:,} tokens, but the context length of the model is {context:,}: shorten "
            f"{prompt[:40]!r}..."
        )
    most = resolve_max_new_tokens(context, longest, max_new_tokens)
    config = sampling_config(model, tokenizer, preset, sampling, most)
    ends = eos_token_ids(model, tokenizer)
    config.eos_token_id = ends or None
    if config.pad_token_id is None:
        config.pad_token_id = ends[0] if ends else None
    stories = []
    desc = f"Generating stories ({preset})" if preset else "Generating stories"
    bar = progress_bar(total=len(rows), desc=desc, unit=" stories", show=progress)
    with bar, temporary_generation_config(model, config), preserved_random_state():
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            output = model.generate(**_left_padded(batch, model.device), generation_config=config)  # type: ignore[operator]
            longest = max(map(len, batch))
            for prompt, ids, new in zip(prompts[start:], batch, output[:, longest:].tolist(), strict=False):
                stories.append(_story(tokenizer, prompt, ids, new, ends))
            bar.update(len(batch))
    return stories


def _left_padded(batch: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` `[batch, longest]`, each row padded with its own first token."""
    longest = max(map(len, batch))
    ids = [[row[0]] * (longest - len(row)) + row for row in batch]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in batch]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def _story(
    tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int], new: list[int], ends: list[int]
) -> GeneratedStory:
    end = next((place for place, token in enumerate(new) if token in ends), None)
    new = new[:end]
    text, head, tail = (decode(tokenizer, part) for part in (ids + new, ids, new))
    # Some tokenizers drop a leading space, so the completion is cut from the decoded prompt and completion.
    completion = text[len(head) :] if text.startswith(head) else tail
    return GeneratedStory(
        prompt=prompt, text=prompt + completion, ended=end is not None, new_tokens=len(new), ids=tuple(new)
    )
