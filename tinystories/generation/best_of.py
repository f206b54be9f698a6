"""Generate several completions of a prompt and choose those with the fewest faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..text.faults import Fault, find_faults
from ..text.wanted_words import missing_words
from ..utils.errors import UserError
from .batch import GeneratedStory, generate_stories
from .log_probabilities import score_sequences, total_loss
from .presets import is_greedy
from .prompts import encode_prompt, instruction


MOST_AT_ONCE = 32  # completions in a batch: each has a key/value cache


@dataclass(frozen=True)
class BestStories:
    """The best of several completions, best first.

    Attributes:
        stories, faults: the chosen completions, and the faults of each.
        candidates: number of completions from which they were chosen.
        faulty: how many of the candidates have faults.
    """

    stories: list[GeneratedStory]
    faults: list[list[Fault]]
    candidates: int
    faulty: int

    def __str__(self) -> str:
        *others, last = [str(len(faults)) for faults in self.faults]
        chosen = f"best {len(self.faults)} of" if others else "best of"
        numbers = f"{', '.join(others)} and {last}" if others else last
        noun = "fault" if numbers == "1" else "faults"
        return f"{chosen} {self.candidates}: {numbers} {noun}; {self.faulty} of {self.candidates} stories had faults"


def best_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    best_of: int,
    n: int = 1,
    preset: str | None = None,
    sampling: Mapping[str, float] | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    fields: Mapping[str, str] | None = None,
    progress: bool = True,
) -> BestStories:
    """The `n` completions of `prompt` with the fewest faults among `best_of`; likelihood breaks ties.

    Faults are those of [`find_faults`]; a word of the field `words` that a story does not use is one, too. The
    likelihood is the mean log-probability per token of the completion under the model, before sampling settings.

    Args:
        preset, sampling, max_new_tokens, seed, fields: as for [`generate_story`].
        progress: show a progress bar on stderr.

    Raises:
        UserError: as [`generate_story`], for greedy decoding, and if `n` is less than 1 or more than `best_of`.
    """
    check_numbers(best_of, n)
    if is_greedy(preset, sampling or {}):
        raise UserError("Greedy decoding gives the same story each time: leave out best_of, or sample.")
    if seed is None:
        seed = int(torch.randint(2**31, ()))  # so that `set_seed` makes it reproducible
    front = instruction(tokenizer, fields or {})
    stories = generate_stories(
        model,
        tokenizer,
        [front + prompt] * best_of,
        preset=preset,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        seed=seed,
        batch_size=min(best_of, MOST_AT_ONCE),
        progress=progress,
    )
    stories = [replace(story, prompt=prompt, text=story.text[len(front) :]) for story in stories]
    wanted = (fields or {}).get("words", "")
    faults = [find_faults(story.text, story.ended) + missing_word_faults(story.text, wanted) for story in stories]
    likelihoods = mean_log_likelihoods(
        model, encode_prompt(tokenizer, front + prompt), [story.ids for story in stories]
    )
    chosen = best_first([len(each) for each in faults], likelihoods)[:n]
    return BestStories(
        [stories[place] for place in chosen],
        [faults[place] for place in chosen],
        candidates=best_of,
        faulty=sum(map(bool, faults)),
    )


def missing_word_faults(story: str, words: str) -> list[Fault]:
    """A fault for each word of a list, separated by commas, that a story does not use."""
    return [Fault("missing word", len(story), word) for word in missing_words(story, words)]


def check_numbers(best_of: int, n: int = 1) -> None:
    """Raise a `UserError` unless `n` of `best_of` stories can be chosen."""
    if n < 1:
        raise UserError(f"The number of stories must be at least 1, but is {n}.")
    if best_of < n:
        raise UserError(f"best_of must be at least {n}, the number of stories, but is {best_of}.")


def best_first(faults: Sequence[int], likelihoods: Sequence[float]) -> list[int]:
    """The indices of completions, that with the fewest faults first; of equal ones, the most probable first."""
    return sorted(range(len(faults)), key=lambda index: (faults[index], -likelihoods[index]))


def mean_log_likelihoods(
    model: PreTrainedModel, prompt: Sequence[int], completions: Sequence[Sequence[int]]
) -> list[float]:
    """Mean log-probability per token of completions of `prompt`; 0 for one without tokens, of which EOS is none."""
    losses = score_sequences(
        model,
        [[*prompt, *ids][:-1] or list(prompt) for ids in completions],
        lambda index, logits: total_loss(logits, completions[index]) if completions[index] else 0.0,
        first=[len(prompt) - 1] * len(completions),
    )
    return [-loss / max(1, len(ids)) for loss, ids in zip(losses, completions, strict=True)]
