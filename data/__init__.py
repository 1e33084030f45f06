"""What ships with vocabridge: a small corpus, a sample task, and a value network trained on it.

The accessors give paths of real files; how each was made stands in the README.md and the script beside it.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

__all__ = ["VALUE_NETWORKS", "Split", "corpus_files", "task_file", "value_network_folder"]

Split = Literal["train", "validation", "test"]

_FOLDER = Path(str(files(__name__)))

VALUE_NETWORKS = {"gsm-symbolic-smollm2-135m": _FOLDER / "value_network" / "gsm_symbolic-smollm2-135m"}
"""The value networks that ship with vocabridge: their folders, by short name."""


def corpus_files() -> list[Path]:
    """The text files on which two vocabularies are compared when the user names none, in a fixed order."""
    return sorted((_FOLDER / "corpus").glob("*.txt"))


def task_file(split: Split) -> Path:
    """The JSONL file of one split of the sample task; its lines hold a prompt, a response and an answer."""
    return _FOLDER / "gsm_symbolic" / f"{split}.jsonl"


def value_network_folder() -> Path:
    """The value network trained on the sample task's train split, from SmolLM2-135M-Instruct."""
    return VALUE_NETWORKS["gsm-symbolic-smollm2-135m"]
