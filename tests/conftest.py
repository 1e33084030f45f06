"""What all tests share: small tokenizers trained here, no network, and a cache folder of their own.

Fast tests see a new, empty cache each. Tests marked `real` share one, in which the packaged models are
converted once: the folder in VOCABRIDGE_TEST_CACHE if that is set, else the user's own.
"""

import http.server
import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from effort import THOROUGH, sample
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

for name in ("COLUMNS", "LINES"):  # a worker process of xdist inherits them, whatever the terminal
    os.environ.pop(name, None)

TEXT = [
    "The quick brown fox jumps over the lazy dog, and 12 other foxes watch the 345 dogs sleep.",
    "Question: A baker sells 24 loaves a day. How many in 7 days?\nAnswer: 24*7=168 loaves.\n#### 168",
    "def count(words):\n    return {word: words.count(word) for word in set(words)}\n",
    "Die Straße führt über Brücken; cafés, naïve déjà-vu. Привет, мир! 東京は日本の首都です。 🙂🎉",
] * 3


@dataclass(frozen=True)
class TokenizerFolders:
    """Two small tokenizers as folders with tokenizer.json, tokenizer_config.json and config.json.

    Attributes:
        source: Byte-level BPE over single digits, as SmolLM2's.
        target: BPE with "▁" for the space and byte fallback, as Gemma's; larger.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class ModelFolders:
    """Tiny random models with their tokenizers, float32, as folders that `load_model` takes.

    Attributes:
        source: Llama, 416 ids, without a bos token.
        tuned: The same with other weights: with `source`, an expert pair.
        target: Gemma-3, 704 ids, bos token; one layer with a sliding window of 8 and one with full attention.
    """

    source: Path
    tuned: Path
    target: Path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that only the thorough run tries."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("quick") and not THOROUGH:
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for several in cases.values():
        marker = several[0].get_closest_marker("quick")
        assert marker is not None
        left_out.update(set(several).difference(sample(several, *marker.args)))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get("VOCABRIDGE_TEST_CACHE"):
        os.environ["VOCABRIDGE_CACHE"] = folder


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("real") is None:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("cache")
        monkeypatch.setenv("VOCABRIDGE_CACHE", str(folder))


@pytest.fixture(scope="session")
def training_text() -> list[str]:
    return TEXT


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolders:
    folder = tmp_path_factory.mktemp("tokenizers")
    return TokenizerFolders(
        source=_save(_byte_level(400), folder / "source", size=416),
        target=_save(_sentencepiece(700), folder / "target", size=704),
    )


@pytest.fixture(scope="session")
def model_folders(tokenizer_folders: TokenizerFolders, tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """Tiny random models. Torch is imported by the tests that ask for them, and by no other."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    llama = LlamaConfig(vocab_size=416, bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape)
    gemma = Gemma3TextConfig(
        vocab_size=704,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
        **shape,
    )
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {"source": LlamaForCausalLM(llama), "tuned": LlamaForCausalLM(llama)}
        models["target"] = Gemma3ForCausalLM(gemma)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer = tokenizer_folders.target if name == "target" else tokenizer_folders.source
        shutil.copy(tokenizer / "tokenizer.json", folder / name)
        settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
        settings["add_bos_token"] = name == "target"
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
    return ModelFolders(**{name: folder / name for name in models})


@pytest.fixture
def own(model_folders: ModelFolders, tmp_path: Path) -> Path:
    """Copies of the tiny models, which a test may change."""
    for name, folder in vars(model_folders).items():
        shutil.copytree(folder, tmp_path / name)
    return tmp_path


@pytest.fixture
def hub():
    """A hub that answers every request with this status and these headers."""
    servers = []

    def hub(status, **headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                if "/resolve/" in self.path:
                    requests.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD  # noqa: N815

            def log_message(self, *_):
                pass

        requests = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", requests

    yield hub
    for server in servers:
        server.shutdown()
        server.server_close()


def _byte_level(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _sentencepiece(size: int) -> Tokenizer:
    specials = ["<|begin|>", "<|end|>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*specials, *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    # Only the first three are special; the trainer knows no other way to give the byte tokens their places.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(content, special=True) for content in specials])
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path, *, size: int) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    return folder
