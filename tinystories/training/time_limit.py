"""Training for a number of minutes: elapsed time sets the learning rate and ends the run.

The number of steps is not known in advance, in particular on a shared machine. The schedule therefore follows the
elapsed fraction of the time, and reaches its last value in the last step.
"""

import time

import torch
from transformers import TrainerCallback, TrainingArguments


# `Trainer` needs a number of steps; this one is never reached.
STEPS_WITHOUT_END = 10**8


class TimeLimitCallback(TrainerCallback):
    """Stops training when the next step would exceed the time limit.

    All processes use the clock of the main process, read at the end of each step, so that they have the same learning
    rates and stop together. Evaluations and checkpoints count, except for those at the end. A resumed run has the
    remaining time.

    Args:
        seconds: of training, over all sessions of the run.

    Attributes:
        elapsed: seconds of training so far; the trainer sets it when it resumes a run.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.elapsed = 0.0

    @property
    def progress(self) -> float:
        """The elapsed fraction of the time, 0 to 1."""
        return min(1.0, self.elapsed / self.seconds)

    def on_train_begin(self, args, state, control, **kwargs):
        self._began = time.perf_counter() - self.elapsed

    def on_step_end(self, args, state, control, **kwargs):
        before, self.elapsed = self.elapsed, self._clock(args)
        if self.elapsed + (self.elapsed - before) / 2 >= self.seconds:
            state.max_steps = state.global_step
            # The last half step counts as elapsed; a resumed run would otherwise make another step.
            state.log_history.append({"seconds": self.seconds, "step": state.global_step, "epoch": state.epoch})
            control.should_training_stop = True
            if args.save_strategy == "steps":
                control.should_save = True

    def _clock(self, args: TrainingArguments) -> float:
        seconds = time.perf_counter() - self._began
        if args.world_size == 1:
            return seconds
        shared = torch.tensor(seconds, dtype=torch.float, device=args.device)
        torch.distributed.broadcast(shared, src=0)
        return shared.item()
