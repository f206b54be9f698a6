"""From text to a vocabulary: train a byte-level BPE, or cut an existing one to the tokens a corpus uses most.

    from tinystories.tokenization import train_bpe, tokenizer_report

    tokenizer = train_bpe(["Once upon a time there was a cat.", ...])
    tokenizer.save_pretrained("my-tokenizer")  # AutoTokenizer.from_pretrained("my-tokenizer") reads it

Texts come as plain iterables of strings; where they come from is not this package's business.
"""

from .bpe import BOS, EOS, PAD, UNK, PreTrainedTokenizerFast, build_tokenizer, tokenizer_report, train_bpe
from .errors import TokenizerError
from .topk import cut_to_top_k
from .vocabulary import vocabulary_size


__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "PreTrainedTokenizerFast",
    "TokenizerError",
    "build_tokenizer",
    "cut_to_top_k",
    "tokenizer_report",
    "train_bpe",
    "vocabulary_size",
]
