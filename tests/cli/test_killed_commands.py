"""A killed command destroys nothing: the same command continues, whichever file-system call was the last."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import crash_states
import numpy as np
import pytest
from command_server import CommandServer
from effort import sample


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the folder in which commands work; the cache is inside."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def execute(command_server: CommandServer, place: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Return a function that runs a command in this folder and returns the ended process."""

    def execute(*command: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
        env = command_server.environment(VOCABRIDGE_CACHE=str(place / "cache"), **environment)
        return command_server.run([*map(str, command)], cwd=place, env=env)

    return execute


@pytest.fixture
def done(execute: Callable[..., subprocess.CompletedProcess[bytes]]) -> Callable[..., None]:
    """Return a function that runs a command in this folder, which has to succeed."""

    def done(*command: object, **environment: str) -> None:
        ended = execute(*command, **environment)
        assert ended.returncode == 0, ended.stderr.decode()

    return done


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def leftovers(place: Path) -> list[Path]:
    """Return the leftovers of a killed command that are still there after the same command has run."""
    names = ("unfinished", "scratch", ".lock")
    return [path for path in place.rglob("*") if path.suffix in (".part", ".partial") or path.name in names]


@pytest.fixture
def try_every_kill(
    done: Callable[..., None], place: Path, tmp_path: Path
) -> Callable[[tuple[object, ...], Callable[[], object], Callable[[], object]], None]:
    """Return a function that checks the states that a kill leaves, one for each file-system call.

    Each state is sound, and the same command then leaves what it would have left without the kill. The quick run checks
    5 of the states.

    The function takes the command, what fails if what is there in some state does not load, and what gives what a
    command that has ended leaves, to be compared.
    """

    def try_every_kill(command: tuple[object, ...], sound: Callable[[], object], final: Callable[[], object]) -> None:
        done(*command, RECORD_CRASH_STATES=str(tmp_path / "states"))
        states = sorted((tmp_path / "states").iterdir(), key=lambda path: int(path.name))
        expected = final()
        assert len(states) > 3
        assert leftovers(place) == []
        for state in sample(states, 5):
            crash_states.put_back(state, place)
            try:
                sound()
                done(*command)
                assert leftovers(place) == []
                assert final() == expected
            except Exception as error:
                held = ", ".join(crash_states.contents(state))
                raise AssertionError(f"state {state.name} of {len(states)}: {held}") from error

    return try_every_kill


def loads(path: Path, *, methods: set[str] | None = None) -> None:
    """Assert that an alignment is sound, if it exists or has to exist."""
    from vocabridge.alignment import Alignment

    if methods is not None or path.exists():
        method = Alignment.load(path).method
        assert methods is None or method in methods


def test_align_over_an_old_file_and_its_cache(try_every_kill, place, done, tokenizer_folders):
    (place / "text.txt").write_text("The dogs watch 12 lazy foxes.\n" * 3)
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    done("align", *pair, "--method", "identical-bytes", "-o", "pair.safetensors")

    def sound():
        loads(place / "pair.safetensors", methods={"identical-bytes", "default"})
        for path in (place / "cache" / "alignments").glob("*.safetensors"):
            loads(path)

    command = ("align", *pair, "--corpus", "text.txt", "-o", "pair.safetensors")
    try_every_kill(command, sound, lambda: crash_states.contents(place))


def test_pairs(try_every_kill, place, tokenizer_folders):
    pair = (tokenizer_folders.source, tokenizer_folders.target)

    def sound():
        for path in (place / "pairs").glob("*.safetensors"):
            loads(path)

    command = ("pairs", *pair, "--method", "identical-bytes", "-o", "pairs")
    try_every_kill(command, sound, lambda: crash_states.contents(place))


def test_audit_over_an_old_page(try_every_kill, place, done, tokenizer_folders):
    pytest.importorskip("matplotlib")
    (place / "text.txt").write_text("The dogs watch 12 lazy foxes.\n" * 3)
    done(
        "align",
        tokenizer_folders.source,
        tokenizer_folders.target,
        "--method",
        "identical-bytes",
        "-o",
        "pair.safetensors",
    )
    (place / "page.html").write_text("an old page")

    def sound():
        page = (place / "page.html").read_text(encoding="utf-8")
        assert page == "an old page" or (page.startswith("<!doctype html>") and page.endswith("</html>\n"))
        return page == "an old page"

    command = ("audit", "pair.safetensors", "--text", "text.txt", "-o", "page.html")
    try_every_kill(command, sound, sound)


@pytest.fixture
def adapters(model_folders, tmp_path):
    """Write two small adapters, `old` and `new`."""
    import torch

    from vocabridge.models.value_network import new_value_network, save_value_network

    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        network = new_value_network(str(model_folders.source), method="lora", rank=1)
        torch.nn.init.normal_(network.value.projection.weight, std=0.3)
        save_value_network(network, tmp_path / "adapters" / name, {"epochs": seed})
    return tmp_path / "adapters"


@pytest.mark.quick(1)
@pytest.mark.parametrize("over", ["nothing", "an old bridge", "the same bridge"])
def test_bridge(try_every_kill, place, done, model_folders, model_pair, adapters, tokenizer_folders, over):
    from vocabridge.bridge.saving import load

    def command(name, strength, matrix):
        source = ("--value", adapters / name, "--alignment", matrix, "--strength", strength)
        return ("bridge", "-o", "bridge", "--base", model_folders.target, *source)

    new = command("new", 0.75, model_pair)
    if over == "an old bridge":
        models = (model_folders.source, model_folders.target)
        done("align", *models, "--method", "identical-bytes", "-o", adapters / "exact.safetensors")
        done(*command("old", 0.25, adapters / "exact.safetensors"))
    elif over == "the same bridge":
        done(*new)

    def bridge():
        (steering,) = load(place / "bridge").steerings
        return steering.strength, steering.alignment.method, steering.source.config.training["epochs"]

    def sound():
        if over != "nothing" or (place / "bridge" / "bridge.json").exists():
            assert bridge() in ((0.25, "identical-bytes", 0), (0.75, "retokenize", 1))

    def final():
        return bridge(), len(list((place / "bridge").iterdir()))

    try_every_kill(new, sound, final)
    assert final() == ((0.75, "retokenize", 1), 3)


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_train(try_every_kill, place, model_folders, method):
    from vocabridge.models.value_network import load_value_network

    lines = [{"prompt": f"{n} foxes?", "response": f" {2 * n}."} for n in range(3 if method == "lora" else 1)]
    (place / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def sound():
        if (place / "values" / "value_network.json").exists():
            load_value_network(place / "values")

    def final():
        sound()
        kept = {path.name for path in (place / "values" / "checkpoints").iterdir()}
        return kept, (place / "values" / "value_network.safetensors").read_bytes()

    options = (
        "--method",
        method,
        *(("--rank", 1) if method == "lora" else ()),
        "--batch-size",
        1,
        "--dtype",
        "float32",
    )
    command = ("train", "data.jsonl", "-o", "values", "--source", model_folders.source, *options)
    try_every_kill(command, sound, final)


def test_eval_with_records_report_and_page(try_every_kill, place, model_folders, model_pair):
    pytest.importorskip("matplotlib")
    lines = [{"prompt": f"{n} foxes?", "response": f" {2 * n}.", "answer": str(2 * n)} for n in range(2)]
    (place / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def sound():
        for path in (place / "report.json", place / "run" / "run.json"):
            assert not path.exists() or json.loads(path.read_text())

    def final():
        report = json.loads((place / "report.json").read_text())
        return report["answered"], [one["name"] for one in report["measured"]], (place / "page.html").exists()

    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.source)
    few = ("--contenders", "base", "--answers", 1, "--max-new-tokens", 2, "--alignment", model_pair)
    written = ("--records", "run", "-o", "report.json", "--html", "page.html")
    try_every_kill(("eval", "--data", "data.jsonl", *models, *few, *written), sound, final)


def write_gguf(path: Path) -> None:
    """Write a Llama of one layer, with a token for each byte and one more."""
    from gguf import GGUFWriter

    from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet

    width, rows = 16, 259
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", *byte_level_alphabet(), "ab"])
    writer.add_token_types([3, 3] + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_vocab_size(rows)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    shapes = {"token_embd": (rows, width), "output": (rows, width), "output_norm": (width,)}
    shapes |= {f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (width, width) for name in ("gate", "up", "down")}
    shapes |= {f"blk.0.{name}_norm": (width,) for name in ("attn", "ffn")}
    draws = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draws.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_conversion_of_a_gguf_file(try_every_kill, place):
    from vocabridge.alignment import Distributions

    write_gguf(place / "tiny.gguf")
    (place / "text.txt").write_text("The dogs.\n")

    def sound():
        if (place / "predictions.safetensors").exists():
            Distributions.open(place / "predictions.safetensors")

    command = ("predict", "tiny.gguf", "--corpus", "text.txt", "--top", 2, "-o", "predictions.safetensors")
    try_every_kill(command, sound, lambda: crash_states.contents(place))


def test_a_second_run_in_a_folder_where_one_is_at_work_is_refused(execute, done, place, model_folders, adapters):
    from vocabridge.alignment.files import locked_folder

    (place / "data.jsonl").write_text('{"prompt": "3 foxes?", "response": " 6."}\n')
    train = ("train", "data.jsonl", "-o", "values", "--source", model_folders.source, "--method", "lora", "--rank", 1)
    bridge = ("bridge", "-o", "bridge", "--base", model_folders.target, "--value", adapters / "new")
    for folder, command in ((place / "values", train), (place / "bridge", bridge)):
        with locked_folder(folder):
            ended = execute(*command)
            error = ended.stderr.decode().splitlines()[-1]
            assert ended.returncode == 1
            assert error == f"error: another process is at work in {folder.name}; wait for it, or name another folder"
        assert not folder.exists()
        done(*command)
