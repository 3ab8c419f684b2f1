"""Recall against time of approximate search: a tuned index beside other libraries, each alone in a process.

python benchmarks/frontier.py --work DIR [--rows 1000000] [--methods geoview ...]
python benchmarks/frontier.py --work DIR --rendered --out benchmarks/results/frontier_rendered.json

Vectors are drawn: 300 groups of 30,000 clusters of very different size, with a spectrum that falls off as that of
learnt embeddings does; queries are further from the clusters than rows are. With --rendered, they are the cell codes of
a rendered town, aerial codes and the prototypes of half of its photos together at kappa 1, repeated: each copy has
drawn noise, as large as neighbouring cells differ. Queries are of the other half of the photos, at any heading.

Time is CPU time of one thread. Memory is what a process holds after a run, and those before it with quicker settings,
beyond what it held before it opened the index; pages of mapped files that were read are included, and those of mapped
rows, which the kernel takes back when it has a better use for them, also told apart. Peers that are not installed are
left out and named; results of methods that a call does not measure stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from machine import cpu_model
from numpy.typing import NDArray

DIM, QUERIES, N_LISTS = 256, 1000, 4096  # of drawn vectors, and of all
K_FACTORS = [2, 3, 4, 6, 10, 14, 20]  # candidates that are scored exactly, for each of the best
GROUPS, CLUSTERS = 300, 30_000
KS = (10, 100)
# Spread of rows around their cluster, and how much further queries are.
WITHIN, FURTHER = 0.6, 1.3
SPECTRUM = np.arange(1, DIM + 1) ** -0.5
ROTATION = np.linalg.qr(np.random.default_rng(7).standard_normal((DIM, DIM)))[0]
BUILD_THREADS = int(os.environ.get("BUILD_THREADS", "2"))
CENTRE_DEG = (48.2, 16.4)
LIBRARY = {"hnswlib": "hnswlib", "usearch": "usearch", "scann": "scann", "svs": "scalable-vs"}

Vectors = NDArray[np.float32]
#: (queries, k, setting) -> rows
Search = Callable[[Vectors, int, Any], NDArray[np.integer]]

# The town, and how finely it is divided: 24,000 cells.
TOWN: tuple[Literal["european_town"], int] = ("european_town", 811)
SIDE_M, PHOTOS, LEVEL = 1400.0, 150, 20


class Method(NamedTuple):
    """A library.

    Attributes:
        load: Loads the library, and what it loads when it is first used.
        build: Makes the index in a folder.
        open: Opens it.
        settings: What to try, the quickest first.
    """

    load: Callable[[], object]
    build: Callable[[Vectors, Path], None]
    open: Callable[[Path], Search]
    settings: list[Any]


def drawn(n: int, seed: int) -> tuple[Vectors, Vectors]:
    """Returns rows in the order of their clusters, as neighbours on the ground are alike, and queries."""
    rng = np.random.default_rng(seed)
    n_clusters = min(CLUSTERS, n // 10)
    groups = noise(rng, GROUPS)
    clusters = groups[np.sort(rng.integers(0, GROUPS, n_clusters))] + 0.7 * noise(rng, n_clusters)
    share = rng.permutation(1 / np.arange(1, n_clusters + 1) ** 0.7)
    share /= share.sum()
    rows = clusters[np.sort(rng.choice(n_clusters, n, p=share))] + WITHIN * noise(rng, n)
    queries = clusters[rng.choice(n_clusters, QUERIES, p=share)] + FURTHER * WITHIN * noise(rng, QUERIES)
    return unit(rows), unit(queries)


def drawn_around(rows: Vectors, n: int, seed: int) -> Vectors:
    """Returns queries as far from the clusters as those of `drawn`, from the clusters of these rows."""
    rng = np.random.default_rng(seed)
    further = math.sqrt(FURTHER**2 - 1) * WITHIN
    # Rows were scaled to unit norm after they were drawn; so is what is added to them.
    typical = float(np.sqrt((SPECTRUM**2).sum() * (1 + 0.7**2 + WITHIN**2)))
    return unit(rows[rng.integers(0, len(rows), n)] + further / typical * noise(rng, n))


def rendered(n: int, work: Path) -> tuple[Vectors, Vectors]:
    """Returns codes of the cells of a town, copy after copy in the order of the cells, and photos of it."""
    import tiles
    from geoview.config import BuildConfig, DemoConfig, InferenceConfig
    from geoview.data.queries import PhotoQuery
    from geoview.demo import DemoSize, make_region
    from geoview.geo.regions import Region
    from geoview.index.build import build_index
    from geoview.index.cell_index import CellIndex
    from geoview.index.fusion import Fusion
    from geoview.locate.localizer import Localizer
    from geoview.models.encoder import CrossViewEncoder, find_encoder

    style, seed = TOWN
    folder = work / f"{style}_{seed}"
    settings = DemoConfig(out=str(folder), style=style, seed=seed, num_workers=BUILD_THREADS)
    region = make_region(settings, folder, DemoSize(SIDE_M, PHOTOS, PHOTOS, least_cells=1))
    network = CrossViewEncoder.load(find_encoder("demo"))
    path = folder / f"index_{LEVEL}_{network.fingerprint()}"
    if not (path / "manifest.json").exists():
        config = BuildConfig(
            encoder=str(find_encoder("demo")), imagery=[str(region.reference)], out=str(path), level=LEVEL, device="cpu"
        )
        source, outline = tiles.open_source(config.imagery), Region.from_geojson(region.outline)
        photos = region.photos[::2]
        build_index(network, source, outline, path, config, photos=photos).close()
    with CellIndex.open(path) as index:
        index.set_fusion(Fusion(1.0), {})
        codes = [block for number in range(len(index.manifest.shards)) for block in index.codes(number)]
        town = np.concatenate(codes)[:, : index.manifest.dim].astype(np.float32)
        asked = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in region.photos[1::2]]
        vectors = np.concatenate([p.vectors for p in Localizer(index, InferenceConfig(device="cpu")).embed(asked)])
    rng = np.random.default_rng(0)
    queries = vectors[np.sort(rng.choice(len(vectors), QUERIES, replace=False))]
    apart = float(np.median(np.linalg.norm(np.diff(town, axis=0), axis=1)))
    spread = np.linalg.cholesky(np.cov(town.T) + 1e-8 * np.eye(town.shape[1])).T.astype(np.float32)
    rows = np.repeat(town, math.ceil(n / len(town)), axis=0)[:n]
    for start in range(0, n, 2**16):
        added = rng.standard_normal((min(2**16, n - start), town.shape[1]), np.float32) @ spread
        added *= apart / np.linalg.norm(added, axis=1, keepdims=True)
        rows[start : start + len(added)] += added
    return rows, queries


def noise(rng: np.random.Generator, n: int) -> Vectors:
    return np.asarray(rng.standard_normal((n, DIM)) * SPECTRUM @ ROTATION, np.float32)


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def geoview(dim: int, memory_bytes_a_row: float | None) -> Method:
    """Ours: the index as the command makes it, with as much memory as it likes or with little."""

    def build(rows: Vectors, folder: Path) -> None:
        write_index(folder, rows)
        from geoview.config import TuneConfig
        from geoview.index import tuning

        memory_gb = None if memory_bytes_a_row is None else len(rows) * memory_bytes_a_row / 1e9
        chosen, _ = tuning.tune(folder, TuneConfig(recall=0.5, memory_gb=memory_gb))
        print(f"frontier: tuned to {chosen}", file=sys.stderr)

    def opened(folder: Path) -> Search:
        from geoview.index.cell_index import CellIndex
        from geoview.index.manifest import Point

        index = CellIndex.open(folder)
        return lambda queries, k, at: index.search_at(Point(at[0], at[1], 0.0, 0.0), queries, k).row

    def load() -> None:
        import tempfile

        from geoview.index.ann import CODEC_FILE, LISTS_FILE, Codec, Lists
        from geoview.topk import top_k, top_k_of

        importlib.import_module("geoview.index.cell_index")
        rows = np.eye(dim, dtype=np.float32).repeat(4, axis=0)
        top_k(rows, [(np.arange(len(rows)), rows)], 10)
        top_k_of(rows, np.tile(np.arange(500), (len(rows), 1)), rows.__getitem__, 10)
        with tempfile.TemporaryDirectory() as folder:
            codec = Codec.train(rows, 16, 2, seed=0)
            codec.write(Path(folder))
            codec.lay_out([codec.encode(rows)], Path(folder))
            Lists.open(Path(folder, CODEC_FILE), Path(folder, LISTS_FILE)).candidates(rows, 10, 4)

    return Method(load, build, opened, grid(K_FACTORS))


def grid(k_factors: list[int]) -> list[tuple[int, int]]:
    return [(n_probe, k_factor) for n_probe in (4, 8, 16, 32, 64, 128, 256, 512) for k_factor in k_factors]


def write_index(folder: Path, rows: Vectors) -> None:
    """Writes an index of so many real cells, whose codes are the rows."""
    from geoview.geo import cells
    from geoview.geo.regions import Region
    from geoview.index import store
    from geoview.index.manifest import Manifest

    radius_m = 1.02 * np.sqrt(len(rows) * float(cells.areas_m2(cells.cell_ids([CENTRE_DEG], 16))[0]) / np.pi)
    ids = Region.disc(CENTRE_DEG, radius_m).cells(16)[: len(rows)]
    if len(ids) < len(rows):
        raise SystemExit(f"{len(ids)} cells for {len(rows)} rows")
    above = cells.parents(ids, 16 - store.SHARD_LEVELS)
    entries = []
    for parent in np.unique(above):
        here = above == parent
        some, none = np.ones(here.sum(), np.float16), np.empty(0)
        shard = store.Rows(
            rows[here].astype(np.float16),
            ids[here],
            np.zeros(here.sum(), np.int32),
            some,
            none.astype(np.uint64),
            none.astype(np.float16),
        )
        entries.append(store.write_rows(folder, str(cells.tokens(np.array([parent]))[0]), shard))
    made: dict[str, Any] = {"created_at": "", "geoview": "", "imagery": [], "sources": [], "skipped_sources": []}
    encoder = {"fingerprint": "0" * 16, "folder": "encoder/none"}
    chip = {"size_px": 96, "gsd_m": 0.6}
    store.commit(
        folder,
        Manifest(level=16, dim=rows.shape[1], chip=chip, encoder=encoder, min_coverage=0.5, shards=entries, **made),
    )


def faiss_method(dim: int, factory: str, settings: list[Any], setter: Callable[[Any, Any], None]) -> Method:
    """An index of FAISS's factory."""

    def build(rows: Vectors, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(BUILD_THREADS)
        index: Any = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if "HNSW" in factory:
            index.hnsw.efConstruction = 100
        index.train(rows[np.random.default_rng(0).choice(len(rows), min(len(rows), 64 * N_LISTS), replace=False)])
        index.add(rows)
        folder.mkdir(parents=True)
        faiss.write_index(index, str(folder / "index.faiss"))

    def opened(folder: Path) -> Search:
        import faiss

        faiss.omp_set_num_threads(1)
        index: Any = faiss.read_index(str(folder / "index.faiss"))

        def search(queries: Vectors, k: int, setting: Any) -> NDArray[np.integer]:
            setter(index, setting)
            return np.asarray(index.search(queries, k)[1])

        return search

    return Method(lambda: importlib.import_module("faiss"), build, opened, settings)


def refined(index: Any, setting: tuple[int, int]) -> None:
    import faiss

    index.k_factor = setting[1]
    lists: Any = faiss.downcast_index(index.base_index)
    lists.nprobe = setting[0]


WIDTHS = [16, 32, 64, 128, 256, 512, 1024]


def hnswlib_method(dim: int) -> Method:
    def build(rows: Vectors, folder: Path) -> None:
        import hnswlib

        index = hnswlib.Index("ip", dim)
        index.init_index(len(rows), ef_construction=100, M=32)
        index.add_items(rows, num_threads=BUILD_THREADS)
        folder.mkdir(parents=True)
        index.save_index(str(folder / "index"))

    def opened(folder: Path) -> Search:
        import hnswlib

        index = hnswlib.Index("ip", dim)
        index.load_index(str(folder / "index"))

        def search(queries: Vectors, k: int, width: int) -> NDArray[np.integer]:
            index.set_ef(width)
            return np.asarray(index.knn_query(queries, k, num_threads=1)[0]).astype(np.int64)

        return search

    return Method(lambda: importlib.import_module("hnswlib"), build, opened, WIDTHS)


def usearch_method(dim: int) -> Method:
    def made() -> Any:
        from usearch.index import Index

        return Index(ndim=dim, metric="ip", dtype="bf16", connectivity=32, expansion_add=100)

    def build(rows: Vectors, folder: Path) -> None:
        index = made()
        index.add(np.arange(len(rows)), rows, threads=BUILD_THREADS)
        folder.mkdir(parents=True)
        index.save(str(folder / "index"))

    def opened(folder: Path) -> Search:
        index = made()
        index.load(str(folder / "index"))

        def search(queries: Vectors, k: int, width: int) -> NDArray[np.integer]:
            index.expansion_search = width
            found = index.search(queries, k, threads=1)
            return np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)

        return search

    return Method(lambda: importlib.import_module("usearch.index"), build, opened, WIDTHS)


def scann_method(dim: int) -> Method:
    def build(rows: Vectors, folder: Path) -> None:
        import scann

        builder = scann.scann_ops_pybind.builder(rows, max(KS), "dot_product").set_n_training_threads(BUILD_THREADS)
        leaves = min(N_LISTS, len(rows) // 40)
        searcher = (
            builder.tree(num_leaves=leaves, num_leaves_to_search=64, training_sample_size=min(len(rows), 64 * N_LISTS))
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(10 * max(KS))
            .build()
        )
        folder.mkdir(parents=True)
        searcher.serialize(str(folder))

    def opened(folder: Path) -> Search:
        import scann

        searcher = scann.scann_ops_pybind.load_searcher(str(folder))
        searcher.set_num_threads(1)

        def search(queries: Vectors, k: int, setting: tuple[int, int]) -> NDArray[np.integer]:
            leaves, k_factor = setting
            return np.asarray(
                searcher.search_batched(
                    queries, final_num_neighbors=k, leaves_to_search=leaves, pre_reorder_num_neighbors=k * k_factor
                )[0]
            ).astype(np.int64)

        return search

    return Method(lambda: importlib.import_module("scann"), build, opened, grid([4, 10]))


def svs_method(dim: int) -> Method:
    def build(rows: Vectors, folder: Path) -> None:
        import svs

        parameters = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=64, window_size=128)
        index = svs.Vamana.build(parameters, rows.astype(np.float16), svs.DistanceType.MIP, num_threads=BUILD_THREADS)
        folder.mkdir(parents=True)
        index.save(*(str(folder / name) for name in ("config", "graph", "data")))

    def opened(folder: Path) -> Search:
        import svs

        data = svs.VectorDataLoader(str(folder / "data"), svs.DataType.float16)
        index = svs.Vamana(
            str(folder / "config"), svs.GraphLoader(str(folder / "graph")), data, svs.DistanceType.MIP, num_threads=1
        )

        def search(queries: Vectors, k: int, width: int) -> NDArray[np.integer]:
            index.search_window_size = max(width, k)
            return np.asarray(index.search(queries, k)[0]).astype(np.int64)

        return search

    return Method(lambda: importlib.import_module("svs"), build, opened, WIDTHS)


def set_probes(index: Any, n_probe: int) -> None:
    index.nprobe = n_probe


def set_width(index: Any, width: int) -> None:
    index.hnsw.efSearch = width


METHODS: dict[str, Callable[[int], Method]] = {
    "geoview": lambda dim: geoview(dim, None),
    # Less than a fifth of rows in half precision and 64 neighbours of each, which is what the graph of `svs` holds:
    # what a search itself needs of memory comes on top.
    "geoview-little-memory": lambda dim: geoview(dim, (2 * dim + 256) / 6.5),
    "faiss-flat": lambda dim: faiss_method(dim, "Flat", [None], lambda index, setting: None),
    "faiss-ivfpqfs-refine": lambda dim: faiss_method(
        dim, f"IVF{N_LISTS},PQ{dim // 2}x4fsr,Refine(SQfp16)", grid(K_FACTORS), refined
    ),
    # Half as many lists as geoview takes for a million rows.
    "faiss-ivf2048pqfs-refine": lambda dim: faiss_method(
        dim, f"IVF2048,PQ{dim // 2}x4fsr,Refine(SQfp16)", grid(K_FACTORS), refined
    ),
    "faiss-rabitqfs-refine": lambda dim: faiss_method(
        dim, f"IVF{N_LISTS},RaBitQfs,Refine(SQfp16)", grid([4, 10, 32]), refined
    ),
    "faiss-hnsw-sq8": lambda dim: faiss_method(dim, "HNSW32_SQ8", WIDTHS, set_width),
    "hnswlib": hnswlib_method,
    "usearch": usearch_method,
    "scann": scann_method,
    "svs": svs_method,
}


def held_mb() -> tuple[float, float]:
    """Returns what this process holds, pages of mapped files that it has read included, and how much of it are rows."""
    total, of_rows, in_rows = 0, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            total += int(line.split()[1])
            of_rows += int(line.split()[1]) * in_rows
        elif "-" in line.split(maxsplit=1)[0]:
            in_rows = "/shards/" in line
    return total / 1024, of_rows / 1024


def read_anew(folder: Path) -> None:
    """Has the kernel hold files as it reads them: what was just written lies in larger pieces, mapped in less time."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while file.read(2**20):
                    pass


def measured(name: str, work: Path) -> Iterator[dict[str, Any]]:
    """Builds what is not there, and searches; in a process of its own."""
    method, folder = METHODS[name](np.load(work / "queries.npy", mmap_mode="r").shape[1]), work / name
    record = work / f"{name}.json"
    if not record.exists():
        rows = np.load(work / "rows.npy")
        wall, cpu = time.perf_counter(), time.process_time()
        method.build(rows, folder)
        built = {"build_s": time.perf_counter() - wall, "build_cpu_s": time.process_time() - cpu}
        size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
        record.write_text(json.dumps({key: round(value, 1) for key, value in (built | {"size_mb": size_mb}).items()}))
        return  # searched by another process, whose memory knows nothing of this
    queries, truth = np.load(work / "queries.npy"), np.load(work / "truth.npy")
    method.load()  # a library's own code is no memory of an index
    read_anew(folder)
    before_mb, _ = held_mb()
    search = method.open(folder)
    runs = []
    for k in KS:
        for setting in method.settings:
            found, cpu_s, held = None, [], []
            for _ in range(3):
                start = time.process_time()
                found = search(queries, k, setting)
                cpu_s.append(time.process_time() - start)
                held.append(held_mb())
            single_s = []
            for query in queries[:50, None]:
                start = time.perf_counter()
                search(query, k, setting)
                single_s.append(time.perf_counter() - start)
            assert found is not None
            recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth[:, :k], found, strict=True)]))
            run = {"k": k, "setting": setting, "recall": round(recall, 4)}
            held_most_mb, rows_mb = max([*held, held_mb()])
            run |= {"qps": round(len(queries) / min(cpu_s)), "one_ms": round(1e3 * float(np.median(single_s)), 3)}
            run |= {"memory_mb": round(held_most_mb - before_mb), "of_which_mapped_rows_mb": round(rows_mb)}
            runs.append(run)
            if recall > 0.999:
                break
        yield {"method": name, "k": k, "runs": [run for run in runs if run["k"] == k]}
    built = json.loads(record.read_text())
    yield {"method": name, **built}


def at_recall(runs: list[dict[str, Any]], wanted: float) -> dict[str, Any] | None:
    """Returns the quickest run that finds enough."""
    return max((run for run in runs if run["recall"] >= wanted), key=lambda run: run["qps"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rendered", action="store_true", help="codes of a rendered town, in place of drawn vectors")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--one", choices=[*METHODS], help="measure one, in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/frontier.json"))
    args = parser.parse_args()
    if args.one:
        for line in measured(args.one, args.work):
            print(json.dumps(line), flush=True)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "truth.npy").exists():
        rows, queries = rendered(args.rows, args.work) if args.rendered else drawn(args.rows, seed=0)
        # Codes are kept in half precision: that is what all are asked to find.
        rows = rows.astype(np.float16).astype(np.float32)
        np.save(args.work / "rows.npy", rows)
        np.save(args.work / "queries.npy", queries)
        from geoview.topk import top_k

        np.save(args.work / "truth.npy", top_k(queries, [(np.arange(len(rows)), rows)], max(KS))[0])
    environment = os.environ | {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # Of methods that are not asked for, what an earlier call has measured stays; each tells when its call began.
    began_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    before = json.loads(args.out.read_text())["results"] if args.out.exists() else {}
    results, missing = {name: found for name, found in before.items() if name not in args.methods}, {}
    for name in args.methods:
        command = [sys.executable, __file__, "--work", str(args.work), "--one", name]
        for threads in ("build", "search"):
            if threads == "build" and (args.work / f"{name}.json").exists():
                continue
            env = environment if threads == "search" else {**os.environ, "OMP_NUM_THREADS": str(BUILD_THREADS)}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                missing[name] = f"process ended with {done.returncode}"
                break
        else:
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            version = importlib.metadata.version(LIBRARY.get(name, "faiss-cpu"))
            results[name] = lines[-1] | {
                "version": version,
                "call_began_at": began_at,
                "runs": [run for line in lines[:-1] for run in line["runs"]],
            }
            print_one(name, results[name])
    content = {
        "what": "CPU time of one thread for 1,000 queries at once, memory in MiB beyond the bare process",
        "vectors": "cell codes of a rendered town, repeated" if args.rendered else "drawn",
        "rows": args.rows,
        "dim": np.load(args.work / "queries.npy", mmap_mode="r").shape[1],
        "results": {name: results[name] for name in METHODS if name in results},
        "not_measured": missing,
        "build_threads": BUILD_THREADS,
        "cpu": cpu_model(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n")


def print_one(name: str, result: dict[str, Any]) -> None:
    for k in KS:
        runs = [run for run in result["runs"] if run["k"] == k]
        best = [at_recall(runs, wanted) for wanted in (0.9, 0.95, 0.99)]
        said = "  ".join(
            "-"
            if run is None
            else f"{run['qps']:,} at {run['recall']:.3f} ({run['one_ms']} ms, {run['memory_mb']} MiB, "
            f"{run['of_which_mapped_rows_mb']} of rows)"
            for run in best
        )
        print(f"{name:24} k={k:<4} {said}; built {result['build_cpu_s']} CPU s", flush=True)


if __name__ == "__main__":
    main()
