"""Who counts what: pieces of text shared among threads and processes; no result depends on how.

Counts are whole numbers that add up, so a corpus is counted piece by piece, by any number of workers, and
the parts are added in any order. Worker k of n takes the pieces k, n + k, 2n + k, ... (`Corpus.chunks`).

Within a process two batches are counted at a time: tokenizers encode without Python's lock, so that one is
encoded while the other is counted. Processes are spawned, never forked (the tokenizers' threads do not survive
a fork); a worker that fails ends all of them with its error.

`ProcessPoolExecutor` would not do the same with less code. Before Python 3.14 it has no public way to end workers that
are at work, nor to ask a dead one's exit status, and progress from within a task would need a pipe as well.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from vocabridge.alignment.builders.base import Progress
from vocabridge.alignment.corpus import WHOLE, Corpus, Shard
from vocabridge.alignment.counting.pair_counts import PairCounts, RunningSum
from vocabridge.alignment.errors import Terminated, VocabridgeError
from vocabridge.alignment.tokenizers.tokens import Encoding
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 16
"""Pieces of text counted together: enough for the tokenizer's threads, about 1 MiB of text."""

_THREADS = 2


class BatchCounter(Protocol):
    """What is asked of a builder here."""

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; called from several threads, and pickled for other processes."""


@dataclass(frozen=True)
class Work:
    """What is to be counted, for one pair of vocabularies or for many at once.

    Attributes:
        builder: How.
        vocabularies: Each encodes every text once, however many pairs it is in.
        pairs: Source and target, by their places among the vocabularies.
    """

    builder: BatchCounter
    vocabularies: tuple[Vocabulary, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)

    def count(self, texts: Iterable[str], tell: Callable[[int], None]) -> list[PairCounts]:
        """Count texts in this process.

        Args:
            texts: Any number of them, read as they are needed.
            tell: Called with the bytes of each batch when it is counted.

        Returns:
            The counts of each pair.
        """
        once = [_Once(vocabulary) for vocabulary in self.vocabularies]
        sums = [RunningSum() for _ in self.pairs]

        def count_batch(batch: Sequence[str]) -> tuple[list[PairCounts], int]:
            counted = [self.builder.count_batch(once[source], once[target], batch) for source, target in self.pairs]
            return counted, sum(len(text.encode()) for text in batch)

        def take(future: Future[tuple[list[PairCounts], int]]) -> None:
            counted, size = future.result()
            for total, counts in zip(sums, counted, strict=True):
                total.add(counts)
            tell(size)

        running: deque[Future[tuple[list[PairCounts], int]]] = deque()
        pool = ThreadPoolExecutor(_THREADS)
        try:
            for batch in _batches(texts):
                running.append(pool.submit(count_batch, batch))
                if len(running) > _THREADS:
                    take(running.popleft())
            for future in running:
                take(future)
        finally:
            pool.shutdown(cancel_futures=True)
        return [total.total() for total in sums]


class _Once(Vocabulary):
    """A vocabulary that encodes the batch at hand once, and then hands out what it found."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        vars(self).update(vars(vocabulary), _last=threading.local())

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts in parallel; see `Vocabulary.encode_batch`."""
        last = vars(self)["_last"]
        if getattr(last, "texts", None) is not texts:
            last.texts, last.found = texts, super().encode_batch(texts)
        return list(last.found)


def count_corpus(work: Work, corpus: Corpus, progress: Progress, shard: Shard = WHOLE) -> list[PairCounts]:
    """Count a corpus, or a shard of it, in `corpus.jobs` processes.

    Returns:
        The counts of each pair of the work; they do not depend on the number of processes.

    Raises:
        VocabridgeError: The corpus cannot be read; a process ended before it was done.
    """
    total, done = corpus.bytes // shard.of, 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(min(done, total), total)

    if corpus.jobs == 1:
        return work.count(corpus.chunks(shard), tell)
    return _count_in_processes(work, corpus, shard, tell)


def _count_in_processes(work: Work, corpus: Corpus, shard: Shard, tell: Callable[[int], None]) -> list[PairCounts]:
    workers: dict[Connection, BaseProcess] = {}
    sums = [RunningSum() for _ in work.pairs]
    try:
        with _interrupts_held_back():
            for number in range(1, corpus.jobs + 1):
                ours, theirs = multiprocessing.Pipe()
                context = multiprocessing.get_context("spawn")
                workers[ours] = context.Process(target=_worker, args=(theirs, number, corpus.jobs), daemon=True)
                workers[ours].start()
                theirs.close()
        # Pickled once and sent to all at the same time: a vocabulary is some megabytes.
        message = pickle.dumps((work, corpus, shard), pickle.HIGHEST_PROTOCOL)
        with ThreadPoolExecutor(len(workers)) as pool, contextlib.suppress(OSError):  # one that is gone is met below
            list(pool.map(lambda connection: connection.send_bytes(message), workers))
        waiting = set(workers)
        while waiting:
            for connection in wait(list(waiting)):
                assert isinstance(connection, Connection)
                try:
                    said = connection.recv()
                except (EOFError, OSError):
                    raise _ended(workers[connection]) from None
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, int):
                    tell(said)
                    continue
                for total, counts in zip(sums, said, strict=True):
                    total.add(counts)
                waiting.remove(connection)
    finally:
        for connection, process in workers.items():
            if process.pid is not None:
                process.terminate()
                process.join()
            connection.close()
    return [total.total() for total in sums]


def _worker(connection: Connection, number: int, jobs: int) -> None:
    """Count one part of the pieces; say the bytes of each batch, and at the end the counts or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches every process; the first one ends the others
    os.environ["RAYON_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))  # the tokenizers' threads
    with contextlib.suppress(BrokenPipeError, EOFError):  # the first process is gone
        try:
            work, corpus, shard = pickle.loads(connection.recv_bytes())
            connection.send(work.count(corpus.chunks(shard.part(number, jobs)), connection.send))
        except (VocabridgeError, MemoryError) as error:
            connection.send(error)


def _ended(process: BaseProcess) -> VocabridgeError | Terminated:
    process.join()
    if process.exitcode == -signal.SIGTERM:  # all processes are told to end, and this one was quicker than the first
        return Terminated()
    return VocabridgeError(
        f"A counting process ended before it was done (exit status {process.exitcode}): with too little memory, "
        "take fewer jobs; in a script, align under `if __name__ == '__main__':`."
    )


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold back Ctrl-C for a moment: processes that start in it never get it, and print no traceback."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    resource_tracker.ensure_running()  # or a process's start would start it, which lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while batch := list(itertools.islice(stream, _BATCH)):
        yield batch
