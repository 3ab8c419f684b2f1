"""A data set scored with an encoder, by the rules of its papers and in metres."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoview.config import EvaluateConfig, GroundView, PlanView, ViewSpec
from geoview.data.pairs import PairTable
from geoview.data.pictures import PairPictures, Side, open_sides
from geoview.data.views import View
from geoview.embed import resolve_device
from geoview.errors import ConfigError, PairTableError
from geoview.evaluate.cache import embeddings, file_stamp
from geoview.evaluate.places import RANKS
from geoview.evaluate.protocols import PROTOCOLS, Protocol
from geoview.evaluate.report import finite
from geoview.geo.sphere import distance_m
from geoview.metrics import average_precision, bootstrap_interval, ranks, ranks_of_all, recall_at, recall_within
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import top_k

__all__ = ["RADII_M", "evaluate_dataset"]

log = logging.getLogger(__name__)

#: Radii of the recalls in metres.
RADII_M = (25, 50, 100, 200)

_NAMED = 20
# What the results say of their rules, after what the protocol says.
_ALL_SETS = (
    "recall_at_1_percent is the recall at max(1, references // 100). Ties count against the encoder, and so do "
    "pictures that cannot be read: such a query is a miss, such a reference the last answer to every query. The "
    "distance from an answer is that to the middle of its picture. Intervals are of 95 %, bootstrapped over blocks "
    "of about 1 km, or over places of unknown position."
)
# Rows of the gallery that are compared at once.
_BLOCK_ROWS = 16_384


def evaluate_dataset(encoder: CrossViewEncoder, table: PairTable, config: EvaluateConfig) -> dict[str, Any]:
    """Scores an encoder on pairs, for each field of view; embeddings are kept beside `config.out`.

    Recall at k is the share of queries whose true reference is among the first k of the whole gallery; ties count
    against the encoder. A query that cannot be read is a miss, and such a reference comes last for every query: one
    damaged tile must not spoil the answers to all others. R@1 % takes k = max(1, R // 100). Where all positions are
    known, recall at k within a radius is the share of queries with one of the first k references centred that near.
    Intervals are bootstrapped over blocks of about 1 km, and over places where positions are not known.

    Args:
        encoder: In evaluation mode.
        table: What `open_table(config)` returns: the queries, and the whole gallery.
        config: Data set, fields of view, and how the encoder is run.

    Returns:
        The content of `results.json`: finite numbers or None only. `views` has, by field of view, `recall_at_{1,5,10}`,
        `recall_at_1_percent`, and as they apply `hit_rate`, `average_precision`,
        `recall_at_{1,5,10}_within_{25,50,100,200}_m`, `median_error_m`; `intervals` of 95 %; `cities`, the same of each
        city's queries among the whole gallery; and `distractors_removed`.

    Raises:
        ConfigError: Fields of view, or angles, that the encoder or the photos do not go with; imagery is missing.
        PairTableError: A street photo lacks its file or, for an encoder of plans, its heading; there is no pair.
        EncoderError: An embedding is not finite.
        StorageFullError: The disk is full.
    """
    assert config.dataset is not None, "EvaluateConfig checks this"
    protocol = PROTOCOLS[config.dataset]
    if not len(table):
        raise PairTableError(f"{table.name}: holds no pair; nothing can be scored")
    aerial = (protocol.query_view or config.query_view) == "aerial"
    view: ViewSpec = encoder.aerial if aerial else encoder.ground
    _check_windows(view, config)
    query, reference = open_sides(
        table,
        view,
        encoder.aerial,
        query_imagery=config.query_imagery,
        reference_imagery=config.imagery,
        keys=("query_imagery", "imagery"),
    )
    pictures = PairPictures(table, query, reference, None)
    folder = Path(config.out).parent / "embeddings"

    n_references = len(table.reference_path)
    gallery = embeddings(
        encoder,
        pictures.gallery,
        n_references,
        folder,
        {"side": "reference", "view": asdict(encoder.aerial)},
        _stamps(reference, config.imagery, table.reference_latlon_deg),
        config,
        seen="aerial",
        progress="references",
    )
    unreadable = _unreadable(gallery, reference, table.reference_latlon_deg)
    stamps = [
        *_stamps(query, config.query_imagery, table.latlon_deg),
        table.heading_deg.tolist(),
        table.fov_deg.tolist(),
    ]
    views = {}
    for fov_deg in config.fov_deg:
        about: dict[str, Any] = {"side": "query", "view": asdict(view), "fov_deg": float(fov_deg)}
        about["turned"] = {"seed": config.seed} if config.turned else False
        vectors = embeddings(
            encoder,
            _reader(pictures, fov_deg, config),
            len(table),
            folder,
            about,
            stamps,
            config,
            seen=pictures.query_seen,
            progress=f"queries, {fov_deg:g}°",
        )
        # The same photos at each field of view.
        unreadable = list(dict.fromkeys(unreadable + _unreadable(vectors, query, table.latlon_deg)))
        views[f"{fov_deg:g}"] = _scores(vectors, gallery, table, protocol, config)
    if unreadable:
        log.warning("%d pictures cannot be read and count against the encoder", len(unreadable))
    results = {
        "dataset": config.dataset,
        "name": table.name,
        "split": config.split or protocol.split,
        "labels": config.labels,
        "encoder": {**encoder.notes, "name": config.encoder, "fingerprint": encoder.fingerprint()},
        "n_queries": len(table),
        "n_references": n_references,
        "turned": config.turned,
        "seed": config.seed,
        "views": views,
        "r1_percent_k": _percent_k(n_references),
        "protocol": f"{protocol.text} {_ALL_SETS}",
        "n_unreadable": len(unreadable),
        "unreadable": unreadable[:_NAMED],
    }
    return dict(finite(results))


def _check_windows(view: ViewSpec, config: EvaluateConfig) -> None:
    if isinstance(view, GroundView) or (not config.turned and config.fov_deg == [360.0]):
        return
    if isinstance(view, PlanView):
        raise ConfigError(
            f"{config.encoder}: lays photos out as plans by their heading, so turned and fov_deg below 360 are not for "
            "it: `geoview locate` tries headings; score that with --index and --photos"
        )
    raise ConfigError(
        f"{config.dataset}: its queries are seen from above; turned and fov_deg below 360 are for street photos"
    )


def _reader(pictures: PairPictures, fov_deg: float, config: EvaluateConfig) -> Callable[[int], View]:
    """Returns what reads a query as it is to be shown."""
    if fov_deg == 360 and not config.turned:
        return pictures.query

    def read(row: int) -> View:
        turn_deg = np.random.default_rng([config.seed, row]).uniform(0, 360) if config.turned else 0.0
        return pictures.window(row, turn_deg=turn_deg, window_deg=fov_deg)

    return read


def _stamps(side: Side, imagery: Sequence[str], latlon_deg: NDArray[np.float64]) -> list[Any]:
    """Returns what tells the pictures of a side from others; of a folder of z/x/y tiles that is its own time only."""
    # The files as they were named may be manifests, which say how the rasters are shown.
    parts = [] if side.imagery is None else [*imagery, *(part.uri for part in side.imagery.parts())]
    cut = zip(side.paths, latlon_deg.tolist(), strict=True)
    return [[file_stamp(part) for part in parts], [file_stamp(path) if path else at_deg for path, at_deg in cut]]


def _unreadable(vectors: NDArray[np.float32], side: Side, latlon_deg: NDArray[np.float64]) -> list[str]:
    """Names the pictures without embedding, by file or position."""
    rows = np.flatnonzero(np.isnan(vectors[:, 0])).tolist()
    return [side.paths[i] or f"{latlon_deg[i, 0]:.6f},{latlon_deg[i, 1]:.6f}" for i in rows]


def _percent_k(n_references: int) -> int:
    return max(1, n_references // 100)


@dataclass(frozen=True)
class _Outcome:
    """How each of Q queries came out; None for what does not apply.

    Attributes:
        rank: (Q,) rank from 1 of the true reference, the first where there are several.
        hit_rank: (Q,) the same without semi-positives among the competitors.
        precision: (Q,) average precision.
        error_m: (Q, 10) distances of the first answers, best first, infinite where there is none.
    """

    rank: NDArray[np.int64]
    hit_rank: NDArray[np.int64] | None = None
    precision: NDArray[np.float64] | None = None
    error_m: NDArray[np.float64] | None = None


def _scores(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    table: PairTable,
    protocol: Protocol,
    config: EvaluateConfig,
) -> dict[str, Any]:
    device = resolve_device(config.device)
    error_m = _errors_m(queries, gallery, table, device)
    queries, gallery = _with_last_answers(queries, gallery)
    outcome = _outcome(queries, gallery, table, protocol, device, error_m)
    blocks = table.blocks()
    percent_k = _percent_k(len(gallery))

    def figures(rows: NDArray[np.intp]) -> dict[str, Any]:
        return _figures(outcome, rows, blocks, percent_k, protocol, config.seed)

    scores = figures(np.arange(len(table)))
    city = np.array(table.city)
    scores["cities"] = {
        name: {"n_queries": int((city == name).sum()), **figures(np.flatnonzero(city == name))}
        for name in sorted(set(table.city) - {""})
    }
    if config.as_published:
        asked = np.isin(table.reference_place, table.place)
        rank, precision = _first_ranks(queries, gallery[asked], table.place, table.reference_place[asked], device)
        percent_k = _percent_k(int(asked.sum()))
        removed = _figures(
            _Outcome(rank, precision=precision), np.arange(len(table)), blocks, percent_k, protocol, config.seed
        )
        scores["distractors_removed"] = {
            "n_references": int(asked.sum()),
            "r1_percent_k": percent_k,
            "what": "as the published code of Sample4Geo and its forks scores: references of buildings that no query "
            "is of are left out of the gallery; the other figures keep them, as the data set's own code does",
            **removed,
        }
    return scores


def _with_last_answers(
    queries: NDArray[np.float32], gallery: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gives references without embedding one that every query takes for its last answer.

    `ranks` lets what is not finite beat all, as an encoder that overflows must not win; here it is the file's fault. In
    one more dimension all other products stay what they are, in -1 to 1, and theirs are -4.
    """
    unreadable = np.isnan(gallery[:, 0])
    if not unreadable.any():
        return queries, gallery
    last = np.zeros((len(gallery), gallery.shape[1] + 1), np.float32)
    last[~unreadable, :-1] = gallery[~unreadable]
    last[unreadable, -1] = -4
    return np.pad(queries, ((0, 0), (0, 1)), constant_values=1), last


def _outcome(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    table: PairTable,
    protocol: Protocol,
    device: torch.device,
    error_m: NDArray[np.float64] | None,
) -> _Outcome:
    place, n_pictures = np.unique(table.reference_place, return_counts=True)
    several = bool((n_pictures[np.isin(place, table.place)] > 1).any())
    precision = hit_rank = None
    if protocol.average_precision or several:
        rank, precision = _first_ranks(queries, gallery, table.place, table.reference_place, device)
    else:
        rank = ranks(queries, gallery, table.positive, device=device)
    if (table.semi_positive >= 0).any():
        hit_rank = ranks(queries, gallery, table.positive, ignored=table.semi_positive, device=device)
    return _Outcome(rank, hit_rank, precision, error_m)


def _first_ranks(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    place: NDArray[np.int64],
    gallery_place: NDArray[np.int64],
    device: torch.device,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns (Q,) ranks of the first true references, and (Q,) average precisions."""
    rank, offsets = ranks_of_all(queries, gallery, place, gallery_place, device=device)
    return rank[offsets[:-1]], average_precision(rank, offsets)


def _errors_m(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], table: PairTable, device: torch.device
) -> NDArray[np.float64] | None:
    if not (np.isfinite(table.latlon_deg).all() and np.isfinite(table.reference_latlon_deg).all()):
        return None
    numbers = np.arange(len(gallery))
    starts = range(0, len(gallery), _BLOCK_ROWS)
    blocks = ((numbers[i : i + _BLOCK_ROWS], gallery[i : i + _BLOCK_ROWS]) for i in starts)
    row, _ = top_k(queries, blocks, max(RANKS), device=device)
    error_m = distance_m(table.latlon_deg[:, None], table.reference_latlon_deg[row])
    return np.where(row >= 0, error_m, np.inf)


def _figures(
    outcome: _Outcome,
    rows: NDArray[np.intp],
    blocks: NDArray[np.uint64],
    percent_k: int,
    protocol: Protocol,
    seed: int,
) -> dict[str, Any]:
    """Sums some queries up."""
    rank = outcome.rank[rows]
    found: dict[str, Any] = {f"recall_at_{k}": recall_at(rank, k) for k in RANKS}
    found["recall_at_1_percent"] = recall_at(rank, percent_k)
    each: dict[str, NDArray[Any]] = {"recall_at_1": rank == 1}
    if outcome.hit_rank is not None:
        each["hit_rate"] = outcome.hit_rank[rows] == 1
    if outcome.precision is not None:
        each["average_precision"] = outcome.precision[rows]
    found |= {name: float(values.mean()) for name, values in each.items()}
    if outcome.error_m is not None:
        error_m = outcome.error_m[rows]
        if protocol.within_m is not None:
            found[f"recall_at_1_within_{protocol.within_m:g}_m"] = recall_within(error_m, 1, protocol.within_m)
        found |= {f"recall_at_{k}_within_{r}_m": recall_within(error_m, k, r) for k in RANKS for r in RADII_M}
        found["median_error_m"] = float(np.median(error_m[:, 0]))
    found["intervals"] = {name: bootstrap_interval(values, seed, groups=blocks[rows]) for name, values in each.items()}
    return found
