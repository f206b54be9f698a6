"""Log-probabilities of texts under a causal language model.

Every score comes from [`score_sequences`], and these rules hold for all of them:
- Each text follows its [`start_tokens`], alone in its context.
- Names of special tokens in a text are encoded as ordinary text.
- Bits per byte counts each byte once: stories longer than the context are scored in the sliding windows of validation
  during training, and EOS, which has no bytes, is not scored.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.packing import Segments, split_long_stories
from ..generation.generate import context_length
from ..generation.log_probabilities import model_vocab_size, score_sequences, total_loss
from ..generation.prompts import added_tokens
from ..utils.errors import UserError
from .intervals import Interval, bits_per_byte_interval


logger = logging.getLogger(__name__)


def start_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids before a document: those that the tokenizer adds, or else a special token that is both BOS and EOS, such as
    `<|endoftext|>`; empty if there is neither."""
    if front := added_tokens(tokenizer)[0]:
        return front
    special = set(tokenizer.all_special_ids)
    for owner in (tokenizer, model.config.get_text_config()):
        begin, ends = getattr(owner, "bos_token_id", None), getattr(owner, "eos_token_id", None)
        ends = ends if isinstance(ends, (list, tuple)) else [ends]
        if begin is not None and begin in ends and begin in special:
            return [begin]
    return [tokenizer.eos_token_id] if tokenizer.eos_token == "<|endoftext|>" else []


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without start tokens and EOS."""
    if not len(texts):
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )["input_ids"]


def loss_ahead(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], distance: int = 1
) -> float:
    """Mean cross-entropy, in nats per token, of the token `distance` places after each position.

    A model whose labels were shifted twice, in the data and in the model, has a lower loss at distance 2 than at 1.

    Args:
        texts: each truncated to the context of the model.
        distance: at least 1; 1 is the loss that `model(input_ids, labels=input_ids)` reports.

    Raises:
        ValueError: if no text is longer than `distance` tokens.
    """
    if distance < 1:
        raise ValueError(f"`distance` ({distance}) must be at least 1.")
    start = start_tokens(model, tokenizer)
    rows = [(start + ids)[: context_length(model)] for ids in encode(tokenizer, list(texts))]
    rows = [ids for ids in rows if len(ids) > distance]
    if not rows:
        raise ValueError(f"No text has more than {distance} tokens.")
    nats = score_sequences(
        model, [ids[:-distance] for ids in rows], lambda index, logits: total_loss(logits, rows[index][distance:])
    )
    return sum(nats) / sum(len(ids) - distance for ids in rows)


@dataclass(frozen=True)
class StoryScores:
    """Losses of stories under a model; the arrays are `[stories]`.

    Attributes:
        nats: total loss of each story, float64.
        bytes: UTF-8 bytes, int64.
        tokens: scored tokens, without start tokens and EOS.
        unk_tokens: those of them that are the unknown token.
        lossy: whether the tokens decode to a text other than the story, so that its loss is too low.
        uniform_tokens: number of `tokens` (0 or 1) with loss ln(vocabulary) because no token precedes them.
        start_tokens: ids before each story.
        context: longest window in tokens; None without a limit.
        notes: warnings to show beside the figure; empty if nothing is wrong.
    """

    nats: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray
    unk_tokens: np.ndarray
    lossy: np.ndarray
    uniform_tokens: np.ndarray
    start_tokens: tuple[int, ...]
    context: int | None
    notes: tuple[str, ...]

    @property
    def nats_per_token(self) -> float:
        """Like `perplexity`, it compares only models with the same tokenizer."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def bytes_per_token(self) -> float:
        return float(self.bytes.sum() / self.tokens.sum())


def bits_per_byte(scores: StoryScores, **options) -> Interval:
    """Bits per byte of all stories, with a bootstrap interval; `options` are those of [`ratio_interval`]."""
    return bits_per_byte_interval(scores.nats, scores.bytes, **options)


def score_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> StoryScores:
    """The loss of each story. Anything that makes it incomparable is logged as a warning and added to `notes`.

    Args:
        context: longest window in tokens; by default the context of the model, which is also the maximum.
        stride: tokens by which windows advance; by default half a context. Each token is scored in the first window
            that contains it, after at least `context - stride` tokens.
        batch_size: windows in a forward pass; by default as many as keep the memory bounded.
        progress: show a progress bar on stderr.

    Raises:
        UserError: if the tokenizer, `context` or `stride` does not fit the model, there is no story, or a loss is not
            finite.
    """
    check_stories(stories)
    if not any(stories):
        raise UserError("All stories to score are empty.")
    vocab_size = model_vocab_size(model)
    start = start_tokens(model, tokenizer)
    ids = encode(tokenizer, stories)
    sequences = [start + story for story in ids]
    tokens = np.array([len(story) for story in ids], dtype=np.int64)
    context, windows = _windows(model, tokens + len(start), len(start), context, stride)
    parts = [
        sequences[story][first : first + length]
        for story, first, length in zip(windows.story, windows.start, windows.length, strict=True)
    ]
    first = windows.context.tolist()
    losses = score_sequences(
        model,
        [part[:-1] for part in parts],
        lambda index, logits: total_loss(logits, parts[index][first[index] :]),
        first=[position - 1 for position in first],
        batch_size=batch_size,
        progress=progress,
    )
    uniform = np.where(tokens > 0, int(not start), 0)
    nats = uniform * math.log(vocab_size)
    np.add.at(nats, windows.story, losses)
    check_finite(model, nats)

    unk_tokens = np.array(
        [0 if tokenizer.unk_token_id is None else story.count(tokenizer.unk_token_id) for story in ids]
    )
    lossy = _lossy(tokenizer, stories, ids)
    notes = _notes(lossy, unk_tokens, uniform, vocab_size)
    for note in notes:
        logger.warning(note)
    byte_counts = np.array([len(story.encode()) for story in stories], dtype=np.int64)
    return StoryScores(nats, byte_counts, tokens, unk_tokens, lossy, uniform, tuple(start), context, notes)


def check_stories(stories: Sequence[str]) -> None:
    """Raise a `UserError` for anything but a list of texts that UTF-8 can encode."""
    if isinstance(stories, (str, bytes)):
        raise UserError("The stories are a single string: pass a list of stories.")
    if not len(stories):
        raise UserError("There are no stories.")
    for number, story in enumerate(stories, 1):
        if not isinstance(story, str):
            raise UserError(f"Story {number} is {type(story).__name__}, not a string.")
        try:
            story.encode()
        except UnicodeEncodeError:
            raise UserError(f"Story {number} contains an unpaired surrogate, which UTF-8 cannot encode.") from None


def check_finite(model: PreTrainedModel, values: np.ndarray) -> None:
    """Raise a `UserError` for non-finite losses or log-probabilities `[texts]`."""
    if not np.isfinite(values).all():
        raise UserError(
            f"The model's loss is {values[~np.isfinite(values)][0]} on {(~np.isfinite(values)).sum():,} of "
            f"{len(values):,} texts: its weights are damaged, or the computation overflows in {model.dtype}."
        )


def _windows(
    model: PreTrainedModel, lengths: np.ndarray, start: int, context: int | None, stride: int | None
) -> tuple[int | None, Segments]:
    """The context, and windows over sequences of `lengths` tokens, of which the first `start` are not scored."""
    limit = context_length(model)
    if context is not None and not 2 <= context <= (limit or context):
        most = f" and at most {limit:,}, the model's limit" if limit else ""
        raise UserError(f"`context` ({context:,}) must be at least 2 tokens{most}.")
    context = context or limit
    if context is None and stride is not None:
        raise UserError("`stride` needs `context`, because this model's configuration has no maximum length.")
    width = context or int(max(lengths.max(), 2))
    overlap = width // 2 if stride is None else width - stride
    if not 1 <= overlap < width:
        raise UserError(f"`stride` ({stride}) must be from 1 to {width - 1:,}, the context length minus one.")
    if start >= width:
        raise UserError(f"The tokenizer adds {start} tokens before a story, but the context length is only {width}.")
    windows = split_long_stories(lengths, width, overlap)
    windows.context[windows.start == 0] = max(start, 1)
    scored = windows.length > windows.context
    return context, Segments(
        *(column[scored] for column in (windows.story, windows.start, windows.length, windows.context))
    )


def _lossy(tokenizer: PreTrainedTokenizerBase, stories: Sequence[str], ids: list[list[int]]) -> np.ndarray:
    """Whether the tokens of each story decode to another text, so that the model was not scored on all its bytes."""
    decoded = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids)
    # A leading space that the tokenizer adds is one more character to predict, and loses nothing.
    return np.array(
        [
            back not in (story, " " + story) or not special.isdisjoint(tokens)
            for story, back, tokens in zip(stories, decoded, ids, strict=True)
        ]
    )


def _notes(lossy: np.ndarray, unk_tokens: np.ndarray, uniform: np.ndarray, vocab_size: int) -> tuple[str, ...]:
    notes = []
    if unknown := int(unk_tokens.sum()):
        notes.append(
            f"{unknown:,} tokens in {(unk_tokens > 0).sum():,} of {len(lossy):,} stories are the unknown token, so "
            f"the model was not scored on all the bytes that are counted: its bits per byte are too low."
        )
    if changed := int((lossy & (unk_tokens == 0)).sum()):
        notes.append(
            f"The tokenizer does not decode {changed:,} of {len(lossy):,} stories to the same text, so the model was "
            f"not scored on all the bytes that are counted: its bits per byte are too low."
        )
    if uniform.any():
        notes.append(
            f"This tokenizer has no start token, so the first token of a story counts as ln({vocab_size:,}) = "
            f"{math.log(vocab_size):.2f} nats, the loss of a uniform distribution."
        )
    return tuple(notes)
