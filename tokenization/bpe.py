"""Train a byte-level BPE on stories, and save it in a form that transformers 4 and 5 and other tools load.

- Ids 0, 1, 2 are `<|endoftext|>` (BOS and EOS), `<|padding|>` and `<unk>`, which never occurs in an encoding; 3 to 258
  are the 256 bytes in the order of GPT-2's alphabet, so every string can be encoded; the merges follow.
- The pre-tokenizer is GPT-2's, which every loader knows: 4.12 bytes per token with 10,000 entries on held-out stories.
  Llama-3's gives 4.21, but duplicates words (`"I` beside `I`).
- No normalizer, no prefix space, no clean-up: decode(encode(text)) == text. A prompt gets BOS, as in training.
- The name of a special token in a text becomes that token, as with GPT-2; `split_special_tokens=True` prevents it.
- The chat template takes the last user message as the beginning of a story; the answer continues it.
"""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm

from .errors import TokenizerError
from .pretokenizer import byte_level_words, slices, split_words, text_encoder, word_encoder


logger = logging.getLogger(__name__)

BOS = EOS = "<|endoftext|>"
PAD = "<|padding|>"
UNK = "<unk>"
SPECIAL_TOKENS = [EOS, PAD, UNK]
# Sorted as by GPT-2 and the trainer: printable ASCII first.
BYTE_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CHAT_TEMPLATE = """\
{%- set story = namespace(begin=0) -%}
{%- for message in messages -%}
    {%- if message.role == "user" -%}
        {%- set story.begin = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for message in messages[story.begin:] if message.role != "system" -%}
    {{- message.content -}}
{%- endfor -%}
{%- if messages and messages[-1].role == "assistant" and not add_generation_prompt -%}
    {{- eos_token -}}
{%- endif -%}
"""
BASE_SIZE = len(SPECIAL_TOKENS) + len(BYTE_ALPHABET)
MAX_WORDS = 500_000  # distinct words that merges are learned from, about 400 MB; all TinyStories have fewer

_SPECIAL_PATTERN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class PreTrainedTokenizerFast(transformers.PreTrainedTokenizerFast):
    """transformers' fast tokenizer, saved so that transformers 4 and other tools load it too.

    transformers 5 saves its class as `TokenizersBackend`, which transformers 4 does not know, and with it the padding
    and truncation of the last call, which other tools would apply. This class does neither. Load a tokenizer with this
    class if it will be saved again, for example as the `processing_class` of a Trainer.
    """

    can_save_slow_tokenizer = False  # otherwise `save_pretrained` may remove "Fast" from the name

    def save_pretrained(self, save_directory, *args, **kwargs):
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        for loading_option in ("is_local", "local_files_only"):
            self.init_kwargs.pop(loading_option, None)
        return super().save_pretrained(save_directory, *args, **kwargs)


def train_bpe(
    texts: Iterable[str | list[str]],
    vocab_size: int = 10_000,
    *,
    model_max_length: int = 512,
    total: int | None = None,
    progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocab_size` entries, special tokens and bytes included.

    The tokenizer is smaller, with a warning, if no more pairs of tokens occur twice in the corpus. Memory grows with
    the number of distinct words, not with the corpus; after `MAX_WORDS` of them, new words are left out, with a
    warning.

    Args:
        texts: an iterable of strings or lists of strings, read once.
        model_max_length: in tokens, for `truncation=True`.
        total: number of strings, if known, for the progress bar on stderr.

    Raises:
        TokenizerError: if the vocabulary is too small for any merge, or the corpus has no text.
    """
    if vocab_size < BASE_SIZE + 1:
        raise TokenizerError(
            f"A vocabulary of {vocab_size:,} entries is too small: special tokens and bytes take {BASE_SIZE}, so at "
            f"least {BASE_SIZE + 1} are needed. For children's stories, use about 10,000."
        )
    backend = Tokenizer(models.BPE())
    # Pre-tokenization takes nine tenths of the library's time; `pretokenizer.py` is faster, with the same result.
    backend.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,  # its bar prints nothing to a log file
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=BYTE_ALPHABET,
    )

    def corpus() -> Iterator[str]:
        stream = read_texts(texts, total=total, progress=progress, label="Counting words")
        first_words = FirstWords(MAX_WORDS)
        yield from _byte_level(stream, first_words)
        if first_words.left_out:
            logger.warning(
                f"The corpus has more than {MAX_WORDS:,} distinct words: merges are learned from the first ones; "
                f"{first_words.left_out:,} occurrences of others are left out."
            )
        if progress:
            print(f"Learning {vocab_size - BASE_SIZE:,} merges", file=sys.stderr, flush=True)

    backend.train_from_iterator(corpus(), trainer=trainer)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    size = backend.get_vocab_size()
    if size < vocab_size:
        logger.warning(
            f"The vocabulary has only {size:,} of {vocab_size:,} entries, because no other pair of tokens occurs "
            f"twice in this corpus: use more text, or a vocabulary of {size:,} entries."
        )
    return build_tokenizer(backend, model_max_length)


class FirstWords:
    """Keeps the occurrences of the first distinct words, up to a limit, and counts those that are left out."""

    def __init__(self, limit: int):
        self._limit, self._known, self.left_out = limit, set[bytes](), 0

    def __call__(self, words: pa.Array) -> pa.Array:
        coded = words.dictionary_encode()
        distinct = coded.dictionary.to_pylist()  # in the order of their first occurrence
        new = [word for word in distinct if word not in self._known]
        room = self._limit - len(self._known)
        self._known.update(new[:room])
        if len(new) <= room:
            return words
        is_known = np.array([word in self._known for word in distinct])[coded.indices.to_numpy()]
        self.left_out += int(np.count_nonzero(~is_known))
        return words.filter(pa.array(is_known))


def _byte_level(texts: Iterator[str], first_words: FirstWords) -> Iterator[str]:
    """The pre-tokenized words of `texts` in strings of about 4,000 characters; the library buffers hundreds."""
    while batch := list(islice(texts, 50)):
        for part in slices(pa.chunked_array([batch])):
            words, begin = byte_level_words(first_words(split_words(part)[0])), 0
            while begin < len(words):
                end = words.find(" ", begin + 4_000)
                end = len(words) if end < 0 else end
                yield words[begin:end]
                begin = end


def build_tokenizer(backend: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    """Add the special tokens, the template and the settings of this project to a byte-level BPE.

    Args:
        backend: has `SPECIAL_TOKENS` as ids 0, 1, 2; it is changed in place.
        model_max_length: in tokens.

    Raises:
        ValueError: if the special tokens have other ids.
    """
    found = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
    if found != [0, 1, 2]:
        raise ValueError(f"{SPECIAL_TOKENS} must have the ids 0, 1, 2 in the vocabulary, not {found}")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 0)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        # transformers 4 would add token_type_ids
        model_input_names=["input_ids", "attention_mask"],
    )


def tokenizer_report(tokenizer: transformers.PreTrainedTokenizerBase, texts: Iterable[str]) -> dict:
    """Statistics of any tokenizer of transformers on `texts`.

    Returns:
        `bytes_per_token` (UTF-8 bytes per token, without special tokens), `tokens`, `bytes`, `vocab_size`,
        `single_token` (whether " a", " an" and " the" are one token each) and `unused_tokens` (the number of ids that
        do not occur, except those of special tokens).

    Raises:
        TokenizerError: if there is no text.
    """
    encode = word_encoder(tokenizer) or text_encoder(tokenizer)
    n_tokens = n_bytes = 0
    used: set[int] = set()
    stream = read_texts(texts, keep_special=True)
    while batch := list(islice(stream, 1000)):
        n_bytes += sum(len(text.encode()) for text in batch)
        ids, _ = encode(pa.chunked_array([batch]))
        n_tokens += len(ids)
        used.update(np.unique(ids).tolist())
    articles = [" a", " an", " the"]
    _, lengths = encode(pa.chunked_array([articles]))
    return {
        "bytes_per_token": n_bytes / n_tokens,
        "tokens": n_tokens,
        "bytes": n_bytes,
        "vocab_size": len(tokenizer),
        "single_token": dict(zip(articles, (lengths == 1).tolist(), strict=True)),
        "unused_tokens": len(set(tokenizer.get_vocab().values()) - used - set(tokenizer.all_special_ids)),
    }


def read_texts(
    texts: Iterable[str | list[str]],
    *,
    total: int | None = None,
    progress: bool = False,
    label: str = "Reading",
    keep_special: bool = False,
) -> Iterator[str]:
    """Yield the strings in `texts` (lists are flattened), with a progress bar.

    Unless `keep_special`, texts are split at the names of special tokens, which are left out.

    Raises:
        TokenizerError: for an item that is not a string or not valid UTF-8, and if there is no text at all.
    """
    if isinstance(texts, (str, bytes)):
        raise TokenizerError("`texts` is a single string: pass a list (or any iterable) of strings.")
    count, empty = 0, True
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(total=total, desc=label, unit=" texts", disable=not progress, mininterval=seconds) as bar:
        for item in texts:
            for text in item if isinstance(item, (list, tuple)) else [item]:
                count += 1
                if not isinstance(text, str):
                    raise TokenizerError(
                        f"Text {count:,} is of type {type(text).__name__}, not a string: check the text column."
                    )
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise TokenizerError(
                        f"Text {count:,} contains an unpaired surrogate: repair it with "
                        'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
                    ) from None
                empty = empty and not text
                yield from [text] if keep_special else _SPECIAL_PATTERN.split(text)
                bar.update()
    if empty:
        raise TokenizerError("The corpus has no text: check the path and the name of the text column.")


def vocabulary_size(tokenizer: transformers.PreTrainedTokenizerBase) -> int:
    """The number of embeddings a tokenizer needs: its largest id plus one.

    `len(tokenizer)` is the number of entries; it is smaller if there are gaps between the ids.
    """
    return 1 + max(tokenizer.get_vocab().values(), default=-1)
