"""Pipes, links, gzip and byte order marks work as users of a shell expect, through the real entry point."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_server import CommandServer

from vocabridge.alignment import Alignment, VocabridgeError, write_atomically


@pytest.fixture
def shell(command_server: CommandServer, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[bytes]]:
    """Return a function that runs a line of bash, with the command on the path."""

    def shell(line: str) -> subprocess.CompletedProcess[bytes]:
        env = command_server.environment(PATH=f"{command_server.command.parent}{os.pathsep}{os.environ['PATH']}")
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, timeout=300)

    return shell


@pytest.fixture
def pair(tokenizer_folders, tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).symlink_to(getattr(tokenizer_folders, name))
    return "source target"


def test_an_alignment_goes_through_pipes(shell, pair, tmp_path):
    """Pipe an alignment to commands and into a file; nothing else is in the pipe."""
    done = shell(
        f"vocabridge align {pair} --method identical-bytes -o /dev/stdout | vocabridge inspect /dev/stdin --json"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["method"] == "identical-bytes"
    assert b"source -> target" in done.stderr  # the table
    done = shell(
        f"vocabridge align {pair} --method identical-bytes -o /dev/stdout > out; vocabridge inspect <(cat out)"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert Alignment.load(tmp_path / "out").method == "identical-bytes"


def test_a_link_stays_and_a_folder_is_refused(run, pair, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/pair.safetensors")
    done = run("align", *pair.split(), "--method", "identical-bytes", "-o", "link")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "link").is_symlink()
    assert Alignment.load(tmp_path / "real" / "pair.safetensors").method == "identical-bytes"
    done = run("align", *pair.split(), "--method", "identical-bytes", "-o", "real")
    assert done.returncode == 2
    assert "is a directory" in done.stderr
    (tmp_path / "loop").symlink_to("loop")
    for command in (("align", *pair.split(), "--method", "identical-bytes"), ("train", "text.txt", "--source", "x")):
        done = run(*command, "-o", "loop", COLUMNS=200)
        assert done.returncode == 2
        assert "'loop' is a symbolic link that leads back to itself; remove it or name another place." in done.stderr
    with pytest.raises(VocabridgeError, match="loop: a symbolic link that leads back to itself; remove it or name"):
        write_atomically(tmp_path / "loop", b"")
    (tmp_path / "astray").symlink_to("nowhere/pair.safetensors")
    done = run("align", *pair.split(), "--method", "identical-bytes", "-o", "astray")
    assert done.returncode == 2
    assert "nowhere'; make it first" in done.stderr


def test_a_corpus_may_be_packed_or_piped_or_begin_with_a_byte_order_mark(shell, run, pair, text, tmp_path):
    (tmp_path / "packed").write_bytes(gzip.compress(text.read_bytes()))
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    for name, jobs in (("text.txt", 1), ("packed", 2), ("marked.txt", 1)):
        done = run("align", *pair.split(), "--corpus", name, "--jobs", jobs, "-o", f"{name}.out")
        assert done.returncode == 0, done.stderr
    done = shell(f"vocabridge align {pair} --corpus <(gunzip < packed) --jobs 2 -o piped.out")
    assert done.returncode == 0, done.stderr.decode()
    plain = Alignment.load(tmp_path / "text.txt.out")
    for name in ("packed", "marked.txt", "piped"):
        other = Alignment.load(tmp_path / f"{name}.out")
        assert (other.counts != plain.counts).nnz == 0
        assert (other.corpus == plain.corpus) is (name != "marked.txt")
    (tmp_path / "packed").write_bytes((tmp_path / "packed").read_bytes()[:-9])
    done = run("align", *pair.split(), "--corpus", "packed")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("error: packed: cannot be read (its gzip data is damaged or cut off)\n")


def test_a_tokenizer_may_be_piped_or_begin_with_a_byte_order_mark(shell, pair, tmp_path):
    (tmp_path / "marked").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / "marked" / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / "source" / name).read_bytes())
    done = shell("vocabridge align marked <(cat target/tokenizer.json) --method identical-bytes -o out.safetensors")
    assert done.returncode == 0, done.stderr.decode()
    assert (
        shell("vocabridge align source target/tokenizer.json --method identical-bytes -o usual.safetensors").returncode
        == 0
    )
    piped, usual = (Alignment.load(tmp_path / f"{name}.safetensors") for name in ("out", "usual"))
    assert piped.source.fingerprint == usual.source.fingerprint
    assert piped.target.fingerprint == usual.target.fingerprint


def test_training_texts_and_items_may_be_packed_or_piped(shell, model_folders, model_pair, tmp_path):
    line = json.dumps({"prompt": "3 foxes?", "response": " 6.", "answer": "6"}) + "\n"
    (tmp_path / "data.jsonl").write_text(f"\ufeff{line}{line}", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.jsonl.gz").write_bytes(gzip.compress((tmp_path / "data.jsonl").read_bytes()))
    digests = set()
    train = f"--source {model_folders.source} --method lora --rank 1 --json"
    for number, data in enumerate(("data.jsonl", "folder", "<(gunzip < folder/data.jsonl.gz)")):
        done = shell(f"vocabridge train {data} -o values{number} {train}")
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["examples"] == 2
        written = json.loads((tmp_path / f"values{number}" / "value_network.json").read_text())
        digests.add(written["training"]["data"]["sha256"])
    assert len(digests) == 1
    models = f"--base {model_folders.target} --value {model_folders.tuned} --untuned {model_folders.source}"
    done = shell(
        f"vocabridge eval --data <(cat data.jsonl) {models} --alignment <(cat {model_pair}) --contenders base "
        "--max-new-tokens 2 --json"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["items"] == 2
