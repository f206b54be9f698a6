"""Warn during training if validation rises."""

from transformers import TrainerCallback

from .log import Log
from .progress import RISING


class OverfittingCallback(TrainerCallback):
    """Prints a warning after each evaluation in training that is clearly worse than the best one."""

    def __init__(self) -> None:
        self._is_training = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._is_training = True

    def on_train_end(self, args, state, control, **kwargs):
        self._is_training = False

    def on_evaluate(self, args, state, control, **kwargs):
        log = Log(state)
        if not self._is_training or not state.is_world_process_zero or state.global_step not in log.evaluations:
            return
        (step, best), last = log.best, log.evaluations[state.global_step]
        if last <= best * (1 + RISING):
            return
        kept = "are kept" if args.load_best_model_at_end else "are lost unless --load_best_model_at_end is set"
        print(
            f"warning: validation has risen from {best:.4f} (step {step:,}) to {last:.4f} {log.unit} (step "
            f"{state.global_step:,}). If this continues, stop the run: the weights of step {step:,} {kept}. More "
            f"stories, fewer epochs or a smaller model would help.",
            flush=True,
        )
