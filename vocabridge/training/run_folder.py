"""The folder of a training run: the check of its content, and the checkpoint from which to resume."""

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
    """Raise an error unless a folder is missing, empty, or that of an unfinished run.

    The folder of an unfinished run has a lock file or checkpoints, and no files that are not of a run.

    Raises:
        VocabridgeError: The folder holds something else, or is a file.
    """
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    names -= {f".{name}{PART}" for name in (LOG, PLOT, CARD, WEIGHTS, CONFIG)}
    known = {CHECKPOINTS, LOG, PLOT, CARD, WEIGHTS}
    unfinished = names <= known | {LOCK, CONFIG} if LOCK in names else CHECKPOINTS in names and names <= known
    if (names and not unfinished) or (output.exists() and not output.is_dir()):
        raise VocabridgeError(f"{output} is not empty; name a new folder, or remove it first")


def last_checkpoint(output: Path, run: Mapping[str, Any]) -> str | None:
    """Return the last checkpoint in the folder of a run; None if there is none.

    Args:
        output: Folder of the run.
        run: Settings and inputs of the run, as every checkpoint holds them.

    Raises:
        VocabridgeError: The checkpoints are of another run, or the file that tells so cannot be read.
    """
    folder = output / CHECKPOINTS
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None:
        return None
    try:
        saved = read_json_object(Path(last) / RUN)
    except (OSError, ValueError) as error:
        raise VocabridgeError(f"{Path(last) / RUN} cannot be read ({error}); remove {last}, or {output}") from error
    for name in {**run, **saved}:
        if saved.get(name) != run.get(name):
            raise VocabridgeError(
                f"{folder} is of a run with {name.replace('_', ' ')} {saved.get(name)}, not {run.get(name)}; start "
                "that run again to resume it, or name a new folder"
            )
    return last
