"""Stopping before the last step: at a signal, with a checkpoint, or when the validation loss no longer improves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback

from vocabridge.alignment import Terminated
from vocabridge.training.trainer import validations


class StoppingCallback(TrainerCallback):
    """A callback that stops training at Ctrl-C or SIGTERM, and after epochs without a better validation loss.

    Attributes:
        signal: The signal at which training stops; 0 for none.
    """

    def __init__(self, patience: int | None) -> None:
        """Stop after `patience` epochs without a better validation loss; None never stops for that reason."""
        self.signal = 0
        self._patience = patience

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Delay Ctrl-C and SIGTERM until the end of the step; a second signal takes effect at once."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
            yield
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def request_stop(number: int, _frame: Any) -> None:
            self.signal = number
            restore()

        for number in previous:
            signal.signal(number, request_stop)
        try:
            yield
        finally:
            restore()

    @property
    def error(self) -> type[KeyboardInterrupt]:
        """Exception to raise for the signal."""
        return Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a checkpoint and stop if any process has received a signal."""
        if args.world_size > 1:
            received = torch.tensor(self.signal, device=args.device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            self.signal = int(received)
        if self.signal:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a checkpoint after every validation, and stop if the loss has not improved for `patience` epochs."""
        losses = list(validations(state.log_history).values())
        control.should_save = bool(losses)
        if losses and self._patience is not None and len(losses) - 1 - losses.index(min(losses)) >= self._patience:
            control.should_training_stop = True
