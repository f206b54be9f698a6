"""Ctrl-C during training: a checkpoint after the current step, and then the end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback


class InterruptCallback(TrainerCallback):
    """Stops training after the step in which Ctrl-C is pressed; a second Ctrl-C stops at once.

    In the middle of a step, some weights may have been updated and others not, so a checkpoint needs the step's end.
    With several processes, Ctrl-C stops at once, because they would have to agree on the step.

    Attributes:
        requested: whether Ctrl-C has been pressed.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def handling(self, processes: int) -> Iterator[None]:
        """Handle Ctrl-C within the block.

        Raises:
            KeyboardInterrupt: after the block, if it was pressed.
        """
        self.requested = False
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Background jobs ignore Ctrl-C.
        if processes > 1 or not in_main_thread or not callable(signal.getsignal(signal.SIGINT)):
            yield
            return
        main = os.getpid()

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() != main:  # a data loader worker, which inherits the handler
                return
            signal.signal(signal.SIGINT, before)
            self.requested = True
            print("\ntinystories: stopping after this step; Ctrl-C again stops at once.", file=sys.stderr, flush=True)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.requested:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        if self.requested:
            control.should_training_stop = True
            control.should_log = True  # the log has the time of a run with a time limit
            control.should_save = args.save_strategy != "no"

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.requested:  # in the middle of an epoch, and after the checkpoint
            control.should_log = control.should_evaluate = control.should_save = False
