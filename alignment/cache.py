"""The cache of built alignments: addressed by content, written whole, built once, rebuilt when damaged.

An entry's key is a hash over everything that decides its counts: both fingerprints, the method with its
parameters, the corpus, and the version of the format. Names, roles and unused rows do not count (an entry is fitted
to the vocabularies that ask for it), and a changed tokenizer is another key.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from vocabridge.alignment.alignment import FORMAT, Alignment
from vocabridge.alignment.builders.base import Builder, Progress
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes:
        path: Where it is.
        bytes: Its size.
        alignment: What it holds; None if it is damaged.
        problem: What is wrong with it; None if nothing is.
    """

    path: Path
    bytes: int
    alignment: Alignment | None
    problem: str | None


class Prune(enum.Enum):
    """What to remove from the cache. What killed builds left behind always goes.

    Attributes:
        DAMAGED: Entries that cannot be read.
        ALL: Every entry.
    """

    DAMAGED = enum.auto()
    ALL = enum.auto()


def cache_folder() -> Path:
    """Return the cache's folder: VOCABRIDGE_CACHE if set, else the platform's place for caches."""
    return Path(os.environ.get("VOCABRIDGE_CACHE") or platformdirs.user_cache_dir("vocabridge"))


def cached_alignment(
    builder: Builder,
    source: Vocabulary,
    target: Vocabulary,
    corpus: Corpus | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Take an alignment from the cache, or build it and put it there.

    Processes that want the same one at the same time wait for the first to build it. An entry that is there is taken
    from a cache that can only be read, too. An entry that is damaged is built again, with a warning to the logger
    "vocabridge"; so is one that cannot be stored, which is only returned.

    Raises:
        VocabridgeError: As `Builder.build`; or the cache's folder cannot be used.
    """
    path = _alignments() / f"{_key(builder, source, target, corpus)}.safetensors"
    with contextlib.suppress(VocabridgeError):  # entries are written whole, so that reading one needs no lock
        return Alignment.load(path, source=source, target=target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise VocabridgeError(
            f"{path.parent}: the cache cannot be used ({error.strerror or error}); "
            "set VOCABRIDGE_CACHE to a folder that can be written."
        ) from error
    try:
        if path.exists():
            try:
                return Alignment.load(path, source=source, target=target)
            except VocabridgeError as error:
                logger.warning("Building a damaged cache entry again: %s", error)
        built = builder.build(source, target, corpus, progress)
        try:
            built.save(path)
        except VocabridgeError as error:
            logger.warning("The alignment was built but not cached: %s", error)
        return built
    finally:
        lock.release()


def entries() -> list[Entry]:
    """Read and check every entry of the cache, in the order of their names."""
    found = []
    for path in sorted(_alignments().glob("*.safetensors")):
        try:
            alignment, problem = Alignment.load(path), None
        except VocabridgeError as error:
            alignment, problem = None, str(error)
        found.append(Entry(path, path.stat().st_size, alignment, problem))
    return found


def prune(what: Prune = Prune.DAMAGED) -> list[Path]:
    """Remove entries, and what killed builds left behind; what is being built at the moment stays.

    Returns:
        The files that were removed.
    """
    doomed = {entry.path for entry in entries() if what is Prune.ALL or entry.problem is not None}
    by_key: dict[str, list[Path]] = {}
    for path in sorted(_alignments().glob("*")):
        by_key.setdefault(path.name.lstrip(".").split(".")[0], []).append(path)
    removed = []
    for key, paths in by_key.items():
        lock = FileLock(_alignments() / f"{key}.lock")
        try:
            with lock.acquire(timeout=0):
                gone = [p for p in paths if p in doomed or p.suffix == ".part"]
                for path in gone:
                    path.unlink(missing_ok=True)
        except Timeout:
            continue
        removed += gone
        if not (_alignments() / f"{key}.safetensors").exists():
            Path(lock.lock_file).unlink(missing_ok=True)
    return removed


def _alignments() -> Path:
    return cache_folder() / "alignments"


def _key(builder: Builder, source: Vocabulary, target: Vocabulary, corpus: Corpus | None) -> str:
    facts = {
        "format": FORMAT,
        "method": builder.method,
        "parameters": builder.parameters,
        "source": source.fingerprint,
        "target": target.fingerprint,
        "corpus": None if corpus is None else corpus.digest,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
