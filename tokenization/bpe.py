"""Train a byte-level BPE on stories, and save it so that every tool of the Hugging Face kind reads it.

Design decisions
- **Layout.** Ids 0, 1, 2 are `<|endoftext|>` (begins and ends a story), `<|padding|>`, `<unk>`; ids 3..258 are the
  256 bytes in the order of GPT-2's alphabet, whether the corpus has them or not; merges follow. So every string
  has an encoding, `<unk>` never occurs in one (it is there for tools that insist on such a token), and padding is
  never mistaken for the end of a story.
- **Pre-tokenizer: GPT-2's.** On 2.9 MB of held-out TinyStories a 10,000-entry vocabulary gives 4.12 bytes a token
  with GPT-2's regex, 4.12 with newline runs kept whole, 4.21 with Llama-3's regex. The 2 % is bought with second
  copies of words (`"I` beside `I`), and GPT-2's is the one that every loader knows (`tokenizer.ggml.pre = "gpt-2"`).
- **No normalizer, no prefix space, no clean-up of spaces**: decode(encode(text)) == text.
- **One `<|endoftext|>` in front, nothing behind.** A story is trained as `<|endoftext|> story <|endoftext|>`, so a
  prompt must begin as stories do. `add_special_tokens=False` leaves it out.
- **Special tokens in raw text are special**, as with GPT-2: `tokenizer("<|endoftext|>")` is the real token. Encode
  text from strangers with `tokenizer(text, split_special_tokens=True)`: then it is spelt out in ordinary pieces
  that decode to the same characters. Training drops these strings, so that no merge is spent on them.
- **A chat is a story that someone began.** Chat tools (`transformers chat`, `/v1/chat/completions`) ask for a chat
  template. Ours renders the last message of the user as the beginning of a story, and the answer is how it goes on.
  What was said before is another story and left out, as are system messages: the model follows no instructions.
- **Left padding**, since a decoder-only model writes on from the right edge of a batch of prompts.
- **The class** is transformers' own under its transformers-4 name: see `PreTrainedTokenizerFast` below.
- **Memory** grows with the number of distinct words, not with the corpus: texts are read once, in order, and
  the `tokenizers` library keeps word counts only.
"""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm

from .errors import TokenizerError
from .words import slices, spell_words, text_encoder, word_encoder


logger = logging.getLogger(__name__)

BOS = EOS = "<|endoftext|>"
PAD = "<|padding|>"
UNK = "<unk>"
SPECIAL_TOKENS = [EOS, PAD, UNK]
# Sorted, as GPT-2 and the trainer order it: printable ASCII first, stand-ins for the other bytes last.
BYTE_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
# As stories are trained: the end of text follows an answer that is complete, and no other.
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

_SPECIAL_PATTERN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class PreTrainedTokenizerFast(transformers.PreTrainedTokenizerFast):
    """transformers' fast tokenizer, which saves a folder that transformers 4 and other tools read too.

    In transformers 5 the name `PreTrainedTokenizerFast` is an alias of `TokenizersBackend`, and that name is what it
    writes as `tokenizer_class`: transformers 4 does not know it. It also writes the padding and the truncation of the
    last call into tokenizer.json, where every other reader of that file would apply them. This class does neither.

    `AutoTokenizer.from_pretrained(folder)` gives transformers' class, which behaves the same until it is saved again;
    `tinystories.tokenization.PreTrainedTokenizerFast.from_pretrained(folder)` gives this one: use it where the
    tokenizer will be saved, for example as the `processing_class` of a Trainer.
    """

    can_save_slow_tokenizer = False  # else `save_pretrained` may cut "Fast" off the name

    def save_pretrained(self, save_directory, *args, **kwargs):
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        for where_it_was_loaded_from in ("is_local", "local_files_only"):
            self.init_kwargs.pop(where_it_was_loaded_from, None)
        return super().save_pretrained(save_directory, *args, **kwargs)


def train_bpe(
    texts: Iterable[str | list[str]],
    vocab_size: int = 10_000,
    *,
    model_max_length: int = 512,
    total: int | None = None,
    progress: bool = True,
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of `vocab_size` entries (special tokens and bytes included) from `texts`.

    texts: strings, or lists of strings, in any iterable; a generator is read once and never held in memory.
    model_max_length: in tokens; what `truncation=True` cuts to.
    total: how many strings will come, if known, for the progress bar. progress: whether to draw one (on stderr).

    The same texts in the same order give the same tokenizer. Where the corpus has too few pairs that occur twice to
    fill the vocabulary, the tokenizer is smaller, and a warning says so.
    Raises TokenizerError for a vocabulary without room for a merge, or a corpus without text.
    """
    if vocab_size < BASE_SIZE + 1:
        raise TokenizerError(
            f"vocab_size={vocab_size} is too small: special tokens and bytes take {BASE_SIZE} entries; "
            f"give {BASE_SIZE + 1} or more (10000 suits children's stories)"
        )
    backend = Tokenizer(models.BPE())
    # Counting words is nine tenths of the work, so they come cut and spelt (see `words.py`); the counts are the same.
    backend.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair seen once is a spelling of one place, not a habit of the language
        show_progress=False,  # its bar draws nothing in a log file; ours does
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=BYTE_ALPHABET,
    )

    def corpus() -> Iterator[str]:
        stream = read_texts(texts, total=total, progress=progress, label="counting words")
        yield from _spelt(stream)
        if progress:
            print(f"learning {vocab_size - BASE_SIZE:,} merges", file=sys.stderr, flush=True)

    backend.train_from_iterator(corpus(), trainer=trainer)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    size = backend.get_vocab_size()
    if size < vocab_size:
        logger.warning(
            f"the vocabulary has {size:,} entries, not {vocab_size:,}: no other pair of tokens occurs twice in this "
            f"corpus; give more text, or vocab_size={size}"
        )
    return build_tokenizer(backend, model_max_length)


def _spelt(texts: Iterator[str]) -> Iterator[str]:
    """The words of `texts`, cut and spelt many at a time, and given out few at a time: the library, which holds some
    hundred of what it is given, is to hold little."""
    batch, size = [], 0
    for text in chain(texts, [None]):
        if batch and (text is None or size > 1 << 16):
            for part in slices(pa.chunked_array([batch])):
                words, begin = spell_words(part), 0
                while begin < len(words):
                    end = words.find(" ", begin + 4_000)
                    end = len(words) if end < 0 else end
                    yield words[begin:end]
                    begin = end
            batch, size = [], 0
        if text:
            batch.append(text)
            size += len(text)


def build_tokenizer(backend: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    """Put the special tokens, the template and the settings of this project on a byte-level BPE.

    backend: holds `SPECIAL_TOKENS` as ids 0, 1, 2; it is changed in place, then copied into the result.
    model_max_length: in tokens.
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
        # token_type_ids are nothing to a decoder, and transformers 4 adds them to a generic tokenizer unless told.
        model_input_names=["input_ids", "attention_mask"],
    )


def tokenizer_report(tokenizer: transformers.PreTrainedTokenizerBase, texts: Iterable[str]) -> dict:
    """What a tokenizer makes of `texts`; works for any tokenizer of transformers, to compare with.

    Returns `bytes_per_token` (UTF-8 bytes of the texts over their tokens, none added in front or behind), `tokens`,
    `bytes`, `vocab_size`, `single_token` (is each of " a", " an", " the" one token?) and `unused_tokens` (ids other
    than the special ones that these texts never need). A special token's name in a text counts as ordinary text.
    Raises TokenizerError where there is no text.
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
    label: str = "reading",
    keep_special: bool = False,
) -> Iterator[str]:
    """Yield the strings in `texts` (lists are flattened), checked, with a progress bar that suits a log file too.

    Unless `keep_special`, the names of special tokens are left out and what stands between them is yielded apart.
    Raises TokenizerError for something that is no string, for a string that UTF-8 cannot hold, and for no text at all.
    """
    if isinstance(texts, (str, bytes)):
        raise TokenizerError("texts is one string; give a list (or any iterable) of texts")
    count, empty = 0, True
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(total=total, desc=label, unit=" texts", disable=not progress, mininterval=seconds) as bar:
        for item in texts:
            for text in item if isinstance(item, (list, tuple)) else [item]:
                count += 1
                if not isinstance(text, str):
                    raise TokenizerError(f"text {count} is {type(text).__name__}, not a string; check the text column")
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise TokenizerError(
                        f"text {count} holds half of a surrogate pair, which is no character; repair it with "
                        'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
                    ) from None
                empty = empty and not text
                yield from [text] if keep_special else _SPECIAL_PATTERN.split(text)
                bar.update()
    if empty:
        raise TokenizerError("the corpus has no text; check the path and the name of the text column")
