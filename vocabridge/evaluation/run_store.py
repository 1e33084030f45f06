"""A run: a folder in which an evaluation writes down each result as it comes, so that it can be stopped at any time.

    run.json           what is measured: models by digest or commit, data by SHA-256, settings (its `config`)
    records-0.jsonl    what was measured, one JSON object a line, with a checksum of the line; of several processes each
                       has a file of its own

A record is of a contender, of a part of the work ("setting", "reading", "writing", "choosing" or "cost") and mostly of
an item. The same evaluation goes on where the last one stopped; another one is refused. Everything that is reported is
made of the records alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vocabridge.alignment import VocabridgeError, write_atomically
from vocabridge.alignment.jsonio import parse_json, read_json_object
from vocabridge.utils.hashing import digest, json_digest

RUN = "run.json"
FORMAT = 4

Key = tuple[str, str, int | None]
"""A contender's name, a part of the work, and the number of an item or None."""


_SEAL_DIGITS = 16
_SEAL = b', "sha256": "%s"}'


class Workers:
    """The processes that share a run, as a launcher (`accelerate launch`, `torchrun`) numbers them.

    Attributes:
        rank: The number of this one.
        count: How many there are.
    """

    def __init__(self) -> None:
        """Joins the others, if there are any."""
        self.rank, self.count, self._state = 0, 1, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise VocabridgeError(
                    "several processes need accelerate; run: pip install 'vocabridge[train]'"
                ) from error
            import torch

            # While the first process fits weights, the others wait.
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(weeks=1))
            self.rank, self.count = self._state.process_index, self._state.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this process does what only one should."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process: of "cuda", each has its own."""
        return str(self._state.device) if self._state is not None and name == "cuda" else name

    def wait(self) -> None:
        """Waits for the others."""
        if self._state is not None:
            self._state.wait_for_everyone()


class Run:
    """The records of an evaluation.

    Attributes:
        workers: The processes that share it.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], workers: Workers) -> None:
        """Begins a run, or takes up one with the same config.

        Args:
            folder: Made if absent.
            config: What is measured, of values that JSON knows. What an earlier call did not name may be added.
            workers: The processes that share it.

        Raises:
            VocabridgeError: The folder holds another evaluation, another process is at work in it, or it cannot be
                written.
        """
        self.workers = workers
        self._folder = folder
        self._records: dict[Key, dict[str, Any]] = {}
        self._own = folder / f"records-{workers.rank}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".lock-{workers.rank}", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise VocabridgeError(
                f"an evaluation is at work in {folder}; wait for it, or name another folder"
            ) from None
        except OSError as error:
            raise VocabridgeError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
        try:
            if workers.is_first:
                self._agree(config)
                for file in self._files():
                    _mend(file)
            workers.wait()
            self.reload()
        except VocabridgeError:
            self.close()
            raise

    def close(self) -> None:
        """Lets others work in the folder."""
        self._lock.release()

    def reload(self) -> None:
        """Reads what all processes have written down.

        Raises:
            VocabridgeError: A line is no record.
        """
        self._records = {}
        for file in self._files():
            for number, line in enumerate(file.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
                if not line and number == 1:
                    break  # nothing is measured yet
                try:
                    row = _opened(line)
                    key = row["contender"], row["part"], row["item"]
                except (ValueError, KeyError, TypeError) as error:
                    raise VocabridgeError(f"{file}, line {number}, is no record ({error}); remove that line") from None
                self._records.setdefault(key, row)

    def get(self, contender: str, part: str, item: int | None = None) -> dict[str, Any] | None:
        """A record; None if it is not there."""
        return self._records.get((contender, part, item))

    def append(self, contender: str, part: str, rows: Mapping[Any, Mapping[str, Any]]) -> None:
        """Writes records down at once: by item, what was measured.

        Raises:
            VocabridgeError: The disk is full.
        """
        lines = b""
        for item, values in rows.items():
            row = {"contender": contender, "part": part, "item": item, **values}
            self._records.setdefault((contender, part, item), row)
            lines += _sealed(row)
        try:
            with self._own.open("ab") as file:
                file.write(lines)
        except OSError as error:
            raise VocabridgeError(f"{self._own} cannot be written ({error.strerror}); free some space") from error

    def setting(self, contender: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What a contender was set to; the first process makes it, the others wait for it."""
        if self.get(contender, "setting") is None:
            if self.workers.is_first:
                self.append(contender, "setting", {None: make()})
            self.workers.wait()
            self.reload()
        found = self.get(contender, "setting")
        assert found is not None
        return found

    def pending(self, contender: str, part: str, units: Sequence[Sequence[int]]) -> list[list[int]]:
        """Of groups of items that are measured together, those that are not all there."""
        return [[*unit] for unit in units if any(self.get(contender, part, item) is None for item in unit)]

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("records-*.jsonl"))

    def _agree(self, config: Mapping[str, Any]) -> None:
        path = self._folder / RUN
        known: dict[str, Any] = {}
        if path.exists():
            try:
                document = read_json_object(path)
            except ValueError as error:
                raise VocabridgeError(f"{path} is damaged ({error}); name another folder") from error
            known, number = document.get("config", {}), document.get("format")
            if number != FORMAT:
                raise VocabridgeError(
                    f"{path} is of format {number}, and this version goes on with {FORMAT}; name another folder"
                )
            if document != _document(known):
                raise VocabridgeError(f"{path} is altered or damaged; name another folder")
        plain = json.loads(json.dumps(config))
        for name in plain.keys() & known.keys():
            if plain[name] != known[name]:
                raise VocabridgeError(
                    f"{self._folder} holds an evaluation with another {name} ({known[name]}, now {plain[name]}); "
                    "name another folder"
                )
        agreed = _document(known | plain)
        write_atomically(path, (json.dumps(agreed, indent=2, ensure_ascii=False) + "\n").encode())


def _document(config: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` holds."""
    return {"format": FORMAT, "sha256": json_digest(config), "config": config}


def _sealed(row: Mapping[str, Any]) -> bytes:
    """A record as a line, whose last entry is the hash of the line without it."""
    line = json.dumps(row, ensure_ascii=False).encode()
    return line[:-1] + _SEAL % digest(line)[:_SEAL_DIGITS].encode() + b"\n"


def _opened(line: bytes) -> dict[str, Any]:
    """The record in a line.

    Raises:
        ValueError: The line is altered, or no record.
    """
    size = len(_SEAL % bytes(_SEAL_DIGITS))
    row = line[:-size] + b"}"
    if line[-size:] != _SEAL % digest(row)[:_SEAL_DIGITS].encode():
        raise ValueError("its checksum differs: it is altered or damaged")
    record: dict[str, Any] = parse_json(row)
    return record


def _mend(file: Path) -> None:
    """Drops the beginning of a record that was being written when its process was killed."""
    data = file.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(file, data.rfind(b"\n") + 1)
