"""Time one sparse product in every way that torch offers, and each method as a whole, on a real alignment.

    python benchmarks/bench_projection.py [--source NAME] [--target NAME] [--method NAME] [--batches N ...]
                                          [--device NAME] [--json]

The two products of the informed method, R^T @ p_T and R @ ratio, are timed in both directions of the pair, result
(n, rows) contiguous, against torch's own CSR product with int64 indices. All candidates of a product are checked
against it, and are timed in turn in one process on one thread; figures are medians. `megabytes` is what the
candidate keeps: indices and weights.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from vocabridge.alignment import METHODS, align
from vocabridge.data import corpus_files
from vocabridge.models.loading import resolve_vocabulary
from vocabridge.projection.projection import Projection, SparseMatrix

ROUNDS = 9
PLAIN = "CSR, int64"

Candidate = tuple[Callable[[Tensor], Tensor], list[Tensor]]


def csr(matrix: sp.csr_array, index: str, device: str) -> Tensor:
    """Return a torch CSR matrix with indices of this type."""
    arrays = (matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data)
    tensors = (torch.from_numpy(array) for array in arrays)
    return torch.sparse_csr_tensor(*tensors, size=matrix.shape, check_invariants=True).to(device)


def padded(matrix: sp.csr_array, most: int, device: str) -> Candidate:
    """Rows of at most `most` entries as a dense table, (most, rows), the longer ones added entry by entry."""
    per_row = np.diff(matrix.indptr)
    short = np.where(per_row <= most, per_row, 0)
    place = np.minimum(matrix.indptr[:-1] + np.arange(most)[:, None], matrix.nnz - 1)
    there = np.arange(most)[:, None] < short
    index = torch.from_numpy(np.where(there, matrix.indices[place], 0).astype("int32").ravel()).to(device)
    weight = torch.from_numpy(np.where(there, matrix.data[place], 0)).to(device)
    entries = np.repeat(per_row > most, per_row)
    rows = torch.from_numpy(np.repeat(np.arange(len(per_row)), per_row)[entries]).to(device)
    columns = torch.from_numpy(matrix.indices[entries].astype("int32")).to(device)
    weights = torch.from_numpy(matrix.data[entries]).to(device)

    def product(x: Tensor) -> Tensor:
        found = x.index_select(-1, index).view(len(x), *weight.shape).mul_(weight).sum(1)
        return found.index_add_(-1, rows, x.index_select(-1, columns).mul_(weights))

    return product, [index, weight, rows, columns, weights]


def candidates(matrix: sp.csr_array, device: str) -> dict[str, Candidate]:
    """Ways to multiply this matrix with vectors, (n, columns) -> (n, rows)."""
    plain, narrow = csr(matrix, "int64", device), csr(matrix, "int32", device)
    entries = matrix.tocoo()
    row, column = (torch.from_numpy(a.astype("int64")).to(device) for a in (entries.row, entries.col))
    column32, weights = column.int(), torch.from_numpy(entries.data).to(device)
    coo = torch.sparse_coo_tensor(torch.stack([row, column]), weights, matrix.shape, check_invariants=True).coalesce()
    pointers = plain.crow_indices()
    ours = SparseMatrix(matrix).to(device)
    form = "gather, rest CSR" if ours.gathers else "scatter, rest CSR; of one CSR" if ours.scatters else "CSR"
    height = matrix.shape[0]

    def parts(compressed: Tensor) -> list[Tensor]:
        return [compressed.crow_indices(), compressed.col_indices(), compressed.values()]

    def weighted(x: Tensor) -> Tensor:
        return x.index_select(-1, column32).mul_(weights)

    def bag(x: Tensor) -> Tensor:
        return functional.embedding_bag(
            column, x.T.contiguous(), pointers, mode="sum", per_sample_weights=weights, include_last_offset=True
        ).T.contiguous()

    return {
        PLAIN: (lambda x: (plain @ x.T).T.contiguous(), parts(plain)),
        "CSR, int32": (lambda x: (narrow @ x.T).T.contiguous(), parts(narrow)),
        "CSR, int32, vocabulary first": (lambda x: (narrow @ x.T.contiguous()).T.contiguous(), parts(narrow)),
        "CSR, int32, vector by vector": (lambda x: torch.stack([narrow @ one for one in x]), parts(narrow)),
        "COO": (lambda x: (coo @ x.T).T.contiguous(), [row, column, weights]),
        "gather + index_add": (
            lambda x: x.new_zeros(len(x), height).index_add_(-1, row, weighted(x)),
            [row, column32, weights],
        ),
        "gather + scatter_add": (
            lambda x: x.new_zeros(len(x), height).scatter_add_(-1, row.expand(len(x), -1), weighted(x)),
            [row, column32, weights],
        ),
        "gather + segment_reduce": (
            lambda x: torch.segment_reduce(
                weighted(x).T.contiguous(), "sum", offsets=pointers, unsafe=True
            ).T.contiguous(),
            [pointers, column32, weights],
        ),
        "embedding_bag": (bag, [pointers, column, weights]),
        "padded to 4, rest index_add": padded(matrix, 4, device),
        f"ours: {form}": (ours, list(ours.buffers())),
    }


def medians(works: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Median milliseconds of each piece of work, all done in turn after one warm-up."""
    milliseconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            begin = perf_counter()
            work()
            if device != "cpu":
                torch.cuda.synchronize()
            if number:
                milliseconds[name].append(1000 * (perf_counter() - begin))
    return {name: statistics.median(times) for name, times in milliseconds.items()}


def products(matrix: sp.csr_array, n: int, device: str) -> Iterator[dict[str, Any]]:
    """Every way to do one product, checked and timed."""
    x = torch.rand(n, matrix.shape[1], device=device)
    ways = candidates(matrix, device)
    right = ways[PLAIN][0](x)
    for product, _ in ways.values():
        torch.testing.assert_close(product(x), right, rtol=1e-4, atol=1e-5)
    times = medians({name: functools.partial(product, x) for name, (product, _) in ways.items()}, device)
    for name, time in times.items():
        size = sum(tensor.nbytes for tensor in ways[name][1]) / 1e6
        yield {"way": name, "milliseconds": time, "ratio": time / times[PLAIN], "megabytes": size}


def methods(projection: Projection, shape: tuple[int, int], n: int, device: str) -> Iterator[dict[str, Any]]:
    """Every method as a whole, timed; and the base's softmax, which is not part of it."""
    delta = torch.randn(n, shape[1], device=device)
    target = (3 * torch.randn(n, shape[0], device=device)).softmax(-1)
    source, both = delta.softmax(-1), torch.stack([delta, -delta]).softmax(-1)
    works: dict[str, Callable[[], object]] = {
        "linear": lambda: projection.linear(delta, target),
        "exponential": lambda: projection.exponential(delta, target),
        "static": lambda: projection.static(source, target),
        "informed": lambda: projection.informed(source, target),
        "informed, two donors": lambda: projection.informed(both, target),
        "(softmax of the base)": lambda: target.softmax(-1),
    }
    size = sum(buffer.nbytes for buffer in projection.buffers()) / 1e6
    for name, time in medians(works, device).items():
        yield {"way": name, "milliseconds": time, "megabytes": size}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="smollm2-135m-instruct")
    parser.add_argument("--target", default="gemma-3-270m")
    parser.add_argument("--method", default="default", choices=["default", *METHODS])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = (arguments.source, arguments.target)
    directions = {}
    for source, target in (names, names[::-1]):
        vocabularies = (resolve_vocabulary(source), resolve_vocabulary(target))
        directions[f"{source} -> {target}"] = align(*vocabularies, method=arguments.method, corpus=corpus_files())
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for n in arguments.batches:
            for direction, alignment in directions.items():
                matrix = alignment.row_weights
                shape = f"{matrix.shape[0]:,} x {matrix.shape[1]:,}, {matrix.nnz:,} entries"
                projection = Projection.of(alignment).to(arguments.device)
                done = {
                    f"R, {shape}": products(matrix, n, arguments.device),
                    "its transpose": products(sp.csr_array(matrix.T.tocsr()), n, arguments.device),
                    "methods": methods(projection, matrix.shape, n, arguments.device),
                }
                for what, found in done.items():
                    rows += ({"direction": direction, "what": what, "batch": n, **row} for row in found)
    if arguments.json:
        print(json.dumps({"device": arguments.device, "method": arguments.method, "rows": rows}, indent=2))
    else:
        show(rows, arguments.batches)


def show(rows: list[dict[str, Any]], batches: list[int]) -> None:
    """Print a table for each direction and product: a line a way, milliseconds and ratio for each batch size."""
    tables: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        lines = tables.setdefault(f"{row['direction']}: {row['what']}", {})
        ratio = f" ({row['ratio']:.2f})" if "ratio" in row else ""
        lines.setdefault(row["way"], [f"{row['megabytes']:.1f}"]).append(f"{row['milliseconds']:.2f}{ratio}")
    for title, lines in tables.items():
        table = Table("way", "MB", *(f"ms, batch {n}" for n in batches), title=title, title_justify="left")
        for way, figures in lines.items():
            table.add_row(way, *figures)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
