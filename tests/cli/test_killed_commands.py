"""A command that is killed destroys nothing: the same command goes on, wherever in its file-system calls that was."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SUPPORT = Path(__file__).parents[1] / "support" / "crash_states.py"


def _support() -> Any:
    spec = importlib.util.spec_from_file_location("crash_states", SUPPORT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["crash_states"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crash_states = _support()


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    states = crash_states.CrashStates(tmp_path_factory.mktemp("states"))
    yield states
    states.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder in which the command works."""
    folder = tmp_path / tmp_path.name
    folder.mkdir()
    return folder


@pytest.fixture
def done(crashes: Any, place: Path) -> Callable[..., None]:
    def done(*command: object) -> None:
        ended = crashes.run(place, command)
        assert ended.status == 0, ended.stderr

    return done


def leftovers(place: Path) -> list[Path]:
    """What of a killed command is still there after the same command has run."""
    names = ("unfinished", "scratch", ".lock")
    return [path for path in place.rglob("*") if path.suffix in (".part", ".partial") or path.name in names]


def try_every_kill(
    crashes: Any, place: Path, command: tuple[object, ...], sound: Callable[[], object], final: Callable[[], object]
) -> None:
    """Looks at every state that a kill leaves: it is sound, and the same command runs through and leaves what it did.

    Args:
        crashes: Runs commands.
        place: Where.
        command: Which.
        sound: Fails if what is there does not load; called in every state.
        final: What a command that has ended leaves, to be compared.
    """
    states = crashes.of(place, command)
    expected = final()
    assert len(states) > 3
    assert leftovers(place) == []
    for number, state in enumerate(states):
        crash_states.put_back(state, place)
        where = f"state {number} of {len(states)}"
        try:
            sound()
            ended = crashes.run(place, command)
            assert ended.status == 0, ended.stderr
            assert leftovers(place) == []
            assert final() == expected
        except Exception as error:
            raise AssertionError(f"{where}, {sorted(crash_states.contents(state))}") from error
    assert leftovers(place) == []


def loads(path: Path, *, methods: set[str] | None = None) -> None:
    """An alignment that is there, or has to be, is sound."""
    from vocabridge.alignment import Alignment

    if methods is not None or path.exists():
        method = Alignment.load(path).method
        assert methods is None or method in methods


def test_align_over_an_old_file_and_its_cache(crashes, place, done, tokenizer_folders):
    (place / "text.txt").write_text("The dogs watch 12 lazy foxes.\n" * 3)
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    done("align", *pair, "--method", "exact", "-o", "pair.safetensors")

    def sound():
        loads(place / "pair.safetensors", methods={"exact", "default"})
        for path in (place / "cache" / "alignments").glob("*.safetensors"):
            loads(path)

    command = ("align", *pair, "--corpus", "text.txt", "-o", "pair.safetensors")
    try_every_kill(crashes, place, command, sound, lambda: crash_states.contents(place))


def test_pairs(crashes, place, tokenizer_folders):
    pair = (tokenizer_folders.source, tokenizer_folders.target)

    def sound():
        for path in (place / "pairs").glob("*.safetensors"):
            loads(path)

    command = ("pairs", *pair, "--method", "exact", "-o", "pairs")
    try_every_kill(crashes, place, command, sound, lambda: crash_states.contents(place))


def test_audit_over_an_old_page(crashes, place, done, tokenizer_folders):
    pytest.importorskip("matplotlib")
    (place / "text.txt").write_text("The dogs watch 12 lazy foxes.\n" * 3)
    done("align", tokenizer_folders.source, tokenizer_folders.target, "--method", "exact", "-o", "pair.safetensors")
    (place / "page.html").write_text("an old page")

    def sound():
        page = (place / "page.html").read_text(encoding="utf-8")
        assert page == "an old page" or (page.startswith("<!doctype html>") and page.endswith("</html>\n"))
        return page == "an old page"

    command = ("audit", "pair.safetensors", "--text", "text.txt", "-o", "page.html")
    try_every_kill(crashes, place, command, sound, sound)


@pytest.fixture
def adapters(model_folders, tmp_path):
    """Two small adapters, old and new."""
    import torch

    from vocabridge.value_network import new_value_network, save_value_network

    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        network = new_value_network(str(model_folders.source), method="lora", rank=1)
        torch.nn.init.normal_(network.value.projection.weight, std=0.3)
        save_value_network(network, tmp_path / "adapters" / name, {"epochs": seed})
    return tmp_path / "adapters"


@pytest.mark.parametrize("over", ["nothing", "an old bridge", "the same bridge"])
def test_bridge(crashes, place, done, model_folders, model_pair, adapters, tokenizer_folders, over):
    from vocabridge.folder import load

    def command(name, strength, matrix):
        source = ("--value", adapters / name, "--alignment", matrix, "--strength", strength)
        return ("bridge", "-o", "bridge", "--base", model_folders.target, *source)

    new = command("new", 0.75, model_pair)
    if over == "an old bridge":
        models = (model_folders.source, model_folders.target)
        done("align", *models, "--method", "exact", "-o", adapters / "exact.safetensors")
        done(*command("old", 0.25, adapters / "exact.safetensors"))
    elif over == "the same bridge":
        done(*new)

    def bridge():
        (steering,) = load(place / "bridge").steerings
        return steering.strength, steering.alignment.method, steering.source.config.training["epochs"]

    def sound():
        if over != "nothing" or (place / "bridge" / "bridge.json").exists():
            assert bridge() in ((0.25, "exact", 0), (0.75, "retokenize", 1))

    def final():
        return bridge(), len(list((place / "bridge").iterdir()))

    try_every_kill(crashes, place, new, sound, final)
    assert final() == ((0.75, "retokenize", 1), 3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_train(crashes, place, model_folders, method):
    from vocabridge.value_network import load_value_network

    lines = [{"prompt": f"{n} foxes?", "response": f" {2 * n}."} for n in range(3 if method == "lora" else 1)]
    (place / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def sound():
        if (place / "values" / "value_network.json").exists():
            load_value_network(place / "values")

    def final():
        sound()
        kept = {path.name for path in (place / "values" / "checkpoints").iterdir()}
        return kept, (place / "values" / "value_network.safetensors").read_bytes()

    options = ("--method", method, "--rank", 1, "--batch-size", 1, "--dtype", "float32")
    command = ("train", "data.jsonl", "-o", "values", "--base", model_folders.source, *options)
    try_every_kill(crashes, place, command, sound, final)


def test_eval_with_records_report_and_page(crashes, place, model_folders, model_pair):
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
    try_every_kill(crashes, place, ("eval", "--data", "data.jsonl", *models, *few, *written), sound, final)


def write_gguf(path: Path) -> None:
    """Writes a Llama of one layer, with a token for each byte and one more."""
    from gguf import GGUFWriter

    from vocabridge.alignment.byteview import byte_level_alphabet

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


def test_the_conversion_of_a_gguf_file(crashes, place):
    from vocabridge.alignment import Distributions

    write_gguf(place / "tiny.gguf")
    (place / "text.txt").write_text("The dogs.\n")

    def sound():
        if (place / "said.safetensors").exists():
            Distributions.open(place / "said.safetensors")

    command = ("predict", "tiny.gguf", "--corpus", "text.txt", "--top", 2, "-o", "said.safetensors")
    try_every_kill(crashes, place, command, sound, lambda: crash_states.contents(place))


def test_a_second_run_in_a_folder_where_one_is_at_work_is_refused(crashes, place, done, model_folders, adapters):
    from vocabridge.alignment.files import at_work

    (place / "data.jsonl").write_text('{"prompt": "3 foxes?", "response": " 6."}\n')
    train = ("train", "data.jsonl", "-o", "values", "--base", model_folders.source, "--method", "lora", "--rank", 1)
    bridge = ("bridge", "-o", "bridge", "--base", model_folders.target, "--value", adapters / "new")
    for folder, command in ((place / "values", train), (place / "bridge", bridge)):
        with at_work(folder):
            ended = crashes.run(place, command)
            said = ended.stderr.splitlines()[-1]
            assert ended.status == 1
            assert said == f"error: another process is at work in {folder.name}; wait for it, or name another folder"
        assert not folder.exists()
        done(*command)
