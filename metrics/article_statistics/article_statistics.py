"""Use of "a", "an" and "the" in English stories."""

import datasets
import evaluate

from tinystories.evaluation.articles import article_statistics  # From: .
from tinystories.evaluation.intervals import flatten  # From: .


_DESCRIPTION = """
Use of articles in English children's stories: the number of articles, how often one is missing before a countable
singular noun, and how often "a" or "an" is wrong. Small language models that were trained incorrectly omit articles.
"""

_KWARGS_DESCRIPTION = """
Args:
    data (`list` of `str`): the texts.
    confidence (`float`): confidence level of the intervals; 0.95 by default.
    resamples (`int`): number of bootstrap resamples; 1000 by default.
    seed (`int`): seed of the bootstrap; 0 by default.

Returns (also with the suffixes `_low` and `_high` for the ends of each interval; nan if there is nothing to count):
    article_omission (`float`): fraction of countable singular nouns without a determiner; about 0.014 in real stories.
    articles_per_100_words (`float`): number of articles per 100 words; about 9.5 in real stories.
    wrong_a_or_an (`float`): fraction of "a" and "an" that should be the other one; below 0.001 in real stories.
    stories_with_article (`float`): fraction of texts with any article; 1 even if the words are shuffled.

Examples:
    >>> import evaluate
    >>> measurement = evaluate.load("metrics/article_statistics")
    >>> good = measurement.compute(data=["Once upon a time there was a girl. She had an apple and a red ball."])
    >>> bad = measurement.compute(data=["Once upon time there was girl. She had a apple and red ball."])
    >>> good["article_omission"], bad["article_omission"], good["wrong_a_or_an"], bad["wrong_a_or_an"]
    (0.0, 0.5, 0.0, 1.0)
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ArticleStatistics(evaluate.Measurement):
    def _info(self):
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"data": datasets.Value("string")}),
        )

    def _compute(self, data, confidence=0.95, resamples=1000, seed=0):
        return flatten(article_statistics(data, confidence=confidence, resamples=resamples, seed=seed))
