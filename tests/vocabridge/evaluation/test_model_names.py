"""Models are named as the user named them, wherever their files are."""

from __future__ import annotations

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.models import loading as models
from vocabridge.models.loading import check_model, load_model, resolve_vocabulary
from vocabridge.models.packaged import PACKAGED, PackagedModel


@pytest.fixture
def packaged(monkeypatch, model_folders) -> str:
    """A packaged model whose converted files are in a folder of the cache."""
    package = PackagedModel(module="json", requirement="tiny==1", gguf=lambda package, _: package)
    monkeypatch.setitem(PACKAGED, "tiny", package)
    monkeypatch.setattr(models, "_converted_package", lambda *_: model_folders.target)
    return "tiny"


def test_a_packaged_model_has_its_short_name_and_no_path_of_the_cache(packaged):
    loaded = load_model(packaged)
    assert (loaded.name, loaded.vocabulary.name, loaded.model.name_or_path) == ("tiny", "tiny", "tiny")
    assert resolve_vocabulary(packaged).name == "tiny"


def test_whether_there_is_a_model_is_known_without_reading_it(packaged, monkeypatch, own):
    check_model(packaged)
    (own / "target" / "model.safetensors").write_bytes(b"")
    check_model(str(own / "target"))
    monkeypatch.setitem(PACKAGED, "gone", PackagedModel("no_such_module", "gone==1", lambda *_: own))
    for name, says in (
        ("gone", "gone is not installed; run: pip install gone==1"),
        (str(own / "nowhere.gguf"), r"there is no file .*nowhere\.gguf"),
        (str(own / "nowhere"), "no such file or folder"),
        (str(own), "holds no model, as there is no config.json"),
    ):
        with pytest.raises(VocabridgeError, match=says):
            check_model(name)
