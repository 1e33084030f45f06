"""The folder of a training run: what may be in it, and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.files import LOCK, PART
from vocabridge.alignment.jsonio import read_json_object
from vocabridge.models.value_network_files import CONFIG, WEIGHTS
from vocabridge.training.callbacks import LOG, PLOT
from vocabridge.training.model_card import CARD
from vocabridge.training.trainer import RUN

CHECKPOINTS = "checkpoints"


def check_folder(output: Path) -> None:
    """Refuse a folder that holds anything but what an unfinished run leaves.

    Until a run is over, its folder has a lock file, whatever else is in it.
    """
    there = {path.name for path in output.iterdir()} if output.is_dir() else set()
    there -= {f".{name}{PART}" for name in (LOG, PLOT, CARD, WEIGHTS, CONFIG)}
    known = {CHECKPOINTS, LOG, PLOT, CARD, WEIGHTS}
    unfinished = there <= known | {LOCK, CONFIG} if LOCK in there else CHECKPOINTS in there and there <= known
    if (there and not unfinished) or (output.exists() and not output.is_dir()):
        raise VocabridgeError(f"{output} is not empty; name a new folder, or remove it first")


def last_checkpoint(output: Path, run: Mapping[str, Any]) -> str | None:
    """Return the last checkpoint of this very run, if there is one."""
    folder = output / CHECKPOINTS
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None:
        return None
    try:
        then = read_json_object(Path(last) / RUN)
    except (OSError, ValueError) as error:
        raise VocabridgeError(f"{Path(last) / RUN} cannot be read ({error}); remove {last}, or {output}") from error
    for name in {**run, **then}:
        if then.get(name) != run.get(name):
            raise VocabridgeError(
                f"{folder} is of a run with another {name.replace('_', ' ')}: {then.get(name)}, not "
                f"{run.get(name)}; start that run again to go on with it, or name a new folder"
            )
    return last
