"""`vocabridge align` and `inspect` report what both tokenizers change in a text, and their roles."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer, normalizers


@pytest.fixture
def lower_casing(tokenizer_folders, tmp_path):
    folder = tmp_path / "lower"
    shutil.copytree(tokenizer_folders.source, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_the_changes_and_roles_of_a_tokenizer_are_named(run, lower_casing, tokenizer_folders):
    changes = ["lower-cases", "NFC: composes characters"]
    done = run(
        "align", lower_casing, tokenizer_folders.target, "--method", "identical-bytes", "-o", "p.safetensors", "--json"
    )
    assert done.returncode == 0, done.stderr
    for document in (json.loads(done.stdout), json.loads(run("inspect", "p.safetensors", "--json").stdout)):
        assert document["source"]["changes"] == changes
        assert document["target"]["changes"] == ["turns ▁ (U+2581) into a space"]
        assert document["source"]["control_roles"] == {"bos": 0, "eos": 1, "turn begin": 0, "turn end": 1}
    table = " ".join(run("inspect", "p.safetensors").stdout.split())
    assert "; ".join(changes) in table
    assert "turns ▁ (U+2581) into a space" in table
    done = run(
        "align",
        tokenizer_folders.source,
        tokenizer_folders.source,
        "--method",
        "identical-bytes",
        "-o",
        "q.safetensors",
    )
    assert done.returncode == 0, done.stderr
    assert "changes to text none" in " ".join(run("inspect", "q.safetensors").stdout.split())
