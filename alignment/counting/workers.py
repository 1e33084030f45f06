"""Count a corpus in threads and processes. The result does not depend on their number.

Counts are integers, so any number of workers may count pieces of the corpus, and their counts may be added in any
order. Worker k of n counts the pieces k, n + k, 2n + k, ... (`Corpus.chunks`).

Within a process two threads work on batches, because tokenizers encode without Python's global lock: one batch is
encoded while another is counted. Processes are spawned and not forked, because the tokenizers' threads do not survive a
fork. If a worker fails, all workers are terminated, and its error is raised.

`ProcessPoolExecutor` would not make this code shorter. Before Python 3.14 it has no public way to terminate running
workers or to get the exit status of a dead one, and progress within a task would need a pipe as well.
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
"""Pieces of text in a batch, about 1 MiB: enough for the tokenizer's threads."""

_THREADS = 2
"""Batches that are counted at the same time in a process."""


class BatchCounter(Protocol):
    """A builder as this module uses it. It is pickled for other processes."""

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text. This method is called from several threads."""


@dataclass(frozen=True)
class Work:
    """The pairs of vocabularies to count, and the method.

    Attributes:
        builder: The method.
        vocabularies: The vocabularies. Each encodes every text once, even if it is in several pairs.
        pairs: The indices of the source and of the target of each pair.
    """

    builder: BatchCounter
    vocabularies: tuple[Vocabulary, ...]
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)

    def count(self, texts: Iterable[str], report: Callable[[int], None]) -> list[PairCounts]:
        """Count texts in this process.

        Args:
            texts: Any number of texts, read lazily.
            report: Called with the bytes of each batch when it is counted.

        Returns:
            The counts of each pair.
        """
        caching = [_CachingVocabulary(vocabulary) for vocabulary in self.vocabularies]
        sums = [RunningSum() for _ in self.pairs]

        def count_batch(batch: Sequence[str]) -> tuple[list[PairCounts], int]:
            counts = [
                self.builder.count_batch(caching[source], caching[target], batch) for source, target in self.pairs
            ]
            return counts, sum(len(text.encode()) for text in batch)

        def add_result(future: Future[tuple[list[PairCounts], int]]) -> None:
            batch_counts, text_bytes = future.result()
            for running_sum, counts in zip(sums, batch_counts, strict=True):
                running_sum.add(counts)
            report(text_bytes)

        running: deque[Future[tuple[list[PairCounts], int]]] = deque()
        pool = ThreadPoolExecutor(_THREADS)
        try:
            for batch in _batches(texts):
                running.append(pool.submit(count_batch, batch))
                if len(running) > _THREADS:
                    add_result(running.popleft())
            for future in running:
                add_result(future)
        finally:
            pool.shutdown(cancel_futures=True)
        return [running_sum.total() for running_sum in sums]


class _CachingVocabulary(Vocabulary):
    """A vocabulary that remembers, in each thread, the encodings of the last batch."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        vars(self).update(vars(vocabulary), _last=threading.local())

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts in parallel; see `Vocabulary.encode_batch`."""
        last = vars(self)["_last"]
        if getattr(last, "texts", None) is not texts:
            last.texts, last.encodings = texts, super().encode_batch(texts)
        return list(last.encodings)


def count_corpus(work: Work, corpus: Corpus, progress: Progress, shard: Shard = WHOLE) -> list[PairCounts]:
    """Count a corpus, or a shard of it, in `corpus.jobs` processes.

    Returns:
        The counts of each pair of the work.

    Raises:
        VocabridgeError: The corpus cannot be read, or a process ended too early.
    """
    total, done = corpus.bytes // shard.of, 0

    def report(text_bytes: int) -> None:
        nonlocal done
        done += text_bytes
        progress(min(done, total), total)

    if corpus.jobs == 1:
        return work.count(corpus.chunks(shard), report)
    return _count_in_processes(work, corpus, shard, report)


def _count_in_processes(work: Work, corpus: Corpus, shard: Shard, report: Callable[[int], None]) -> list[PairCounts]:
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
        # A vocabulary has some megabytes, so it is pickled once and sent to all workers at the same time.
        message = pickle.dumps((work, corpus, shard), pickle.HIGHEST_PROTOCOL)
        with ThreadPoolExecutor(len(workers)) as pool, contextlib.suppress(OSError):  # a dead worker is handled below
            list(pool.map(lambda connection: connection.send_bytes(message), workers))
        waiting = set(workers)
        while waiting:
            for connection in wait(list(waiting)):
                assert isinstance(connection, Connection)
                try:
                    received = connection.recv()
                except (EOFError, OSError):
                    raise _ended_early(workers[connection]) from None
                if isinstance(received, Exception):
                    raise received
                if isinstance(received, int):
                    report(received)
                    continue
                for running_sum, counts in zip(sums, received, strict=True):
                    running_sum.add(counts)
                waiting.remove(connection)
    finally:
        for connection, process in workers.items():
            if process.pid is not None:
                process.terminate()
                process.join()
            connection.close()
    return [running_sum.total() for running_sum in sums]


def _worker(connection: Connection, number: int, jobs: int) -> None:
    """Count the pieces of one worker; send the bytes of each batch, and at the end the counts or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent terminates the workers
    os.environ["RAYON_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))  # the tokenizers' threads
    with contextlib.suppress(BrokenPipeError, EOFError):  # the parent process has ended
        try:
            work, corpus, shard = pickle.loads(connection.recv_bytes())
            connection.send(work.count(corpus.chunks(shard.part(number, jobs)), connection.send))
        except (VocabridgeError, MemoryError) as error:
            connection.send(error)


def _ended_early(process: BaseProcess) -> VocabridgeError | Terminated:
    """Return the error for a worker that ended before it sent its counts."""
    process.join()
    if process.exitcode == -signal.SIGTERM:  # the whole process group gets SIGTERM, and this worker ended first
        return Terminated()
    return VocabridgeError(
        f"a counting process ended before it was done (exit status {process.exitcode}); with too little memory, "
        "take fewer jobs, and in a script, align under `if __name__ == '__main__':`"
    )


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Delay Ctrl-C until the context ends. Processes started in it ignore Ctrl-C, and so print no traceback."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first process would start it, which unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while batch := list(itertools.islice(stream, _BATCH)):
        yield batch
