"""Minimal pairs: sentences of held-out stories, each with a copy in which a rule makes one error, and their scoring.

    pairs = make_pairs(stories)                       # Pair(kind, good, bad, story)
    results = score_pairs(model, tokenizer, pairs)    # log-likelihoods of good and bad
    accuracy(results)                                 # {kind: {"accuracy", "low", "high", "pairs"}}

A model that ignores context has an accuracy of 0.5 in every kind. One kind is no evidence of grammar by itself: a
model trained on the token after the next had 1.00 on `article_doubled`, and 0.04 (`word_order`) to 0.65 (`tense`) on
the others; trained with correct labels, it had 0.77 (`article_swapped`) to 1.00.
"""

from .errors import KINDS, ErrorKind
from .pairs import Pair, check_pairs_file, make_pairs, write_pairs
from .scoring import PairScore, TextScores, accuracy, mean_accuracy, score_pairs, text_log_likelihoods


__all__ = [
    "KINDS",
    "ErrorKind",
    "Pair",
    "PairScore",
    "TextScores",
    "accuracy",
    "check_pairs_file",
    "make_pairs",
    "mean_accuracy",
    "score_pairs",
    "text_log_likelihoods",
    "write_pairs",
]
