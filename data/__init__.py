"""The data that ships with vocabridge: a small corpus, a sample task, and a value network trained on the task.

Each function returns paths of files; the README.md in the same folder tells how they were made.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

__all__ = ["VALUE_NETWORKS", "Split", "corpus_files", "task_file", "value_network_folder"]

Split = Literal["train", "validation", "test"]

_FOLDER = Path(str(files(__name__)))

VALUE_NETWORKS = {"gsm-symbolic-smollm2-135m": _FOLDER / "value_network" / "gsm_symbolic-smollm2-135m"}
"""Folders of the value networks that ship with vocabridge, by short name."""


def corpus_files() -> list[Path]:
    """Return the text files of the corpus on which two vocabularies are aligned by default, in a fixed order."""
    return sorted((_FOLDER / "corpus").glob("*.txt"))


def task_file(split: Split) -> Path:
    """Return the JSONL file of a split of the sample task; each line holds a prompt, a response and an answer."""
    return _FOLDER / "gsm_symbolic" / f"{split}.jsonl"


def value_network_folder() -> Path:
    """Return the folder of the value network trained from SmolLM2-135M-Instruct on the sample task's train split."""
    return VALUE_NETWORKS["gsm-symbolic-smollm2-135m"]
