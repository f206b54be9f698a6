"""Bits per byte of any causal language model, with any tokenizer, on whole held-out stories.

Bits per byte = nats of all tokens / ln 2 / UTF-8 bytes of the text. It is the figure that compares across tokenizers,
provided that every byte is counted once and none is free. What is done for that:

- **Each story alone in its context**, padded on the right without an attention mask: a causal model cannot see what
  stands behind a token, so padding changes nothing. Stories of a batch are about equally long.
- **Long stories by a sliding window**, in the same parts as training validates on
  ([`tinystories.data.packing.split_long_stories`]): each token is scored once, in the first window that reaches it,
  and after the first window with at least half a context before it. No position reaches the context of the model.
- **In front of a story** stands what the tokenizer puts there itself. If it puts nothing, the model's own mark between
  documents (one token that both begins and ends them, `<|endoftext|>` in models of GPT-2's kind). Without one the
  first token has no prediction, and is charged ln(vocabulary) nats, as by a model that knows nothing: dropping it
  would make its bytes free.
- **The end of text is not scored.** It has no bytes, and not every model was taught it.
- **Special tokens in a story's text are spelt out**, never parsed.
- **What the tokenizer loses is said.** Where its tokens do not decode to the story (it lower-cases, strips or
  normalises, or has unknown tokens), the model was not asked for all the bytes that its cost is divided by, and the
  figure is too good. `StoryScores.notes` says so, and a warning.

Arithmetic is that of the model's weights, without autocast; losses are float32, their sums float64.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.packing import Segments, split_long_stories
from ..generation.prompts import added_tokens
from ..utils.errors import UserError
from .text_statistics import Interval, bits_per_byte_interval


logger = logging.getLogger(__name__)

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
TOKENS_PER_BATCH = 4096
LOGITS_PER_BATCH = 2**26  # 256 MB in float32; a single long window may need more
LOGITS_PER_CHUNK = 2**22  # cross-entropy makes copies of what it is given


@dataclass(frozen=True)
class StoryScores:
    """What a model makes of stories. The arrays are `[stories]`.

    Attributes:
        nats: cost of each story, float64.
        bytes: its UTF-8 bytes, int64.
        tokens: tokens that the cost is of; neither beginning nor end of text is among them.
        unk_tokens: those of them that are the unknown token, and so hide what stands there.
        lossy: whether its tokens stand for another text than the story, so that its figure is too good.
        uniform_tokens: those of `tokens` (none or one) that were charged ln(vocabulary), because nothing stood before.
        start_tokens: ids of what was put in front of each story.
        context: longest part of a story that the model was given, in tokens; None where nothing limits it.
        notes: sentences that belong beside the figure wherever it is shown; none if all is well.
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
        """Compares models of one tokenizer only, as does `perplexity`."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def bytes_per_token(self) -> float:
        return float(self.bytes.sum() / self.tokens.sum())


def bits_per_byte(scores: StoryScores, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Bits per byte of all stories, with a bootstrap interval over stories (see `text_statistics.ratio_interval`).

    The interval is of these stories as a sample of such stories; it says nothing about another training run.
    """
    return bits_per_byte_interval(scores.nats, scores.bytes, confidence=confidence, resamples=resamples, seed=seed)


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
    """The cost of each story under `model`; see the top of this file for how it is counted.

    Args:
        model: any causal language model of transformers, on the device where it is to run; left as it was.
        tokenizer: its own.
        stories: one string each, not cut.
        context: longest window in tokens; by default the model's own, and never more than that.
        stride: tokens by which a window moves on; by default half a context. A smaller one gives each token more
            context, at more cost.
        batch_size: windows that are run at once; by default so many that memory stays bounded.
        progress: draw a bar with the time that is left.

    Raises:
        UserError: where model and tokenizer do not belong together, a setting asks for more than the model has, there
            is no story, or the model answers with nan.
    """
    _check_stories(stories)
    vocab_size = _vocab_size(model)
    context = _checked_context(model, context)
    start = start_tokens(model, tokenizer)
    tokens, unk_tokens, lossy = _tokenize(tokenizer, stories)
    tokens = [np.concatenate((np.array(start, dtype=np.int64), ids)) for ids in tokens]
    largest = max(int(ids.max(initial=0)) for ids in tokens)
    if largest >= vocab_size:
        raise UserError(
            f"The tokenizer gives token {largest:,}, but the model knows {vocab_size:,}: they do not belong together."
        )
    lengths = np.array([len(ids) for ids in tokens])
    windows = _windows(lengths, len(start), context, stride)
    nats = np.zeros(len(stories))
    if not start:
        nats[lengths > 0] = math.log(vocab_size)

    was_training = model.training
    model.eval()
    try:
        with tqdm(
            total=int(windows.length.sum()), desc="Scoring", unit=" tokens", unit_scale=True, disable=not progress
        ) as bar:
            for batch in _batches(windows.length, batch_size, vocab_size):
                nats_of_windows = _score_batch(model, tokens, windows, batch)
                np.add.at(nats, windows.story[batch], nats_of_windows)
                bar.update(int(windows.length[batch].sum()))
    finally:
        model.train(was_training)
    if not np.isfinite(nats).all():
        raise UserError(
            f"The model's loss is {nats[~np.isfinite(nats)][0]} on {(~np.isfinite(nats)).sum():,} of "
            f"{len(stories):,} stories: its weights are damaged, or overflow in {model.dtype}."
        )

    uniform = np.full(len(stories), int(not start)) * (lengths > 0)
    notes = _notes(lossy, unk_tokens, uniform, vocab_size)
    for note in notes:
        logger.warning(note)
    return StoryScores(
        nats=nats,
        bytes=np.array([len(story.encode()) for story in stories], dtype=np.int64),
        tokens=np.maximum(lengths - len(start), 0),
        unk_tokens=unk_tokens,
        lossy=lossy,
        uniform_tokens=uniform,
        start_tokens=tuple(start),
        context=context,
        notes=notes,
    )


def model_context(model: PreTrainedModel) -> int | None:
    """Positions that the model has according to its configuration; None where it names no limit."""
    config = model.config.get_text_config()
    limits = (getattr(config, name, None) for name in CONTEXT_FIELDS)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    for module in model.modules():
        positions = getattr(module, "position_embeddings", None)
        if limit and isinstance(positions, torch.nn.Embedding) and positions.padding_idx is not None:
            return limit - positions.padding_idx - 1  # models of RoBERTa's kind count from behind their pad token
    return limit


def start_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that stand in front of a document: what the tokenizer puts there, or else the model's mark between
    documents; empty where there is neither."""
    if front := added_tokens(tokenizer)[0]:
        return front
    special = set(tokenizer.all_special_ids)
    for owner in (tokenizer, model.config.get_text_config()):
        begin, ends = getattr(owner, "bos_token_id", None), getattr(owner, "eos_token_id", None)
        ends = ends if isinstance(ends, (list, tuple)) else [ends]
        if begin is not None and begin in ends and begin in special:
            return [begin]
    return [tokenizer.eos_token_id] if tokenizer.eos_token == "<|endoftext|>" else []


def _check_stories(stories: Sequence[str]) -> None:
    if isinstance(stories, (str, bytes)):
        raise UserError("The stories to score are one string; give a list of stories.")
    if not len(stories):
        raise UserError("There is no story to score.")
    for number, story in enumerate(stories, 1):
        if not isinstance(story, str):
            raise UserError(f"Story {number} is {type(story).__name__}, not a string.")
        try:
            story.encode()
        except UnicodeEncodeError:
            raise UserError(f"Story {number} holds half of a surrogate pair, which has no bytes in UTF-8.") from None
    if not any(stories):
        raise UserError("All stories to score are empty.")


def _vocab_size(model: PreTrainedModel) -> int:
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} is an encoder-decoder; only a causal language model can be scored.")
    head = model.get_output_embeddings()
    return head.weight.shape[0] if head is not None else model.config.get_text_config().vocab_size


def _checked_context(model: PreTrainedModel, wanted: int | None) -> int | None:
    limit = model_context(model)
    if wanted is None:
        return limit
    if wanted < 2:
        raise UserError(f"`context` ({wanted}) must be at least 2 tokens, of which one is predicted.")
    if limit is not None and wanted > limit:
        raise UserError(f"`context` ({wanted:,}) is more than the model has: its positions end at {limit:,}.")
    return wanted


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, stories: Sequence[str]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Ids of each story without special tokens, how many of them are unknown, and whether they lose any of it."""
    tokens: list[np.ndarray] = []
    lossy: list[bool] = []
    special = set(tokenizer.all_special_ids)
    for first in range(0, len(stories), 1000):
        texts = list(stories[first : first + 1000])
        encoded = tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        decoded = tokenizer.batch_decode(encoded, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        tokens += [np.array(ids, dtype=np.int64) for ids in encoded]
        # A space that the tokenizer adds in front is one more character for the model to predict, and hides nothing.
        lossy += [
            back not in (text, " " + text) or not special.isdisjoint(ids)
            for text, back, ids in zip(texts, decoded, encoded, strict=True)
        ]
    unk = tokenizer.unk_token_id
    unk_tokens = np.array([0 if unk is None else int((ids == unk).sum()) for ids in tokens], dtype=np.int64)
    return tokens, unk_tokens, np.array(lossy)


def _windows(lengths: np.ndarray, start: int, context: int | None, stride: int | None) -> Segments:
    """Parts of sequences of `lengths` tokens, of which the first `start` are not scored, as the model gets them."""
    if context is None:
        if stride is not None:
            raise UserError("`stride` needs a `context`: this model's configuration names no limit.")
        context = int(max(lengths.max(), 2))
    overlap = context // 2 if stride is None else context - stride
    if not 1 <= overlap < context:
        raise UserError(f"`stride` ({stride}) must lie between 1 and the context ({context:,}) less one.")
    if start >= context:
        raise UserError(f"The tokenizer puts {start} tokens in front of a story, and the context is {context}.")
    windows = split_long_stories(lengths, context, overlap)
    windows.context[windows.start == 0] = max(start, 1)
    scored = windows.length > windows.context
    return Segments(windows.story[scored], windows.start[scored], windows.length[scored], windows.context[scored])


def _batches(lengths: np.ndarray, batch_size: int | None, vocab_size: int) -> list[np.ndarray]:
    """Windows of about equal `lengths`, longest first, so that a lack of memory shows at once."""
    if batch_size is not None and batch_size < 1:
        raise UserError(f"`batch_size` ({batch_size}) must be at least 1.")
    order = np.argsort(-lengths, kind="stable")
    budget = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // vocab_size)
    batches = []
    while len(order):
        size = batch_size or max(1, budget // int(lengths[order[0]]))
        batches.append(order[:size])
        order = order[size:]
    return batches


@torch.inference_mode()
def _score_batch(model: PreTrainedModel, tokens: list[np.ndarray], windows: Segments, batch: np.ndarray) -> np.ndarray:
    """Cost in nats `[windows]` of what each window scores; its last token is predicted and need not be fed."""
    longest = int(windows.length[batch].max())
    padding = 1 if model.config.pad_token_id == 0 else 0  # never the real one: some models warn of it
    ids = np.full((len(batch), longest), padding, dtype=np.int64)
    for row, window in zip(ids, batch, strict=True):
        length, first = windows.length[window], windows.start[window]
        row[:length] = tokens[windows.story[window]][first : first + length]
    ids = torch.from_numpy(ids).to(model.device)
    with torch.autocast(model.device.type, enabled=False):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    nats = []
    for row, window in enumerate(batch):
        scored = slice(int(windows.context[window]), int(windows.length[window]))
        predicted = logits[row, scored.start - 1 : scored.stop - 1]
        chunk = max(1, LOGITS_PER_CHUNK // logits.shape[-1])
        losses = [
            cross_entropy(some.float(), targets.to(some.device), reduction="none").cpu().double().sum()
            for some, targets in zip(predicted.split(chunk), ids[row, scored].split(chunk), strict=True)
        ]
        nats.append(float(sum(losses)))
    return np.array(nats)


def _notes(lossy: np.ndarray, unk_tokens: np.ndarray, uniform: np.ndarray, vocab_size: int) -> tuple[str, ...]:
    notes = []
    if unknown := int(unk_tokens.sum()):
        notes.append(
            f"{unknown:,} tokens in {(unk_tokens > 0).sum():,} of {len(lossy):,} stories are unknown to the tokenizer "
            f"and hide the bytes that stand there from the model: its bits per byte are too good."
        )
    if changed := int((lossy & (unk_tokens == 0)).sum()):
        notes.append(
            f"The tokenizer does not give back {changed:,} of {len(lossy):,} stories as they are: it changes the "
            f"text, or takes it for special tokens. The model was asked for another text than the one whose bytes are "
            f"counted, and its bits per byte are too good."
        )
    if uniform.any():
        notes.append(
            f"Nothing stands in front of a story with this tokenizer, so that its first token was charged "
            f"ln({vocab_size:,}) = {math.log(vocab_size):.2f} nats, as by a model that knows nothing."
        )
    return tuple(notes)
