"""Words of many texts at once, exactly as GPT-2's pre-tokenizer cuts them, and their ids, each word encoded once.

Design decisions:

- A corpus of stories has millions of words and few different ones, so that a byte-level BPE need only see each once.
  What is left is cutting text into words, and there a regular expression that reads character by character is the
  slowest part. GPT-2's expression needs no search: where a word begins follows from the kinds of two or three
  neighbouring characters, which numpy compares for a whole batch at a time.
- Its kinds of characters are those of the `tokenizers` library itself: it is asked once for each character beyond
  ASCII, so that no second edition of Unicode can disagree with it.
- Each word is encoded by the library. `WordEncoder` is only for tokenizers whose ids are decided word by word;
  for all others, `word_encoder` gives None and the tokenizer itself does the work.
- Words and ids are Arrow and numpy arrays throughout: Python sees the different words of a batch, never the text.
"""

import json
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


SLICE_BYTES = 1 << 20  # of text looked at together, if a single text is not longer: what stays in a CPU's cache
MAX_WORDS = 200_000  # remembered, some 40 MB; the words of all TinyStories are fewer

SPACE, LETTER, NUMBER, OTHER, UNKNOWN = range(5)
_REFERENCE = pre_tokenizers.ByteLevel(add_prefix_space=False)
_KIND = np.full(0x110000, UNKNOWN, dtype=np.uint8)
_KIND[:0x80] = OTHER
_KIND[[*b" \t\n\v\f\r"]] = SPACE
_KIND[[*b"0123456789"]] = NUMBER
_KIND[[*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]] = LETTER
# GPT-2's letter for each byte, in UTF-8: itself where it can be printed, else the next of those from U+0100 on.
_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = iter(range(0x100, 0x200))
BYTE_LETTERS = [chr(byte if byte in _PRINTED else next(_OTHERS)) for byte in range(256)]
_SPELT = [letter.encode() for letter in BYTE_LETTERS]
_SPELT_WIDTH = np.array([len(letter) for letter in _SPELT], dtype=np.uint8)
_SPELT_FIRST, _SPELT_LAST = (np.array([letter[at] for letter in _SPELT], dtype=np.uint8) for at in (0, -1))
_ODD_TEXTS = [
    "Once upon a time, there was a cat.\n\n\"I'll go,\" she said; 'tis 3:05pm  now.\t \n They've they're it'd I'm",
    " 's ''s 's\n's x'll'll'd l'l r'e don't \r\n  \u00a0 caf\u00e9 na\u00efve \u201cquoted\u201d \u2019s",
    "\u4e2d\u6587 \u0660\u0661\u00b2 \U0001f600\U0001f600 e\u0301 \u200b\u3000\u3000a  ",
    "<|endoftext|> <unk><|padding|>[CLS]</s>",
]


def slices(texts: pa.ChunkedArray) -> Iterator[pa.Array]:
    """`texts` in parts of about `SLICE_BYTES`, at least one text each, whatever their chunks: rows that were picked
    from a dataset are a chunk each."""
    gathered, size = [], 0
    for chunk in texts.chunks:
        begin, offsets = 0, _offsets(chunk).astype(np.int64)
        while begin < len(chunk):
            end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + SLICE_BYTES, "right")) - 1)
            more = int(offsets[end] - offsets[begin])
            if gathered and size + more > SLICE_BYTES:
                yield pa.concat_arrays(gathered)
                gathered, size = [], 0
            gathered.append(chunk.slice(begin, end - begin))
            begin, size = end, size + more
    if gathered:
        yield pa.concat_arrays(gathered)


def split_words(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Cut texts into words.

    Args:
        texts: strings, without nulls.

    Returns:
        All words in order, as Arrow binaries, and the index of each text's first word, `[texts + 1]` with the number
        of words at its end.
    """
    offsets = _offsets(texts)
    size, starts = int(offsets[-1] - offsets[0]), (offsets - offsets[0]).astype(np.int64)
    if not size:
        return pa.array([], pa.binary()), np.zeros(len(offsets), dtype=np.int64)
    data = texts.buffers()[2].slice(int(offsets[0]), size)
    text = np.frombuffer(data, np.uint8)
    at, lead, kind = _characters(text)
    begins = np.flatnonzero(_word_begins(lead, kind, starts[:-1] if at is None else np.searchsorted(at, starts[:-1])))
    if at is not None:
        begins = at[begins]
    bounds = np.append(begins, size).astype(np.int32)
    words = pa.Array.from_buffers(pa.binary(), len(begins), [None, pa.py_buffer(bounds), data])
    return words, np.searchsorted(begins, starts)


def spell_words(texts: pa.Array) -> str:
    """All words of `texts` in the spelling of byte-level tokens (a blank is "Ġ"), with a blank in front of each."""
    words, _ = split_words(texts)
    if not len(words):
        return ""
    text = np.frombuffer(words.buffers()[2], np.uint8)
    width = _SPELT_WIDTH[text]
    two = np.flatnonzero(width == 2)
    width[_offsets(words)[:-1]] += 1
    last = np.cumsum(width, dtype=np.int64) - 1
    spelt = np.full(last[-1] + 1, ord(" "), dtype=np.uint8)
    spelt[last] = _SPELT_LAST[text]
    spelt[last[two] - 1] = _SPELT_FIRST[text[two]]
    return spelt.tobytes().decode()


def _offsets(texts: pa.Array) -> np.ndarray:
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _characters(text: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Where each character of UTF-8 `text` `[bytes]` begins (None if each byte is one), its first byte, its kind."""
    if text.max() < 0x80:
        return None, text, _KIND[text]
    at = np.flatnonzero((text & 0xC0) != 0x80)
    lead = text[at]
    kind = _KIND[lead]
    long = np.flatnonzero(lead >= 0x80)
    first = lead[long].astype(np.int64)
    padded = np.append(text, [0, 0, 0]).astype(np.uint8)
    second, third, fourth = (padded[at[long] + i].astype(np.int64) & 0x3F for i in (1, 2, 3))
    point = np.where(
        first < 0xE0,
        (first & 0x1F) << 6 | second,
        np.where(
            first < 0xF0,
            (first & 0x0F) << 12 | second << 6 | third,
            (first & 0x07) << 18 | second << 12 | third << 6 | fourth,
        ),
    )
    for new in np.unique(point[_KIND[point] == UNKNOWN]):
        _KIND[new] = _ask_kind(chr(new))
    kind[long] = _KIND[point]
    return at, lead, kind


def _ask_kind(character: str) -> int:
    """The library puts a character into one word with those of its kind."""
    for kind, example in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
        if len(_REFERENCE.pre_tokenize_str(example + character)) == 1:
            return kind
    return SPACE


def _word_begins(lead: np.ndarray, kind: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether a word begins at each character.

    Args:
        lead: first bytes `[characters]`.
        kind: kinds `[characters]`.
        starts: where each text begins; may be `len(lead)` for empty ones at the end.
    """
    count = len(lead)
    new_text = np.zeros(count + 3, dtype=bool)
    new_text[starts] = new_text[count:] = True
    begins = np.ones(count, dtype=bool)
    is_space = kind == SPACE
    before_word = is_space[:-1] & ~is_space[1:]
    # Words are runs of one kind ...
    np.not_equal(kind[1:], kind[:-1], out=begins[1:])
    # ... with one blank in front ...
    begins[1:] &= ~(before_word & (lead[:-1] == ord(" ")))
    # ... which a longer run of spaces leaves to it; it leaves any other space to itself, too.
    begins[:-1] |= before_word & ~new_text[1:count]
    begins |= new_text[:count]
    # An apostrophe that begins a word ends it after s, t, m, d, ll, re or ve.
    quotes = np.flatnonzero(lead == ord("'"))
    quotes = quotes[new_text[quotes] | ((kind[quotes - 1] != OTHER) & (lead[quotes - 1] != ord(" ")))]
    padded = np.append(lead, [0, 0, 0])
    one, two = padded[quotes + 1], padded[quotes + 2]
    short = np.isin(one, [*b"stmd"]) & ~new_text[quotes + 1]
    long = ((one == ord("l")) & (two == ord("l"))) | (np.isin(one, [*b"rv"]) & (two == ord("e")))
    long &= ~new_text[quotes + 1] & ~new_text[quotes + 2]
    begins[quotes[short | long] + 1] = False
    ends = np.concatenate([quotes[short] + 2, quotes[long] + 3])
    begins[ends[ends < count]] = True
    return begins


class WordEncoder:
    """Ids of texts without special tokens; the name of a special token in a text is spelt out. See `word_encoder`."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._known: dict[bytes, list[int]] = {}

    def __call__(self, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """`texts`, strings without nulls, to the ids of all of them `[tokens]` and the tokens of each `[texts]`."""
        parts = [self._encode(part) for part in slices(texts)]
        if not parts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def _encode(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        words, first = split_words(texts)
        coded = words.dictionary_encode()
        of_word = self._look_up(coded.dictionary.to_pylist())
        counts = np.fromiter(map(len, of_word), dtype=np.int64, count=len(of_word))
        ids = np.fromiter(chain.from_iterable(of_word), dtype=np.int32, count=int(counts.sum()))
        word = coded.indices.to_numpy()
        ends = np.append(0, np.cumsum(counts[word]))
        per_text = np.diff(ends[first])
        if len(ids) == len(counts):  # each word is one token
            return ids[word], per_text
        begin = np.cumsum(counts) - counts
        return ids[np.repeat(begin[word] - ends[:-1], counts[word]) + np.arange(ends[-1])], per_text

    def _look_up(self, words: list[bytes]) -> list[list[int]]:
        if len(self._known) > MAX_WORDS:
            self._known.clear()
        if new := [word for word in words if word not in self._known]:
            encoded = self._backend.encode_batch_fast([word.decode() for word in new], add_special_tokens=False)
            self._known.update(zip(new, (encoding.ids for encoding in encoded), strict=True))
        return [self._known[word] for word in words]


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[pa.ChunkedArray], tuple[np.ndarray, np.ndarray]]:
    """What a `WordEncoder` does, by the tokenizer itself, whichever it is."""

    def encode(texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        ids = tokenizer(
            texts.to_pylist(),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        counts = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(counts.sum())), counts

    return encode


def word_encoder(tokenizer: PreTrainedTokenizerBase) -> WordEncoder | None:
    """An encoder with the ids of `tokenizer(text, add_special_tokens=False, split_special_tokens=True)`.

    None where words may not decide them: another pre-tokenizer than GPT-2's, a normalizer, added tokens that are not
    special, dropout, or a class with an encoding of its own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:
        return None
    spec = json.loads(backend.to_str())
    how, model = spec["pre_tokenizer"] or {}, spec["model"]
    if (
        spec["normalizer"] is not None
        or (how.get("type"), how.get("add_prefix_space"), how.get("use_regex")) != ("ByteLevel", False, True)
        or model["type"] != "BPE"
        or model.get("dropout")
        or not all(token["special"] for token in spec["added_tokens"])
    ):
        return None
    own = type(backend).from_str(backend.to_str())  # calls with padding or truncation leave it alone
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = True
    encoder = WordEncoder(own)
    texts = pa.chunked_array([_ODD_TEXTS])
    return encoder if all(map(np.array_equal, encoder(texts), text_encoder(tokenizer)(texts))) else None
