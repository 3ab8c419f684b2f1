"""Exact search of an index against what the machine can do: memory bandwidth for one query, matrix products for more.

OMP_WAIT_POLICY=PASSIVE python benchmarks/exact.py --work DIR [--rows 1000000] [--dim 256] [--threads N]

The rows lie in an index, in half precision, mapped and warm. Peers search the same rows from memory: FAISS's flat index
in single and in half precision, and a plain matrix product with top-k. All are measured in turns, several times, and
the median counts; the machine's rates are measured in the same turns. Sixteen queries are a photo whose heading nobody
knows. The limit of many queries is the rate of float32 products, which exact scores need; where the processor
multiplies bfloat16 faster, geoview can be above it, and that rate is told beside it.

Where there is a GPU, it searches 10 million rows of 512 elements that lie in its memory, beside a plain matrix product
of half precision with top-k, whose queries are rounded and whose answers are not exact, and beside its own two rates.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from frontier import write_index
from machine import cpu_model, keep

from geoview.index.cell_index import CellIndex
from geoview.topk import top_k

REPEATS, LIMIT_TIMES, K = 7, 5, 100
KINDS = ("torch", "numpy", "bfloat16")
SHAPES = ((1024, 2048), (1024, 16_384), (2048, 2048))
GPU_ROWS, GPU_DIM = 10_000_000, 512
# Rows of a product on the GPU: with 1,024 queries, 0.5 GB of scores in half precision.
GPU_BLOCK = 2**18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/exact.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((args.rows, args.dim), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shutil.rmtree(args.work, ignore_errors=True)
    write_index(args.work, rows)
    index = CellIndex.open(args.work)
    flat, half = (
        faiss.IndexFlatIP(args.dim),
        faiss.IndexScalarQuantizer(args.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
    )
    flat.add(rows)
    half.train(rows[:10])
    half.add(rows)
    tensor = torch.from_numpy(rows)
    plain = rows.view(np.int64).reshape(-1)
    result = {
        "what": f"exact search of {args.rows:,} x {args.dim}, k = {K}, warm; rows of half precision",
        "queries": {},
        "threads": args.threads,
        "cpu": cpu_model(),
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "torch": torch.__version__,
        "faiss": importlib.metadata.version("faiss-cpu"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    for n_queries in (1, 16, 1024):
        queries = rng.standard_normal((n_queries, args.dim), np.float32)
        asked = torch.from_numpy(queries)

        def plainly(asked: torch.Tensor = asked) -> object:
            return (asked @ tensor.T).topk(K)

        arms: dict[str, Callable[[], object]] = {
            "geoview": partial(index.search, queries, K, exact=True),
            "faiss_flat_fp32": partial(flat.search, queries, K),
            "faiss_flat_fp16": partial(half.search, queries, K),
            "torch_matmul_topk_fp32": plainly,
        }
        if n_queries > 16:
            del arms["faiss_flat_fp16"]  # minutes, and far behind
        if n_queries > 1:
            limit = {f"{a}x{b} {kind}": product(a, b, args.dim, kind) for a, b in SHAPES for kind in KINDS}
        else:
            limit = {"read": lambda: torch.from_numpy(plain).sum()}
        took_s: dict[str, list[float]] = {name: [] for name in (*arms, *limit)}
        for _ in range(REPEATS + 1):
            for name, arm in (arms | limit).items():
                # What the machine can do is not what it does of a millisecond that wakes threads first.
                times = LIMIT_TIMES if name in limit else 1
                start = time.perf_counter()
                for _ in range(times):
                    arm()
                took_s[name].append((time.perf_counter() - start) / times)
        median_s = {name: float(np.median(each[1:])) for name, each in took_s.items()}
        if n_queries > 1:
            shapes = {name: [int(n) for n in name.split()[0].split("x")] for name in limit}
            rate = {name: 2 * np.prod(shape) * args.dim / median_s[name] for name, shape in shapes.items()}
            best = max(rate[name] for name in rate if "bfloat16" not in name)
            least_s = 2 * n_queries * args.rows * args.dim / best
            rounded = max(rate[name] for name in rate if "bfloat16" in name)
            said = {"limit_gflops": round(best / 1e9, 1), "bfloat16_gflops": round(rounded / 1e9, 1)}
        else:
            best = plain.nbytes / median_s["read"]
            least_s = 2 * args.rows * args.dim / best
            said = {"limit_gb_s": round(best / 1e9, 2)}
        result["queries"][n_queries] = said | {
            "ms": {name: round(1e3 * median_s[name], 2) for name in arms},
            "limit_ms": round(1e3 * least_s, 2),
            "geoview_share_of_limit": round(least_s / median_s["geoview"], 3),
        }
        print(n_queries, json.dumps(result["queries"][n_queries]), flush=True)
    if torch.cuda.is_available():
        result["gpu"] = on_a_gpu()
    else:
        print("no GPU here: its part is left out", flush=True)
    keep(result, args.out, alike=("what", "cpu"))


def on_a_gpu() -> dict[str, object]:
    """Measures exact search of rows in a GPU's memory."""
    rows = torch.empty(GPU_ROWS, GPU_DIM, dtype=torch.float16, device="cuda")
    for part in torch.split(rows, GPU_BLOCK):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device="cuda"), dim=1))
    blocks = [(torch.arange(GPU_ROWS, device="cuda"), rows)]
    found: dict[str, object] = {
        "what": f"exact search of {GPU_ROWS:,} x {GPU_DIM} in half precision, in the GPU's memory, k = {K}",
        "gpu": torch.cuda.get_device_name(),
    }
    for n_queries in (1, 1024):
        queries = torch.randn(n_queries, GPU_DIM)
        half = queries.half().cuda()

        def plain(half: torch.Tensor = half) -> object:
            best = [(half @ part.T).topk(K) for part in torch.split(rows, GPU_BLOCK)]
            return torch.cat([values for values, _ in best], dim=1).topk(K)

        def multiplied(half: torch.Tensor = half) -> object:
            return [half @ part.T for part in torch.split(rows, GPU_BLOCK)]

        arms: dict[str, Callable[[], object]] = {
            "geoview": partial(top_k, queries.numpy(), blocks, K, device="cuda"),
            "torch_matmul_topk_fp16": plain,
            "read": lambda: rows.view(torch.int64).sum(),
            "multiply": multiplied,
        }
        took_s: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(REPEATS + 1):
            for name, arm in arms.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                arm()
                torch.cuda.synchronize()
                took_s[name].append(time.perf_counter() - start)
        median_s = {name: float(np.median(each[1:])) for name, each in took_s.items()}
        least_s = median_s["read" if n_queries == 1 else "multiply"]
        found[str(n_queries)] = {
            "ms": {name: round(1e3 * each, 2) for name, each in median_s.items()},
            "geoview_share_of_limit": round(least_s / median_s["geoview"], 3),
        }
        print("gpu", n_queries, json.dumps(found[str(n_queries)]), flush=True)
    return found


def product(a: int, b: int, dim: int, kind: str) -> Callable[[], object]:
    """Returns a matrix product to be timed: libraries differ, and the machine's limit is the fastest of them."""
    one, other = torch.randn(a, dim), torch.randn(b, dim)
    if kind == "bfloat16":
        one, other = one.bfloat16(), other.bfloat16()
    # To memory that is there: to ask for it takes longer than a fast unit multiplies.
    found = torch.empty(a, b, dtype=one.dtype)
    if kind == "numpy":
        return lambda: np.matmul(one.numpy(), other.numpy().T, out=found.numpy())
    return lambda: torch.mm(one, other.T, out=found)


if __name__ == "__main__":
    main()
