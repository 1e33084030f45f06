"""Names of models: which are paths, and the errors if the hub cannot be reached or has no such repository."""

import json
import os
import subprocess
import sys
import time

import pytest

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.hub import is_path

SLOW = 20
"""Seconds; huggingface_hub's retries alone are 23 a file."""

CLOSED = "http://127.0.0.1:9"
LOAD = """
import sys, time
from vocabridge.alignment import VocabridgeError, Vocabulary
begin = time.monotonic()
try:
    print(Vocabulary.load(sys.argv[1]).size)
except VocabridgeError as error:
    print(error)
print(time.monotonic() - begin)
"""


@pytest.fixture
def load(tmp_path):
    """Load a vocabulary in a new process with a hub at this address; return the output and the seconds."""

    def load(name, endpoint, **environment):
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub")}
        done = subprocess.run(
            [sys.executable, "-c", LOAD, name],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        output, seconds = done.stdout.splitlines()
        return output, float(seconds)

    return load


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nosuch", False),
        ("gpt2", False),
        ("Qwen/Qwen3-0.6B-Base", False),
        ("nowhere/nosuch", False),
        ("here/nosuch", True),
        ("here", True),
        ("./nosuch", True),
        ("../nosuch", True),
        ("/nosuch", True),
        ("~/nosuch", True),
        ("a/b/c", True),
        ("a\\b", True),
        ("model.gguf", True),
        ("owner/tokenizer.json", True),
        ("owner/model.safetensors", True),
    ],
)
def test_a_name_that_looks_like_a_path_is_one(tmp_path, monkeypatch, name, expected):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_path(name) == expected


@pytest.mark.parametrize("name", ["here/nosuch", "./nosuch", "a/b/c", "nosuch.gguf", "owner/tokenizer.json", "a b"])
def test_a_missing_path_is_never_requested_from_the_hub(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    begin = time.monotonic()
    with pytest.raises(VocabridgeError, match="no such file or folder"):
        Vocabulary.load(name)
    assert time.monotonic() - begin < SLOW


def test_without_a_network_the_error_comes_at_once(load):
    output, seconds = load("nosuch", CLOSED)
    assert output.startswith("nosuch: no local file or folder has this name, and the hub cannot be reached (")
    assert output.endswith("correct the name or connect to the network")
    assert seconds < SLOW


def test_the_error_names_the_offline_mode_of_the_hub(load):
    output, seconds = load("nosuch", CLOSED, HF_HUB_OFFLINE="1")
    assert "the hub cannot be reached (HF_HUB_OFFLINE is set)" in output
    assert seconds < SLOW


@pytest.mark.parametrize(
    ("status", "headers"),
    [(404, {}), (404, {"X_Error_Code": "RepoNotFound"}), (401, {"X_Error_Message": "Invalid username or password."})],
)
def test_a_missing_repository_has_its_own_error(load, hub, status, headers):
    endpoint, requests = hub(status, **headers)
    output, seconds = load("nosuch", endpoint)
    assert output.startswith("nosuch: neither a local file or folder nor a repository of the hub; correct the name")
    assert len(requests) == 1
    assert seconds < SLOW


def test_a_repository_without_access_has_its_own_error(load, hub):
    endpoint, requests = hub(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
    output, _ = load("owner/gated", endpoint)
    assert output.startswith("owner/gated: the hub refuses access to this repository (status 403); ask for access")
    assert len(requests) == 1


def test_a_failing_hub_gets_one_request(load, hub):
    endpoint, requests = hub(503)
    output, seconds = load("nosuch", endpoint)
    assert "the hub cannot be reached (it answers with status 503)" in output
    assert len(requests) == 1
    assert seconds < SLOW


def test_a_repository_without_a_tokenizer_is_named(load, hub):
    endpoint, _ = hub(404, X_Error_Code="EntryNotFound")
    output, _ = load("owner/images", endpoint)
    assert output == "owner/images: this repository has no tokenizer.json"


def test_without_a_network_the_local_hub_cache_is_used_at_once(load, tokenizer_folders, tmp_path):
    repository = tmp_path / "hub" / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in tokenizer_folders.source.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    width = json.loads((tokenizer_folders.source / "config.json").read_text())["vocab_size"]
    output, seconds = load("owner/name", CLOSED)
    assert output == str(width)
    assert seconds < SLOW
