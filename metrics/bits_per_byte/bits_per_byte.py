"""Bits per byte of a language model: its loss in a unit that is comparable across tokenizers."""

import datasets
import evaluate
import numpy as np

from tinystories.evaluation.intervals import bits_per_byte_interval, flatten  # From: .


_DESCRIPTION = """
Bits per byte: the cross-entropy of all tokens of a text in bits, divided by the number of UTF-8 bytes of the text.
Unlike loss per token and perplexity, it is comparable across tokenizers. The interval is a bootstrap over texts.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `float`): for each text, the sum of the losses of its tokens in nats (natural logarithm, not
        negative). Leave out the end-of-text token, which has no bytes.
    references (`list` of `str`, or of `int`): the texts, or the number of UTF-8 bytes of each.
    confidence (`float`): confidence level of the interval; 0.95 by default.
    resamples (`int`): number of bootstrap resamples; 1000 by default.
    seed (`int`): seed of the bootstrap; 0 by default.

Returns:
    bits_per_byte (`float`): lower is better.
    bits_per_byte_low, bits_per_byte_high (`float`): ends of the interval.

Examples:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/bits_per_byte")
    >>> metric.compute(predictions=[30.0, 12.0], references=["Once upon a time there was a cat.", "The end."])
    {'bits_per_byte': 1.47788..., 'bits_per_byte_low': 1.31154..., 'bits_per_byte_high': 2.16404...}
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BitsPerByte(evaluate.Metric):
    def _info(self):
        nats = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": nats, "references": datasets.Value("string")}),
                datasets.Features({"predictions": nats, "references": datasets.Value("int64")}),
            ],
        )

    def _compute(self, predictions, references, confidence=0.95, resamples=1000, seed=0):
        nats = np.asarray(predictions, dtype=np.float64)
        if not (nats >= 0).all():
            raise ValueError(
                "`predictions` are losses in nats, so none can be negative or nan; negate log-likelihoods."
            )
        byte_counts = [text if isinstance(text, int) else len(text.encode()) for text in references]
        interval = bits_per_byte_interval(
            nats, np.array(byte_counts), confidence=confidence, resamples=resamples, seed=seed
        )
        return flatten({"bits_per_byte": interval})
