"""The content-addressed cache of built alignments.

An entry's key is a hash over everything that determines its counts: both fingerprints, the method with its
parameters, the corpus, and the version of the format. A changed tokenizer therefore has another key. Names, roles and
unused rows are not part of the key, because an entry is fitted to the requested vocabularies when it is loaded.
Entries are written atomically, built by one process at a time, and rebuilt when they are damaged.
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
from vocabridge.alignment.builders.base import Builder, Progress, no_progress
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.files import PART
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes:
        path: The file.
        bytes: The size of the file.
        alignment: The alignment in the file; None if the file is damaged.
        problem: The reason why the file cannot be read; None if it can.
    """

    path: Path
    bytes: int
    alignment: Alignment | None
    problem: str | None


class Prune(enum.Enum):
    """Which entries to remove from the cache. Temporary files of killed builds are always removed.

    Attributes:
        DAMAGED: Entries that cannot be read.
        ALL: Every entry.
    """

    DAMAGED = enum.auto()
    ALL = enum.auto()


def cache_folder() -> Path:
    """Return the cache's folder: the environment variable VOCABRIDGE_CACHE if set, else the platform's default."""
    return Path(os.environ.get("VOCABRIDGE_CACHE") or platformdirs.user_cache_dir("vocabridge"))


def cached_alignment(
    builder: Builder,
    source: Vocabulary,
    target: Vocabulary,
    corpus: Corpus | None = None,
    progress: Progress = no_progress,
) -> Alignment:
    """Load an alignment from the cache, or build and store it.

    If several processes request the same alignment, one builds it and the others wait. Entries of a read-only cache
    are used, too. A damaged entry is rebuilt, with a warning to the logger "vocabridge". An alignment that cannot be
    stored is returned, with a warning.

    Raises:
        VocabridgeError: As for `Builder.build`; or the cache's folder cannot be used.
    """
    path = _alignments() / f"{_key(builder, source, target, corpus)}.safetensors"
    with contextlib.suppress(VocabridgeError):  # entries are written atomically, so reading needs no lock
        return Alignment.load(path, source=source, target=target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise VocabridgeError(
            f"{path.parent}: the cache cannot be used ({error.strerror or error}); "
            "set VOCABRIDGE_CACHE to a folder that can be written"
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
    """Read and check all entries of the cache, sorted by name."""
    checked = []
    for path in sorted(_alignments().glob("*.safetensors")):
        try:
            alignment, problem = Alignment.load(path), None
        except VocabridgeError as error:
            alignment, problem = None, str(error)
        checked.append(Entry(path, path.stat().st_size, alignment, problem))
    return checked


def prune(what: Prune = Prune.DAMAGED) -> list[Path]:
    """Remove entries, and temporary files of killed builds. An entry that is being built stays.

    Args:
        what: Which entries to remove.

    Returns:
        The files that were removed.
    """
    obsolete = {entry.path for entry in entries() if what is Prune.ALL or entry.problem is not None}
    by_key: dict[str, list[Path]] = {}
    for path in sorted(_alignments().glob("*")):
        by_key.setdefault(path.name.lstrip(".").split(".")[0], []).append(path)
    removed = []
    for key, paths in by_key.items():
        lock = FileLock(_alignments() / f"{key}.lock")
        try:
            with lock.acquire(timeout=0):
                to_remove = [path for path in paths if path in obsolete or path.suffix == PART]
                for path in to_remove:
                    path.unlink(missing_ok=True)
        except Timeout:
            continue
        removed += to_remove
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
