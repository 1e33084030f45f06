"""A corpus: UTF-8 text files, read as a stream of pieces that are cut where tokens rarely cross.

Files may be compressed with gzip, may be pipes, and may begin with a byte order mark, which is skipped. A piece has
about 64 KiB. It ends after a line if possible, else before a space, else between two characters, so memory does not
depend on the size or shape of a file. Piece i belongs to shard i mod n for any n, so a shard is determined by the text
alone.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vocabridge.alignment import inputs
from vocabridge.alignment.errors import VocabridgeError

PIECE = 1 << 16
"""The bytes of a piece, approximately."""

_AFTER_LINE = re.compile(r".*\n(?=\S)", re.DOTALL)  # blank lines and indents stay together
_BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)


@dataclass(frozen=True)
class Shard:
    """Every n-th piece of a corpus. The n shards together hold each piece once.

    Attributes:
        index: The number of the shard, counted from 1.
        of: The number of shards, n.

    Raises:
        VocabridgeError: `index` is not from 1 to `of`.
    """

    index: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise VocabridgeError(f"there is no shard {self}; count from 1, as in 1/8 to 8/8")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse "i/n".

        Raises:
            VocabridgeError: The text is not two numbers with 1 <= i <= n.
        """
        if not (match := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
            raise VocabridgeError(f"{text!r} is not a shard; write it as i/n, for instance 1/8")
        return cls(int(match[1]), int(match[2]))

    def part(self, index: int, of: int) -> Shard:
        """Split this shard into `of` equal shards and return the one of this number, counted from 1."""
        return Shard(self.index + self.of * (index - 1), self.of * of)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


WHOLE = Shard()
"""The corpus as a single shard."""


@dataclass(frozen=True)
class CorpusCard:
    """A corpus as an alignment records it.

    Attributes:
        digest: Hex SHA-256 over the files' contents in order.
        files: The number of files.
        bytes: The number of bytes of all files.
    """

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Corpus:
    """Text files, in order.

    Attributes:
        files: The files' paths.
        jobs: The number of processes that count. It does not affect any result.
    """

    files: tuple[Path, ...]
    jobs: int = field(default=1, compare=False)

    @classmethod
    def open(cls, paths: Iterable[str | Path]) -> Corpus:
        """Open files, and all files below folders, sorted by name and without hidden files.

        Raises:
            VocabridgeError: A path does not exist or cannot be read, or there is no text.
        """
        files: list[Path] = []
        for path in map(Path, paths):
            if path.is_dir():
                below = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
                visible = [file for file in below if not any(part.startswith(".") for part in file.parts)]
                files += [path / file for file in sorted(visible)]
            elif (file := _plain_file(path)).is_file():
                files.append(file)
            else:
                raise VocabridgeError(f"{path}: no such corpus file; give the path of a UTF-8 text file or folder")
        corpus = cls(tuple(files))
        if corpus.bytes == 0:
            listed = ", ".join(map(str, files)) or "no file"
            raise VocabridgeError(f"the corpus is empty ({listed}); give at least one file with text in it")
        return corpus

    def in_processes(self, jobs: int) -> Corpus:
        """Return the same corpus, to be counted by this number of processes.

        Raises:
            VocabridgeError: The number is less than 1.
        """
        if jobs < 1:
            raise VocabridgeError(f"the number of jobs is {jobs}; take 1 or more")
        return dataclasses.replace(self, jobs=jobs)

    @functools.cached_property
    def bytes(self) -> int:
        """The number of bytes of all files together, decompressed."""
        return sum(map(_size, self.files))

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over the files' decompressed contents in order, without their names."""
        corpus_digest = hashlib.sha256()
        for file in self.files:
            file_digest = hashlib.sha256()
            for block in _blocks(file):
                file_digest.update(block)
            corpus_digest.update(file_digest.digest())
        return corpus_digest.hexdigest()

    @property
    def card(self) -> CorpusCard:
        """The corpus as an alignment records it."""
        return CorpusCard(self.digest, len(self.files), self.bytes)

    def chunks(self, shard: Shard = WHOLE) -> Iterator[str]:
        """Yield the text in pieces of about 64 KiB; a piece never spans two files.

        Args:
            shard: Which pieces to yield. All files are read for any shard.

        Raises:
            VocabridgeError: A file is not UTF-8 (the message names the byte), or cannot be read.
        """
        return itertools.islice(self._pieces(), shard.index - 1, None, shard.of)

    def _pieces(self) -> Iterator[str]:
        for file in self.files:
            decoder = codecs.getincrementaldecoder("utf-8-sig")()
            pending, bytes_read = "", 0
            for block in _blocks(file):
                cut = _cut(pending)  # another block shows that the text continues
                if cut:
                    yield pending[:cut]
                pending = pending[cut:]
                try:
                    pending += decoder.decode(block)
                except UnicodeDecodeError as error:
                    # the decoder's offset also counts bytes that it held back from earlier blocks
                    at = bytes_read + error.start - (len(error.object) - len(block))
                    raise VocabridgeError(
                        f"{file}: not UTF-8 text at byte {at}; convert the file to UTF-8 or leave it out"
                    ) from error
                bytes_read += len(block)
            if decoder.getstate()[0]:
                at = bytes_read - len(decoder.getstate()[0])
                raise VocabridgeError(
                    f"{file}: ends in the middle of a character at byte {at}; the file is cut off, get it again"
                )
            if pending:
                yield pending


def _blocks(file: Path) -> Iterator[bytes]:
    with _named_errors(file):
        yield from inputs.blocks(file, PIECE)


def _size(file: Path) -> int:
    with _named_errors(file):
        return inputs.size(file)


def _plain_file(path: Path) -> Path:
    with _named_errors(path):
        return inputs.plain_file(path)


@contextlib.contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Turn an OSError into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise VocabridgeError(f"{file}: cannot be read ({error.strerror or error})") from error


def _cut(text: str) -> int:
    """Return where to cut a text that continues: after a line, else before a space, else at its end."""
    match = _AFTER_LINE.match(text) or _BEFORE_SPACE.match(text)
    return match.end() if match else len(text)
