"""Tokenizers of every kind, trained here: no network, no packaged model."""

from __future__ import annotations

import itertools

import pytest
from tokenizer_kinds import KINDS, ROLES, TEXT, train
from tokenizers import Tokenizer

from vocabridge.alignment import Vocabulary


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    return {kind: train(kind) for kind in KINDS}


@pytest.fixture(scope="session")
def vocabularies(tokenizers_by_kind: dict[str, Tokenizer]) -> dict[str, Vocabulary]:
    return {
        kind: Vocabulary.from_tokenizer(tokenizer, name=kind, roles=ROLES)
        for kind, tokenizer in tokenizers_by_kind.items()
    }


@pytest.fixture(scope="session", params=KINDS)
def vocabulary(request: pytest.FixtureRequest, vocabularies: dict[str, Vocabulary]) -> Vocabulary:
    return vocabularies[request.param]


@pytest.fixture(scope="session", params=itertools.product(KINDS, KINDS), ids="->".join)
def pair(request: pytest.FixtureRequest, vocabularies: dict[str, Vocabulary]) -> tuple[Vocabulary, Vocabulary]:
    source, target = request.param
    return vocabularies[source], vocabularies[target]


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's cache."""
    monkeypatch.setenv("VOCABRIDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
