"""When training ends before its last step: at Ctrl-C, with a checkpoint, and when validation does not become better."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback

from vocabridge.value_trainer import validations


class Stopping(TrainerCallback):
    """Ends training at Ctrl-C, with a checkpoint, and when validation has not become better for some epochs.

    Attributes:
        interrupted: Whether it was Ctrl-C.
    """

    def __init__(self, patience: int | None) -> None:
        """Waits for so many epochs without better validation; None: for all."""
        self.interrupted = False
        self._patience = patience

    @contextmanager
    def at_interrupts(self) -> Iterator[None]:
        """Lets Ctrl-C wait for the end of the step; a second one does not wait."""
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
            yield
            return
        usual = signal.getsignal(signal.SIGINT)

        def note(_signal: int, _frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, usual)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops if any process was told to."""
        if args.world_size > 1:
            told = torch.tensor(float(self.interrupted), device=args.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            self.interrupted = bool(told)
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Saves what was validated, and stops if that has not become better for too long."""
        losses = list(validations(state.log_history).values())
        control.should_save = bool(losses)
        if losses and self._patience is not None and len(losses) - 1 - losses.index(min(losses)) >= self._patience:
            control.should_training_stop = True
