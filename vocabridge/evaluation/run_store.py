"""The store of a run: a folder to which an evaluation writes each result at once, so that it can be resumed.

    run.json           what is measured (`config`): models by digest or commit, data by SHA-256, settings
    records-0.jsonl    the results, one JSON object a line, with a checksum of the line; each process has its own file

The key of a record is a contender, a part of the measurement ("setting", "reading", "writing", "choosing" or "cost")
and, for most parts, an item. The same evaluation continues where it was stopped; a different one is an error. A report
is computed from the records alone.
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
FORMAT = 5

Key = tuple[str, str, int | None]
"""The name of a contender, a part of the measurement, and the number of an item or None."""

_CHECKSUM_DIGITS = 16
_CHECKSUM = b', "sha256": "%s"}'


class Workers:
    """The processes that share a run, started by a launcher (`accelerate launch`, `torchrun`).

    Attributes:
        rank: The number of this process, from 0.
        count: The number of processes.
    """

    def __init__(self) -> None:
        """Join the other processes, if there are any."""
        self.rank, self.count, self._state = 0, 1, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise VocabridgeError(
                    "several processes need accelerate; run: pip install 'vocabridge[train]'"
                ) from error
            import torch

            # The other processes wait while the first one fits weights, which may take hours.
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(weeks=1))
            self.rank, self.count = self._state.process_index, self._state.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that does what must be done once."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this process; "cuda" becomes a GPU of its own for each process."""
        return str(self._state.device) if self._state is not None and name == "cuda" else name

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self._state is not None:
            self._state.wait_for_everyone()


class RunStore:
    """The records of an evaluation.

    Attributes:
        workers: The processes that share the run.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], workers: Workers) -> None:
        """Create a run, or resume one with the same config.

        Args:
            folder: The folder, which is created if necessary.
            config: What is measured, as values that JSON can represent. It may have entries that an earlier call
                lacked.
            workers: The processes that share the run.

        Raises:
            VocabridgeError: The folder holds a different evaluation, another process uses it, or it cannot be
                written.
        """
        self.workers = workers
        self._folder = folder
        self._records: dict[Key, dict[str, Any]] = {}
        self._file = folder / f"records-{workers.rank}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".lock-{workers.rank}", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise VocabridgeError(
                f"another evaluation is at work in {folder}; wait for it, or name another folder"
            ) from None
        except OSError as error:
            raise VocabridgeError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
        try:
            if workers.is_first:
                self._agree(config)
                for file in self._files():
                    _drop_partial_record(file)
            workers.wait()
            self.reload()
        except VocabridgeError:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock on the folder."""
        self._lock.release()

    def reload(self) -> None:
        """Read the records that all processes have written.

        Raises:
            VocabridgeError: A line is not a record.
        """
        self._records = {}
        for file in self._files():
            for number, line in enumerate(file.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
                if not line and number == 1:
                    break  # an empty file
                try:
                    row = _from_line(line)
                    key = row["contender"], row["part"], row["item"]
                except (ValueError, KeyError, TypeError) as error:
                    raise VocabridgeError(
                        f"{file}, line {number}, is not a record ({error}); remove that line"
                    ) from None
                self._records.setdefault(key, row)

    def get(self, contender: str, part: str, item: int | None = None) -> dict[str, Any] | None:
        """Return a record, or None if there is none."""
        return self._records.get((contender, part, item))

    def append(self, contender: str, part: str, rows: Mapping[Any, Mapping[str, Any]]) -> None:
        """Write records to the file of this process at once.

        Args:
            contender: The name of the contender.
            part: The part of the measurement.
            rows: The measured values, by item.

        Raises:
            VocabridgeError: The file cannot be written, for example because the disk is full.
        """
        lines = b""
        for item, values in rows.items():
            row = {"contender": contender, "part": part, "item": item, **values}
            self._records.setdefault((contender, part, item), row)
            lines += _to_line(row)
        try:
            with self._file.open("ab") as file:
                file.write(lines)
        except OSError as error:
            raise VocabridgeError(f"{self._file} cannot be written ({error.strerror}); free some space") from error

    def setting(self, contender: str, choose: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the setting of a contender. If it is not recorded, the first process chooses and records it."""
        if self.get(contender, "setting") is None:
            if self.workers.is_first:
                self.append(contender, "setting", {None: choose()})
            self.workers.wait()
            self.reload()
        setting = self.get(contender, "setting")
        assert setting is not None
        return setting

    def pending(self, contender: str, part: str, units: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return those of some groups of items, measured together, of which a record is missing."""
        return [[*unit] for unit in units if any(self.get(contender, part, item) is None for item in unit)]

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("records-*.jsonl"))

    def _agree(self, config: Mapping[str, Any]) -> None:
        """Compare the config with that of `run.json`, and write both together."""
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
                    f"{path} is of format {number}, and this version continues format {FORMAT}; name another folder"
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
        merged = _document(known | plain)
        write_atomically(path, (json.dumps(merged, indent=2, ensure_ascii=False) + "\n").encode())


def _document(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `run.json`."""
    return {"format": FORMAT, "sha256": json_digest(config), "config": config}


def _to_line(row: Mapping[str, Any]) -> bytes:
    """Return a record as a line, whose last entry is a hash of the line without this entry."""
    line = json.dumps(row, ensure_ascii=False).encode()
    return line[:-1] + _CHECKSUM % digest(line)[:_CHECKSUM_DIGITS].encode() + b"\n"


def _from_line(line: bytes) -> dict[str, Any]:
    """Return the record of a line.

    Raises:
        ValueError: The line is altered, or not a record.
    """
    size = len(_CHECKSUM % bytes(_CHECKSUM_DIGITS))
    row = line[:-size] + b"}"
    if line[-size:] != _CHECKSUM % digest(row)[:_CHECKSUM_DIGITS].encode():
        raise ValueError("its checksum differs, so it is altered or damaged")
    record: dict[str, Any] = parse_json(row)
    return record


def _drop_partial_record(file: Path) -> None:
    """Remove an unfinished last line, which remains when a process is killed while it writes."""
    data = file.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(file, data.rfind(b"\n") + 1)
