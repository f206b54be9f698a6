"""Training for so many minutes instead of so many steps: the learning rate falls by the clock, which ends the run.

What a machine can do in a time is not known before, least of all on one that others use, too. So the schedule goes by
the share of the time that is over, and its last value is reached in whatever step is the last one.
"""

import time

import torch
from transformers import TrainerCallback


# `Trainer` wants to know the number of steps; this one is never reached.
STEPS_WITHOUT_END = 10**8


class TimeLimit(TrainerCallback):
    """Ends training when the next step would end too late, and tells how much of the time is over.

    The clock of the main process counts, read at the end of each step, so that all processes take the same learning
    rates and stop together. Evaluations and checkpoints are on the clock, except for those at the end. A resumed run
    has the time that is left.

    Args:
        seconds: of training, over all sessions of the run.

    Attributes:
        elapsed: seconds that are over; set by who resumes a run.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.elapsed = 0.0
        self._before = 0.0
        self._began: float | None = None

    @property
    def progress(self) -> float:
        """The share of the time that is over, 0 to 1."""
        return min(1.0, self.elapsed / self.seconds)

    def on_train_begin(self, args, state, control, **kwargs):
        self._before, self._began = self.elapsed, time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        before, self.elapsed = self.elapsed, self._before + self._session(args)
        step = self.elapsed - before
        if self.elapsed + step / 2 >= self.seconds:
            state.max_steps = state.global_step
            # Less is over by a part of a step, in which a resumed run would make another one.
            state.log_history.append({"seconds": self.seconds, "step": state.global_step, "epoch": state.epoch})
            control.should_training_stop = True
            if args.save_strategy == "steps":
                control.should_save = True

    def _session(self, args) -> float:
        seconds = time.perf_counter() - self._began
        if args.world_size == 1:
            return seconds
        shared = torch.tensor(seconds, dtype=torch.float, device=args.device)
        torch.distributed.broadcast(shared, src=0)
        return shared.item()
