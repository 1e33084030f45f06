"""The course of a training run: a line of JSON a step as it goes, and the curves when it is over.

    {"step": 1, "loss": ..., "nats": ..., "norm": ..., "changed": ..., "tokens": ..., "learning_rate": ..., ...}
    {"step": 6, "validation": ...}

`loss` is what is minimized; `nats` its cross-entropy, and `validation` that of the held-out texts, in nats a learned
token; `norm` is |z_delta|_1 / |V|; `changed` the share of tokens whose likeliest one is another than the base's.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

from vocabridge.alignment import VocabridgeError, write_atomically
from vocabridge.utils.html import new_figure
from vocabridge.utils.progress import Progress

LOG = "training_log.jsonl"
PLOT = "curves.png"

_STEP = ("loss", "nats", "norm", "changed", "tokens", "learning_rate", "grad_norm")

logger = logging.getLogger(__name__)


def points(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """A Trainer's log in the form above."""
    found = []
    for entry in history:
        step = {"step": int(entry["step"])}
        if "loss" in entry:
            found.append(step | {name: entry[name] for name in _STEP if name in entry})
        elif "eval_loss" in entry:
            found.append(step | {"validation": entry["eval_loss"]})
    return found


def thinned(curve: Sequence[dict[str, float]], most: int = 200) -> list[dict[str, float]]:
    """A curve with at most so many steps, evenly spaced, the last among them; and every validation."""
    last = max((point["step"] for point in curve), default=0)
    stride = max(1, -(-int(last) // most))
    return [point for point in curve if "validation" in point or (last - point["step"]) % stride == 0]


class TrainingLog(TrainerCallback):
    """Appends to the log, and tells of every step."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        """Logs to a folder."""
        self._path = folder / LOG
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins the log, or takes back what a run that is taken up again had logged after its checkpoint."""
        if state.is_world_process_zero:
            lines = "".join(json.dumps(point) + "\n" for point in points(state.log_history))
            write_atomically(self._path, lines.encode())

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Logs what was logged last."""
        new = points(state.log_history[-1:])
        if not state.is_world_process_zero or not new:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(new[0]) + "\n")
        if "loss" in new[0]:
            now = f"{new[0]['nats']:.3f} nats a token, change {new[0]['norm']:.2f}, {new[0]['changed']:.0%} of tokens"
            self._progress(state.global_step, state.max_steps, now)


def plot(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the curves as a PNG; a line of the log says so where matplotlib is missing."""
    try:
        figure = new_figure(9, 3)
    except VocabridgeError:
        logger.info(f"{path.name} is left out, as it needs matplotlib; run: pip install 'vocabridge[report]'")
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panels = {"nats a token": ("nats", "validation"), "size of the change": ("norm",), "tokens changed": ("changed",)}
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            here = [point for point in curve if name in point]
            if here:
                axes.plot([p["step"] for p in here], [p[name] for p in here], label=name, lw=1, marker=".", ms=3)
        axes.set(title=title, xlabel="step")
    figure.axes[0].legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())


def by_epoch(curve: Sequence[Mapping[str, float]], name: str, each: int) -> list[float]:
    """Return the mean over the tokens of every epoch, of so many steps each."""
    sums: dict[int, tuple[float, float]] = {}
    for point in curve:
        if name in point:
            epoch = (int(point["step"]) - 1) // each
            total, tokens = sums.get(epoch, (0.0, 0.0))
            sums[epoch] = total + point[name] * point["tokens"], tokens + point["tokens"]
    return [total / tokens for _, (total, tokens) in sorted(sums.items())]
