"""Records: JSON objects, one a line, from a file, a folder of files or a data set of the hub, each with its place.

    train.jsonl                      one JSON object a line, UTF-8
    train.jsonl.gz                   the same, packed by gzip; a pipe (`<(command)`)
    folder                           all *.jsonl and *.jsonl.gz in it, by name
    hf:owner/name[:config]/split     a data set of the hub, through the `datasets` library

Files are read here and not by `datasets`: its reader does not say which line is bad, fills in fields that a record
lacks, and needs the `train` extra.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.inputs import content
from vocabridge.alignment.jsonio import parse_json
from vocabridge.utils.hashing import joined_digest

_HUB = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::([\w.-]+))?/([^/]+)")


@dataclass(frozen=True)
class Record:
    """One JSON object.

    Attributes:
        source: The file or the data set that it is from.
        number: Its line or row there, from 1.
        where: Both, as messages have it.
        fields: What it holds.
    """

    source: str
    number: int
    where: str
    fields: Mapping[str, Any]

    def string(self, name: str) -> str:
        """A field that has to be a string.

        Raises:
            VocabridgeError: It is not, or it has half a surrogate pair, which no UTF-8 can hold.
        """
        return checked_string(self.fields, name, self.where)


def checked_string(fields: Mapping[str, Any], name: str, where: str) -> str:
    """A field that has to be a string, of an object at that place; see `Record.string`."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise VocabridgeError(f'{where}, has no string "{name}"; add it')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise VocabridgeError(f'{where}, has half a surrogate pair in "{name}"; correct that line')
    return value


def read_records(source: str | Path) -> list[Record]:
    """Reads all records of a source, in order.

    Args:
        source: A JSONL file, a folder of them, or hf:owner/name[:config]/split.

    Raises:
        VocabridgeError: The source or a file of it is missing, cannot be read or holds no record, or a line is not
            UTF-8 or not a JSON object; the message names the line.
    """
    if _is_of_the_hub(source):
        rows = enumerate(_rows(str(source)), start=1)
        records = [Record(str(source), number, f"{source}, row {number}", row) for number, row in rows]
        if not records:
            raise VocabridgeError(f"{source} holds no records; name another split")
        return records
    return [record for file in _files(Path(source)) for record in _read_file(file)]


def data_digest(source: str | Path) -> str:
    """Hex SHA-256 over the unpacked bytes of the files in order; for the hub, over its rows as lines of JSON.

    Raises:
        VocabridgeError: The source is missing or cannot be read.
    """
    if _is_of_the_hub(source):
        rows = _rows(str(source))
        return joined_digest(json.dumps(row, sort_keys=True, default=str).encode() + b"\n" for row in rows)
    return joined_digest(map(_content, _files(Path(source))))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")], key=lambda file: file.name)
    if not files:
        raise VocabridgeError(f"there is no *.jsonl in {path}; name another folder, or a file")
    return files


def _content(file: Path) -> bytes:
    try:
        return content(file)
    except FileNotFoundError:
        raise VocabridgeError(f"there is no file {file}; give a JSONL file") from None
    except OSError as error:
        raise VocabridgeError(f"{file} cannot be read ({error.strerror}); give a JSONL file") from None


def _read_file(file: Path) -> list[Record]:
    text = _content(file).removeprefix(codecs.BOM_UTF8)
    lines = enumerate(text.split(b"\n"), start=1)  # not splitlines: a string may hold U+2028
    records = [_record(line, file, number) for number, line in lines if line.strip()]
    if not records:
        raise VocabridgeError(f"{file} holds no records; it needs one JSON object a line")
    return records


def _record(line: bytes, file: Path, number: int) -> Record:
    where = f"{file}, line {number}"
    try:
        fields = parse_json(line.decode())
    except UnicodeDecodeError as error:
        raise VocabridgeError(f"{where}, is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except ValueError as error:
        reason = getattr(error.__cause__, "msg", str(error))  # its line and column are not the file's
        raise VocabridgeError(f"{where}, is not valid JSON ({reason}); correct that line") from None
    if not isinstance(fields, dict):
        raise VocabridgeError(f"{where}, is not a JSON object; correct that line")
    if b"\\u" in line:  # only an escape can be half of a surrogate pair
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise VocabridgeError(f"{where}, holds half of a surrogate pair as an escape; correct that line") from None
    return Record(str(file), number, where, fields)


def _is_of_the_hub(source: str | Path) -> bool:
    return str(source).startswith("hf:")


def _rows(source: str) -> Iterator[dict[str, Any]]:
    named = _HUB.fullmatch(source)
    if named is None:
        raise VocabridgeError(f"{source} does not name a data set of the hub; write hf:owner/name[:config]/split")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise VocabridgeError("data sets of the hub need datasets; run: pip install 'vocabridge[train]'") from error
    name, config, split = named.groups()
    try:
        rows = load_dataset(name, config, split=split)
    except Exception as error:  # offline, no such data set, split or permission: the library raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabridgeError(f"{source} cannot be read ({reason}); check its name, config and split") from error
    return map(dict, rows)
