"""The alignment package needs neither torch nor transformers, even where they are installed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import vocabridge.alignment
from vocabridge.alignment import cache
loaded = {"torch", "transformers", "faiss", "huggingface_hub"} & {name.split(".")[0] for name in sys.modules}
print(sorted(loaded))
"""


def test_importing_alignment_imports_no_torch_and_no_transformers(tmp_path):
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    import vocabridge.alignment as alignment

    assert all(hasattr(alignment, name) for name in alignment.__all__)
