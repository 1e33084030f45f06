"""The log of a training run: one line of JSON per step, and a plot of the curves at the end.

{"step": 1, "loss": ..., "nats": ..., "norm": ..., "changed": ..., "tokens": ..., "learning_rate": ..., ...}
{"step": 6, "validation": ...}

loss         the loss that training minimizes
nats         cross-entropy of the step's learned tokens, in nats per token
norm         |z_delta|_1 / |V|, mean over the learned tokens
changed      share of learned tokens at which the most likely token differs from the base's
tokens       number of learned tokens
validation   cross-entropy of the held-out texts, in nats per learned token
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


def log_points(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Convert the history of a Trainer to log points, as the module's docstring describes them."""
    points = []
    for entry in history:
        step = {"step": int(entry["step"])}
        if "loss" in entry:
            points.append(step | {name: entry[name] for name in _STEP if name in entry})
        elif "eval_loss" in entry:
            points.append(step | {"validation": entry["eval_loss"]})
    return points


def thin_curve(curve: Sequence[dict[str, float]], max_steps: int = 200) -> list[dict[str, float]]:
    """Keep at most `max_steps` evenly spaced steps of a curve, the last one included, and every validation."""
    last = max((point["step"] for point in curve), default=0)
    stride = max(1, -(-int(last) // max_steps))
    return [point for point in curve if "validation" in point or (last - point["step"]) % stride == 0]


class TrainingLog(TrainerCallback):
    """A callback that appends every step to the log file and calls `progress`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        """Log to the file `training_log.jsonl` in a folder."""
        self._path = folder / LOG
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Create the log file; in a resumed run, remove the lines after the checkpoint."""
        if state.is_world_process_zero:
            lines = "".join(json.dumps(point) + "\n" for point in log_points(state.log_history))
            write_atomically(self._path, lines.encode())

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Append the newest entry of the history to the log file."""
        points = log_points(state.log_history[-1:])
        if not state.is_world_process_zero or not points:
            return
        (point,) = points
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")
        if "loss" in point:
            status = f"{point['nats']:.3f} nats a token, change {point['norm']:.2f}, {point['changed']:.0%} of tokens"
            self._progress(state.global_step, state.max_steps, status)


def plot_curves(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write the curves as a PNG; without matplotlib, log one message instead."""
    try:
        figure = new_figure(9, 3)
    except VocabridgeError:
        logger.info(f"{path.name} is left out because matplotlib is missing; run: pip install 'vocabridge[report]'")
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panels = {"nats a token": ("nats", "validation"), "size of the change": ("norm",), "tokens changed": ("changed",)}
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            points = [point for point in curve if name in point]
            if points:
                axes.plot([p["step"] for p in points], [p[name] for p in points], label=name, lw=1, marker=".", ms=3)
        axes.set(title=title, xlabel="step")
    figure.axes[0].legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())


def epoch_means(curve: Sequence[Mapping[str, float]], name: str, epoch_steps: int) -> list[float]:
    """Return the mean of a quantity over the learned tokens of each epoch of `epoch_steps` steps."""
    sums: dict[int, tuple[float, float]] = {}
    for point in curve:
        if name in point:
            epoch = (int(point["step"]) - 1) // epoch_steps
            total, tokens = sums.get(epoch, (0.0, 0.0))
            sums[epoch] = total + point[name] * point["tokens"], tokens + point["tokens"]
    return [total / tokens for _, (total, tokens) in sorted(sums.items())]
