"""Records: JSON objects from a JSONL file, a folder of JSONL files or a data set of the hub.

    train.jsonl                      one JSON object on each line, UTF-8
    train.jsonl.gz                   the same, compressed by gzip; a pipe (`<(command)`) works, too
    folder                           all *.jsonl and *.jsonl.gz in it, in the order of their names
    hf:owner/name[:config]/split     a data set of the hub, through the `datasets` library

Files are not read by `datasets`, because its reader does not name the bad line, adds fields that a record lacks, and
needs the `train` extra.
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
    """A JSON object and its place in the source.

    Attributes:
        source: The file or data set that holds the record.
        number: Line or row of the record in the source, from 1.
        where: Source and number for messages, such as "train.jsonl, line 3".
        fields: The JSON object.
    """

    source: str
    number: int
    where: str
    fields: Mapping[str, Any]

    def string(self, name: str) -> str:
        """Return a field that must be a string.

        Raises:
            VocabridgeError: The field is missing or no string, or it holds half a surrogate pair, which UTF-8 cannot
                encode.
        """
        return checked_string(self.fields, name, self.where)


def checked_string(fields: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field of an object that must be a string; see `Record.string`.

    Args:
        fields: The object.
        name: The field.
        where: Place of the object, for the error message.

    Raises:
        VocabridgeError: See `Record.string`.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        raise VocabridgeError(f'{where}, has no string "{name}"; add it')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise VocabridgeError(f'{where}, has half a surrogate pair in "{name}"; correct that line')
    return value


def read_records(source: str | Path) -> list[Record]:
    """Read all records of a source, in order.

    Args:
        source: A JSONL file, a folder of them, or hf:owner/name[:config]/split.

    Raises:
        VocabridgeError: The source or one of its files is missing, cannot be read or holds no record, or a line is
            not UTF-8 or not a JSON object; the message names the line.
    """
    if _is_on_hub(source):
        rows = enumerate(_rows(str(source)), start=1)
        records = [Record(str(source), number, f"{source}, row {number}", row) for number, row in rows]
        if not records:
            raise VocabridgeError(f"{source} holds no records; name another split")
        return records
    return [record for file in _files(Path(source)) for record in _read_file(file)]


def data_digest(source: str | Path) -> str:
    """Return the SHA-256, in hexadecimal, of the data of a source.

    For files, it is the digest of their uncompressed bytes in order; for a data set of the hub, of its rows as JSON
    lines.

    Raises:
        VocabridgeError: The source is missing or cannot be read.
    """
    if _is_on_hub(source):
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
        reason = getattr(error.__cause__, "msg", str(error))  # its line and column count from this line, not the file
        raise VocabridgeError(f"{where}, is not valid JSON ({reason}); correct that line") from None
    if not isinstance(fields, dict):
        raise VocabridgeError(f"{where}, is not a JSON object; correct that line")
    if b"\\u" in line:  # only an escape sequence can hold half a surrogate pair
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise VocabridgeError(f"{where}, holds half of a surrogate pair as an escape; correct that line") from None
    return Record(str(file), number, where, fields)


def _is_on_hub(source: str | Path) -> bool:
    return str(source).startswith("hf:")


def _rows(source: str) -> Iterator[dict[str, Any]]:
    match = _HUB.fullmatch(source)
    if match is None:
        raise VocabridgeError(f"{source} does not name a data set of the hub; write hf:owner/name[:config]/split")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise VocabridgeError("data sets of the hub need datasets; run: pip install 'vocabridge[train]'") from error
    name, config, split = match.groups()
    try:
        rows = load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many types: offline, no such data set or split, no permission
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabridgeError(f"{source} cannot be read ({reason}); check its name, config and split") from error
    return map(dict, rows)
