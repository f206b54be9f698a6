"""Fraction of minimal pairs in which a language model assigns the correct sentence a higher likelihood."""

import datasets
import evaluate
import numpy as np

from tinystories.evaluation.intervals import flatten, wilson_interval  # From: .


_DESCRIPTION = """
Minimal-pair accuracy: a minimal pair is a correct sentence and the same sentence with one error. The accuracy is the
fraction of pairs in which the model assigns the correct sentence a higher likelihood. A tie counts as one half, so
that a model without preferences gets 0.5. The interval is Wilson's score interval.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of pairs of `float`): for each pair, the log-likelihoods of the correct and of the wrong
        sentence (sums over their tokens, in any one unit).
    kinds (`list` of `str`, optional): the kind of error of each pair, such as "article" or "agreement".
    confidence (`float`): confidence level of the intervals; 0.95 by default.

Returns:
    accuracy, accuracy_low, accuracy_high (`float`): higher is better, 0.5 is chance; nan if there are no pairs.
    ties (`int`): number of pairs with equal likelihoods.
    accuracy_KIND, accuracy_KIND_low, accuracy_KIND_high (`float`): the same for each kind.

Examples:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/minimal_pair_accuracy")
    >>> pairs = [[-20.1, -24.7], [-18.0, -17.2], [-30.5, -33.0]]
    >>> metric.compute(predictions=pairs, kinds=["article", "article", "verb"])
    {'accuracy': 0.666..., ..., 'accuracy_article': 0.5, ..., 'accuracy_verb': 1.0, ..., 'ties': 0}
"""

_CITATION = """\
@article{warstadt2020blimp,
    title = {{BLiMP}: The Benchmark of Linguistic Minimal Pairs for {E}nglish},
    author = {Warstadt, Alex and Parrish, Alicia and Liu, Haokun and Mohananey, Anhad and Peng, Wei and Wang, Sheng-Fu
              and Bowman, Samuel R.},
    journal = {Transactions of the Association for Computational Linguistics},
    volume = {8},
    year = {2020},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MinimalPairAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
            reference_urls=["https://arxiv.org/abs/1912.00582"],
        )

    def _compute(self, predictions, kinds=None, confidence=0.95):
        if any(len(pair) != 2 for pair in predictions):
            raise ValueError(
                "Each prediction is a pair: the log-likelihoods of the correct and of the wrong sentence."
            )
        good, bad = np.array(predictions, dtype=np.float64).reshape(-1, 2).T
        if np.isnan(good - bad).any():
            raise ValueError(f"{np.isnan(good - bad).sum()} pairs cannot be compared: nan, or both are infinite.")
        points = np.where(good == bad, 0.5, good > bad)
        results = {"accuracy": wilson_interval(float(points.sum()), len(points), confidence=confidence)}
        if kinds is not None:
            if len(kinds) != len(points):
                raise ValueError(f"There are {len(points)} pairs, but {len(kinds)} `kinds`.")
            for kind in sorted(set(kinds)):
                own = points[np.array(kinds) == kind]
                results[f"accuracy_{kind}"] = wilson_interval(float(own.sum()), len(own), confidence=confidence)
        return {**flatten(results), "ties": int((good == bad).sum())}
