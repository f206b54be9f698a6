"""Check whether validation stories also occur in training, entirely or as long word sequences.

- Two stories are equal if their words are equal; case, punctuation and spaces are ignored.
- Free text does not share sequences of 20 words by accident, but stories generated from templates do, so that is a
  note. Equal stories are an error if they are 1% of the validation stories or more.
"""

import numpy as np

from ..evaluation.text_statistics import word_ids
from ..utils.console import counted
from .findings import Finding, as_check, error, inconclusive, note, ok


RUN = 20  # words
MANY = 0.01  # fraction of the validation stories
_FACTORS = np.random.default_rng(0).integers(1, 2**63, RUN, dtype=np.uint64) | np.uint64(1)


@as_check("held-out stories")
def check_held_out(train: list[str], validation: list[str], of_train: int, of_validation: int) -> list[Finding]:
    """Findings on equal stories and on shared word sequences.

    Args:
        train, validation: samples.
        of_train, of_validation: number of stories that they were sampled from.
    """
    ids, owner = word_ids([*train, *validation])
    stories = np.split(ids.astype(np.uint64), np.searchsorted(owner, np.arange(1, len(train) + len(validation))))
    trained, held_out = stories[: len(train)], stories[len(train) :]
    sample = (
        f"compared {len(held_out):,} of {of_validation:,} validation stories with {len(trained):,} of {of_train:,} "
        f"training stories"
    )
    return [_check_stories(trained, held_out, sample), _check_runs(trained, held_out, sample)]


def _check_stories(trained: list[np.ndarray], held_out: list[np.ndarray], sample: str) -> Finding:
    known = {words.tobytes() for words in trained}
    same = sum(words.tobytes() in known for words in held_out)
    if not same:
        return ok(f"no validation story is also a training story ({sample})")
    judge = error if same >= MANY * len(held_out) else note
    return judge(
        f"{counted(same, 'validation story')} also found in training, ignoring case and punctuation ({sample})",
        "Remove these stories from training; otherwise, the validation loss is too low.",
    )


def _check_runs(trained: list[np.ndarray], held_out: list[np.ndarray], sample: str) -> Finding:
    check = "shared word sequences"
    runs = [hashes for words in held_out if len(hashes := _run_hashes(words))]
    if not runs:
        return inconclusive(f"no validation story has {RUN} words", check=check)
    # Looked up in one go: each lookup sorts all runs of the training stories.
    shared = np.isin(np.concatenate(runs), np.concatenate([_run_hashes(words) for words in trained]))
    lengths = np.array([len(hashes) for hashes in runs])
    fractions = np.add.reduceat(shared, np.cumsum(lengths) - lengths, dtype=float) / lengths
    half = int((fractions > 0.5).sum())
    evidence = (
        f"{(fractions > 0).sum():,} of {len(runs):,} validation stories share a sequence of {RUN} words with a "
        f"training story; in {half:,}, such sequences are more than half of the text ({sample})"
    )
    if half < MANY * len(runs):
        return ok(evidence, check=check)
    advice = (
        "With so much shared text, the validation loss also rewards memorisation; this is usual for stories generated "
        "from templates."
    )
    return note(evidence, advice, check=check)


def _run_hashes(words: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each run of `RUN` words."""
    if len(words) < RUN:
        return np.empty(0, np.uint64)
    return ((np.lib.stride_tricks.sliding_window_view(words, RUN) + np.uint64(1)) * _FACTORS).sum(-1)
