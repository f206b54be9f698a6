"""How many embeddings a tokenizer needs."""

from transformers import PreTrainedTokenizerBase


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id, added tokens included.

    `len(tokenizer)` counts the entries, and ids may have gaps: a vocabulary that was cut, or tokens that were added at
    a fixed id.
    """
    return 1 + max(tokenizer.get_vocab().values(), default=-1)
