"""When training ends before its last step: at a signal, with a checkpoint; when validation does not become better."""

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


class Stopping(TrainerCallback):
    """Ends training at Ctrl-C or SIGTERM, with a checkpoint, and when validation has not become better for some epochs.

    Attributes:
        signal: The signal that ends it; 0 for none.
    """

    def __init__(self, patience: int | None) -> None:
        """Waits for so many epochs without better validation; None: for all."""
        self.signal = 0
        self._patience = patience

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Lets Ctrl-C and SIGTERM wait for the end of the step; a second signal does not wait."""
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
            yield
            return
        usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in usual.items():
                signal.signal(number, handler)

        def note(number: int, _frame: Any) -> None:
            self.signal = number
            restore()

        for number in usual:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

    @property
    def error(self) -> type[KeyboardInterrupt]:
        """What to raise for the signal."""
        return Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops if any process was told to."""
        if args.world_size > 1:
            told = torch.tensor(self.signal, device=args.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            self.signal = int(told)
        if self.signal:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Saves what was validated, and stops if that has not become better for too long."""
        losses = list(validations(state.log_history).values())
        control.should_save = bool(losses)
        if losses and self._patience is not None and len(losses) - 1 - losses.index(min(losses)) >= self._patience:
            control.should_training_stop = True
