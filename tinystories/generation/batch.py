"""Many stories at once, to judge a model by: a list of beginnings, and how each of them goes on.

Design decisions
- **Any causal model of transformers, with its tokenizer.** Nothing of either is changed: no pad token is set, no
  padding side, no generation config; random state and training mode afterwards are those before.
- **Padding that leaves no trace.** Rows are padded on the left, since a decoder writes on from the right edge, with
  the row's own first token, masked. So no pad token is needed, and what reads ids without the mask, as a penalty on
  repetition may, meets no token that is not in the story; the usual stand-in is the end of text.
- **What the model wrote, and no more.** The text is not post-processed, the preset is all that decides how it is
  sampled, and a story that did not end by itself says so.
- **One budget for all.** By default each story may be as long as the context leaves after the longest of the prompts,
  so that a story's length does not depend on its neighbours in the batch.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..utils.errors import UserError
from ..utils.random_state import preserved_random_state
from .generate import eos_token_ids, preset_config, temporary_generation_config
from .presets import check_preset
from .prompts import encode_prompt


# An article follows these nearly always (in 16,054 TinyStories after "a time there was" in 100 % of the places, after
# "cat found" in 91 %), so that an article there says nothing of the model. After "wanted to play with" it is 34 %,
# after the last words of each of the others at most 11 %.
ARTICLE_FOLLOWS = ("Once upon a time there was", "The happy cat found")

# The first five are those that the first model of this kind was judged by; the others are ours.
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
    """A story that a model told.

    Attributes:
        prompt: its beginning, as given.
        text: the whole story, which begins with the prompt.
        ended: whether it ended by itself; otherwise it was cut at its number of tokens.
        new_tokens: tokens after the prompt, the end of text not counted.
    """

    prompt: str
    text: str
    ended: bool
    new_tokens: int

    @property
    def completion(self) -> str:
        """What follows the prompt."""
        return self.text[len(self.prompt) :]


def generate_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    preset: str,
    max_new_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> list[GeneratedStory]:
    """Continue each of `prompts` once; to tell several stories from one beginning, give it several times.

    The same seed tells the same stories on the same machine, for the same prompts in the same order and the same
    `batch_size`: a batch draws its random numbers together, so another size tells other stories. "greedy" draws none,
    and there another batch size only changes the last bits of the logits.

    Args:
        preset: one of `PRESETS`, or "greedy".
        max_new_tokens: at most so many a story; by default as many as the context leaves after the longest prompt.
        batch_size: stories told at once; more of them take more memory and less time each.
        progress: whether to draw a bar, on stderr.

    Raises:
        UserError: for an unknown preset, a prompt that fills the context or has no tokens, and a `max_new_tokens` that
            asks for more than there is room for, or that is missing for a model without a limit to its context.
    """
    check_preset(preset)
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1, but is {batch_size}.")
    rows = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    if not rows:
        return []
    config = preset_config(preset, tokenizer, _budget(model, rows, prompts, max_new_tokens))
    stops = eos_token_ids(model, tokenizer)
    config.eos_token_id = stops or None
    if config.pad_token_id is None:
        config.pad_token_id = stops[0] if stops else None
    told = []
    bar = tqdm(
        total=len(rows),
        desc=f"telling stories ({preset})",
        unit=" stories",
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
        disable=not progress,
    )
    with bar, temporary_generation_config(model, config), preserved_random_state():
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            written = model.generate(**_padded(batch, model.device), generation_config=config)
            longest = max(map(len, batch))
            for prompt, ids, new in zip(prompts[start:], batch, written[:, longest:].tolist(), strict=False):
                told.append(_told(tokenizer, prompt, ids, new, stops))
            bar.update(len(batch))
    return told


def _budget(model: PreTrainedModel, rows: list[list[int]], prompts: Sequence[str], max_new_tokens: int | None) -> int:
    """Tokens that each story may have after its prompt."""
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"`max_new_tokens` must be at least 1, but is {max_new_tokens}.")
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is None:
        if max_new_tokens is None:
            raise UserError("This model's config names no longest context: say how long stories may be, in tokens.")
        return max_new_tokens
    longest, prompt = max(zip(map(len, rows), prompts, strict=True))
    room = context - longest
    if room < 1:
        raise UserError(
            f"A prompt is {longest} tokens long, but the model's context is {context}: shorten {prompt[:40]!r}..."
        )
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"The context is {context} tokens and the longest prompt takes {longest}: `max_new_tokens` can be at most "
            f"{room}."
        )
    return max_new_tokens or room


def _padded(batch: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` `[batch, longest]`, each row filled on the left with its own first token."""
    longest = max(map(len, batch))
    ids = [[row[0]] * (longest - len(row)) + row for row in batch]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in batch]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def _told(
    tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int], new: list[int], stops: list[int]
) -> GeneratedStory:
    end = next((place for place, index in enumerate(new) if index in stops), None)
    new = new[:end]
    whole, head, tail = (
        tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for part in (ids + new, ids, new)
    )
    # Some tokenizers leave out a space at the beginning of what they decode, so the end is taken from the whole.
    completion = whole[len(head) :] if whole.startswith(head) else tail
    return GeneratedStory(prompt=prompt, text=prompt + completion, ended=end is not None, new_tokens=len(new))
