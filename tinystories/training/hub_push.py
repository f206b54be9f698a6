"""Push checkpoints to the Hub in the background during training."""

import shutil
import sys
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..utils.errors import first_line


class CheckpointPushTrainer(Trainer):
    """A `Trainer` that pushes only complete checkpoints, reports failed pushes and retries them at the end.

    `Trainer` skips a checkpoint while another push is in progress. This one waits instead with `hub_strategy:
    all_checkpoints`, and for the last checkpoint unless the strategy is `every_save`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._pushed: list[Path] = []  # in the latest push
        self._failed: list[Path] = []  # not pushed, and not superseded by a later checkpoint

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: `Trainer` calls this before the manifest is written; see [`push_checkpoint`]."""

    def push_checkpoint(self, folder: Path) -> None:
        """Push a complete checkpoint as `hub_strategy` says."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero():
            return
        last = strategy != HubStrategy.EVERY_SAVE and self.control.should_training_stop
        if last or strategy == HubStrategy.ALL_CHECKPOINTS:
            self._finish_current_push()
        if strategy == HubStrategy.END or (self.checkpoints_in_push() and not self.args.hub_always_push):
            return
        self._report_push()
        for code in folder.glob("*.py"):
            shutil.copy(code, self._get_output_dir(trial=None))
        super()._push_from_checkpoint(str(folder))
        self._pushed.append(folder)
        if last:
            # `Trainer` may delete the checkpoint before it waits for the push.
            self._finish_current_push()

    def checkpoints_in_push(self) -> list[Path]:
        """The checkpoints of a push in progress, which must not be deleted."""
        push = getattr(self, "push_in_progress", None)
        return [] if push is None or push.is_done() else self._pushed

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_push()

    def _report_push(self) -> None:
        """Report the errors of a finished push, which `Trainer` ignores."""
        push = getattr(self, "push_in_progress", None)
        if push is None or not push.is_done():
            return
        errors = [error for job in push.jobs if (error := job.exception()) is not None]
        if errors:
            names = ", ".join(folder.name for folder in self._pushed)
            print(f"note: {names} could not be pushed: {first_line(errors[0])}.", file=sys.stderr)
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            self._failed = self._pushed[-1:] if errors else []
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            self._failed += self._pushed if errors else []
        self._pushed, self.push_in_progress = [], None

    def push_to_hub(self, *args, **kwargs):
        # Before the model is saved, since a checkpoint is pushed by way of the run folder.
        again, self._failed = self._failed, [folder for folder in self._failed if not folder.is_dir()]
        for folder in again:
            if folder.is_dir():
                self.push_checkpoint(folder)
                self._finish_current_push()
        pushed = super().push_to_hub(*args, **kwargs)
        if self._failed:
            raise RuntimeError(f"{', '.join(folder.name for folder in self._failed)} could not be pushed")
        return pushed
