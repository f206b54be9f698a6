"""The log of a run: `trainer_state.json`, as any transformers `Trainer` writes it.

The validation metric is `eval_bits_per_byte` if it is logged, otherwise `eval_loss` in nats per token.
"""

import filecmp
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import TrainerState

from ..runs.run_folder import TRAINER_STATE, checkpoint_folder, find_checkpoints, is_checkpoint
from ..training.throughput import logged_seconds
from ..training.time_limit import STEPS_WITHOUT_END
from ..utils.errors import UserError


SAME = 1e-4  # relative difference of two evaluations of the same weights


def times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count:,} times")


@dataclass
class Log:
    """The log of one run.

    Attributes:
        state: as `Trainer` saved it; its steps and tokens include those of the sessions before a resume.
    """

    state: TrainerState

    @property
    def entries(self) -> list[dict]:
        return self.state.log_history

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return self.state.global_step

    @property
    def planned(self) -> int:
        """Steps that were planned for the run; 0 if unknown, as in an unfinished run with a time limit."""
        return 0 if self.state.max_steps == STEPS_WITHOUT_END else max(0, self.state.max_steps)

    @property
    def ended(self) -> bool:
        """Whether training ended normally, after its last step or by a callback such as early stopping."""
        return any("train_runtime" in entry for entry in self.entries)

    @property
    def seconds(self) -> float:
        """Seconds of training in all sessions; 0 if they were not logged."""
        return logged_seconds(self.entries)

    @property
    def metric(self) -> str:
        return "eval_bits_per_byte" if any("eval_bits_per_byte" in entry for entry in self.entries) else "eval_loss"

    @property
    def unit(self) -> str:
        return "bits per byte" if self.metric == "eval_bits_per_byte" else "nats per token"

    def column(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of the entries that have `key`, in the order in which they were logged."""
        found = [(entry["step"], entry[key]) for entry in self.entries if key in entry]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, dtype=int), np.array(values, dtype=float)

    @cached_property
    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and training losses, in nats per token; if a step is logged twice, the first value."""
        steps, losses = self.column("loss")
        steps, first = np.unique(steps, return_index=True)
        return steps, losses[first]

    @cached_property
    def evaluations(self) -> dict[int, float]:
        """The validation metric by step, of the weights at that step; that of a base model, before the first, is not.

        After training, `Trainer` may load the best checkpoint and log its metric under the number of the last step.
        Such a repeated value is left out.
        """
        found: dict[int, float] = {}
        ended = False
        for entry in self.entries:
            ended = (ended or "train_runtime" in entry) and "loss" not in entry
            value = entry.get(self.metric)
            if (
                value is None
                or not entry["step"]
                or (ended and any(math.isclose(value, old, rel_tol=SAME) for old in found.values()))
            ):
                continue
            found.setdefault(entry["step"], value)
        return dict(sorted(found.items()))

    @property
    def best(self) -> tuple[int, float]:
        """Step and value of the best evaluation."""
        return min(self.evaluations.items(), key=lambda evaluation: evaluation[1])


def read_log(folder: str | Path) -> Log:
    """The log in a run folder or checkpoint.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = Path(folder) / TRAINER_STATE
    try:
        log = Log(TrainerState.load_from_json(str(path)))
        _ = log.steps + log.planned, log.losses, log.evaluations  # fails if the file has other contents
        return log
    except FileNotFoundError:
        raise UserError(f"{folder} has no {TRAINER_STATE}, so there is no training log to check") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} cannot be read as the log of a Trainer") from None


def log_of_run(folder: Path, log: Log) -> Log:
    """The longest log of a run: that of a checkpoint ends where the checkpoint was saved."""
    if not is_checkpoint(folder):
        return log
    logs = [log]
    for other in (folder.parent, *find_checkpoints(folder.parent)):
        try:
            logs.append(read_log(other))
        except UserError:
            continue
    return max(logs, key=lambda found: (len(found.evaluations), found.ended))


def own_evaluation(folder: Path, log: Log) -> float | None:
    """The validation metric of the weights in `folder`; None if it was not logged."""
    evaluations = log.evaluations
    if is_checkpoint(folder):
        return evaluations.get(log.steps)
    best_step, best = log.best
    here, kept = (place / "model.safetensors" for place in (folder, checkpoint_folder(folder, best_step)))
    if here.is_file() and kept.is_file() and filecmp.cmp(here, kept, shallow=False):
        return best
    return log.column(log.metric)[1][-1]
