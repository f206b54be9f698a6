"""Repetition within texts and across texts."""

import datasets
import evaluate

from tinystories.evaluation.intervals import flatten  # From: .
from tinystories.evaluation.text_statistics import repetition  # From: .


_DESCRIPTION = """
Repetition in generated texts: the fraction of distinct n-grams over all texts, the fraction of 4-grams that occurred
earlier in the same text, and the longest sequence of words that occurs twice in a text.
"""

_KWARGS_DESCRIPTION = """
Args:
    data (`list` of `str`): the texts.
    confidence (`float`): confidence level of the intervals; 0.95 by default.
    resamples (`int`): number of bootstrap resamples; 1000 by default.
    seed (`int`): seed of the bootstrap; 0 by default.

Returns (nan if there is nothing to count; words are compared in lower case and without punctuation):
    distinct_1, distinct_2, distinct_3 (`float`): number of distinct n-grams divided by the number of all n-grams, over
        all texts. It decreases with the amount of text: compare only equal amounts.
    repeated_4grams, repeated_4grams_low, repeated_4grams_high (`float`): fraction of 4-grams that occurred earlier in
        the same text.
    longest_repeated_run, longest_repeated_run_low, longest_repeated_run_high (`float`): number of words in the longest
        sequence that occurs twice in a text, as a mean over texts.
    longest_repeated_run_max (`float`): the same for the text with the longest sequence.

Examples:
    >>> import evaluate
    >>> measurement = evaluate.load("metrics/repetition")
    >>> measurement.compute(data=["The cat sat. The cat sat. The cat sat."])["repeated_4grams"]
    0.5
"""

_CITATION = """\
@inproceedings{li2016diversity,
    title = {A Diversity-Promoting Objective Function for Neural Conversation Models},
    author = {Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
    booktitle = {Proceedings of NAACL-HLT},
    year = {2016},
}
@inproceedings{welleck2020neural,
    title = {Neural Text Generation with Unlikelihood Training},
    author = {Welleck, Sean and Kulikov, Ilia and Roller, Stephen and Dinan, Emily and Cho, Kyunghyun and
              Weston, Jason},
    booktitle = {International Conference on Learning Representations},
    year = {2020},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Repetition(evaluate.Measurement):
    def _info(self):
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/1510.03055", "https://arxiv.org/abs/1908.04319"],
        )

    def _compute(self, data, confidence=0.95, resamples=1000, seed=0):
        return flatten(repetition(data, confidence=confidence, resamples=resamples, seed=seed))
