"""A corpus: any number of UTF-8 text files, read as a stream of pieces that no token should straddle.

Files may be packed by gzip, may be pipes, and may begin with a byte order mark, which is no part of the text.
A piece is about 64 KiB and ends after a line where it can, else before a space, else between two
characters, so that the memory needed does not depend on the size or shape of a file. Piece i belongs to
shard i mod n, for any n: who counts what depends on the text alone.
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

_AFTER_LINE = re.compile(r".*\n(?=\S)", re.DOTALL)  # blank lines and indents stay together
_BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)


@dataclass(frozen=True)
class Shard:
    """Every n-th piece of a corpus; the n shards together are all of it, each piece once.

    Attributes:
        index: Which one, from 1 on.
        of: How many there are.

    Raises:
        VocabridgeError: It is not 1 <= index <= of.
    """

    index: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise VocabridgeError(f"There is no shard {self}; count from 1, as in 1/8 to 8/8.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            VocabridgeError: It is not two numbers with 1 <= i <= n.
        """
        if not (match := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
            raise VocabridgeError(f"{text!r} is not a shard; write it as i/n, for instance 1/8.")
        return cls(int(match[1]), int(match[2]))

    def part(self, index: int, of: int) -> Shard:
        """Return one of the equal parts of this shard, index from 1 on."""
        return Shard(self.index + self.of * (index - 1), self.of * of)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


WHOLE = Shard()
"""The only shard of one."""


@dataclass(frozen=True)
class CorpusCard:
    """What an alignment remembers of the corpus it was counted on.

    Attributes:
        digest: Hex SHA-256 over the files' contents in order.
        files: The number of files.
        bytes: Their bytes together.
    """

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Corpus:
    """Text files, in order.

    Attributes:
        files: The files' paths.
        jobs: How many processes share the counting; no result depends on it.
    """

    files: tuple[Path, ...]
    jobs: int = field(default=1, compare=False)

    @classmethod
    def open(cls, paths: Iterable[str | Path]) -> Corpus:
        """Take files, and all files below folders (in the order of their names, hidden ones left out).

        Raises:
            VocabridgeError: A path does not exist, or there is no text at all.
        """
        files: list[Path] = []
        for path in map(Path, paths):
            if path.is_dir():
                below = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
                shown = [file for file in below if not any(part.startswith(".") for part in file.parts)]
                files += [path / file for file in sorted(shown)]
            elif (file := _plain_file(path)).is_file():
                files.append(file)
            else:
                raise VocabridgeError(f"{path}: no such corpus file; give the path of a UTF-8 text file or folder.")
        corpus = cls(tuple(files))
        if corpus.bytes == 0:
            named = ", ".join(map(str, files)) or "no file"
            raise VocabridgeError(f"The corpus is empty ({named}); give at least one file with text in it.")
        return corpus

    def in_processes(self, jobs: int) -> Corpus:
        """Return the same corpus, counted by so many processes.

        Raises:
            VocabridgeError: It is not 1 or more.
        """
        if jobs < 1:
            raise VocabridgeError(f"The number of jobs is {jobs}; take 1 or more.")
        return dataclasses.replace(self, jobs=jobs)

    @functools.cached_property
    def bytes(self) -> int:
        """The bytes of all files together, unpacked."""
        return sum(map(_size, self.files))

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over the files' unpacked contents in order; names do not count."""
        total = hashlib.sha256()
        for file in self.files:
            one = hashlib.sha256()
            for block in _blocks(file):
                one.update(block)
            total.update(one.digest())
        return total.hexdigest()

    @property
    def card(self) -> CorpusCard:
        """What an alignment keeps of it."""
        return CorpusCard(self.digest, len(self.files), self.bytes)

    def chunks(self, shard: Shard = WHOLE) -> Iterator[str]:
        """Yield the text in pieces of about 64 KiB; a piece never spans two files.

        Args:
            shard: Which of the pieces; all files are read for any.

        Raises:
            VocabridgeError: A file is not UTF-8 (the message names the byte), or cannot be read.
        """
        return itertools.islice(self._pieces(), shard.index - 1, None, shard.of)

    def _pieces(self) -> Iterator[str]:
        for file in self.files:
            decoder = codecs.getincrementaldecoder("utf-8-sig")()
            rest, read = "", 0
            for block in _blocks(file):
                cut = _cut(rest)  # only now is it sure that the text goes on
                if cut:
                    yield rest[:cut]
                rest = rest[cut:]
                try:
                    rest += decoder.decode(block)
                except UnicodeDecodeError as error:
                    # the decoder counts from the bytes it held back, which came before this block
                    at = read + error.start - (len(error.object) - len(block))
                    raise VocabridgeError(
                        f"{file}: not UTF-8 text at byte {at}; convert the file to UTF-8 or leave it out."
                    ) from error
                read += len(block)
            if decoder.getstate()[0]:
                at = read - len(decoder.getstate()[0])
                raise VocabridgeError(f"{file}: ends in the middle of a character at byte {at}; the file is cut off.")
            if rest:
                yield rest


def _blocks(file: Path) -> Iterator[bytes]:
    with _unreadable(file):
        yield from inputs.blocks(file, PIECE)


def _size(file: Path) -> int:
    with _unreadable(file):
        return inputs.size(file)


def _plain_file(path: Path) -> Path:
    with _unreadable(path):
        return inputs.plain_file(path)


@contextlib.contextmanager
def _unreadable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VocabridgeError(f"{file}: cannot be read ({error.strerror or error}).") from error


def _cut(text: str) -> int:
    """Return where to cut a text that goes on: after a line, else before a space, else at its end."""
    found = _AFTER_LINE.match(text) or _BEFORE_SPACE.match(text)
    return found.end() if found else len(text)
