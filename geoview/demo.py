"""The whole story on a region made up for it: imagery to index, photos to places, and how many are right."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from tqdm import tqdm

import tiles
from geoview.config import BuildConfig, DemoConfig, InferenceConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import OutputExistsError, RenderError
from geoview.evaluate import score_places
from geoview.files import full_disk_told, remove_folder, write_binary, write_json, write_text
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.locate.formats import write_geojson
from geoview.locate.localizer import Localization, Localizer
from geoview.locate.page import write_html
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.claim import claim
from geoview.render.region import REFERENCE_EPOCH, write_features, write_region
from geoview.render.world import make_world
from geoview.sheet import draw_sheet

__all__ = [
    "APART_M",
    "LEVEL",
    "TOP_K",
    "DemoRegion",
    "DemoSize",
    "demo",
    "index_region",
    "locate_unaided",
    "make_region",
    "score",
    "summary",
]

log = logging.getLogger(__name__)

#: S2 level of the demo's index: cells about 16 m wide, as the shipped encoder has learnt to be off a photo at most.
LEVEL = 19
#: Places that are answered for each photo, and the least distance between two of them.
TOP_K, APART_M = 10, 100.0

_RANGE_M = 100.0
_KINDS = ("panoramas", "perspective")
# Photos of each kind.
_ON_PAGE, _ON_SHEET = 12, 6
_MADE = ("report.json", "candidates.geojson", "map.html", "sheet.jpg")


@dataclass(frozen=True)
class DemoSize:
    """How much is made.

    Attributes:
        side_m: Width and height of the region; cameras stand 100 m and more within.
        n_panoramas: Photos all round.
        n_perspective: Photos through a lens.
        least_cells: What the index must have at least.
    """

    side_m: float = 1400.0
    n_panoramas: int = 300
    n_perspective: int = 300
    least_cells: int = 1500


@dataclass(frozen=True)
class DemoRegion:
    """A region that is made.

    Attributes:
        reference: The orthophoto that chips are cut from.
        outline: File of the ground on which cameras stand, for the index to cover.
        photos: Photos with all that is true of them; `fov_deg` is 360 for panoramas.
    """

    reference: Path
    outline: Path
    photos: list[PhotoQuery]

    def truth_deg(self) -> NDArray[np.float64]:
        """Returns the true positions, (N, 2)."""
        return np.array([photo.latlon_deg for photo in self.photos], np.float64).reshape(-1, 2)

    def of_kind(self, kind: str) -> NDArray[np.intp]:
        """Returns which photos are `panoramas`, or `perspective`."""
        panorama = np.array([photo.fov_deg == 360 for photo in self.photos], np.bool_)
        return np.flatnonzero(panorama == (kind == "panoramas"))


def demo(config: DemoConfig, size: DemoSize | None = None) -> dict[str, Any]:
    """Makes a region nobody has seen, indexes it, locates photos of it and writes what came out.

    * `region/`: orthophoto, heights, outlines, photos; `outline.geojson`, where cameras stand.
    * `index/`: the index. `training/`: with `train`, the lessons, the run and the encoder.
    * `candidates.geojson`, `map.html`, `sheet.jpg`: the answers, and some of them to look at.
    * `report.json`: how many photos were found; written last.

    The same call goes on with what was cut off, and returns the report of what is finished.

    Args:
        config: Folder, seed, style and encoder.
        size: How much is made.

    Returns:
        The content of `report.json`. Its `seconds` are those of the run that wrote it.

    Raises:
        OutputExistsError: The folder holds something else.
        EncoderError: There is no such encoder.
        RenderError: The region has too few cells.
        StorageFullError: The disk is full.
    """
    size = size or DemoSize()
    out = Path(config.out)
    given = None if config.train else find_encoder(config.encoder)
    _take(out, config, size, given)
    report_file = out / "report.json"
    if report_file.exists():
        log.info("%s is finished already; give --overwrite and another --seed, or another --out, for a new one", out)
        return dict(json.loads(report_file.read_text(encoding="utf-8")))

    seconds: dict[str, float] = {}
    if given is None:
        with _step(seconds, "train", "trains an encoder on rendered regions, which takes hours"):
            from geoview.lessons import Lessons, train_encoder

            given = train_encoder(out / "training", Lessons(), num_workers=config.num_workers)
    with _step(seconds, "region", f"makes up a region: {config.style}, seed {config.seed}, {size.side_m:.0f} m wide"):
        region = make_region(config, out, size)
    with _step(seconds, "index", f"indexes it: cells of level {LEVEL}, chips from {region.reference.name}"):
        index = index_region(region, given, out / "index", config)
    with _step(seconds, "locate", f"locates {len(region.photos)} photos, told neither position nor heading"):
        answers = locate_unaided(index, region.photos, config)
    for answer in answers:
        if answer.status == "failed":
            log.warning("%s", answer.error)
    with _step(seconds, "write", f"writes the answers to {out}"):
        scores = {kind: score(index, region, answers, region.of_kind(kind)) for kind in _KINDS}
        _write_answers(out, config, index, region, answers, scores)
    report = {
        "seed": config.seed,
        "style": config.style,
        "encoder": {"name": "training" if config.train else config.encoder, **index.manifest.encoder},
        "seconds": seconds,
        **scores,
    }
    write_json(report_file, report)
    return report


def make_region(config: DemoConfig, out: Path, size: DemoSize) -> DemoRegion:
    """Renders the region and its photos, or those that are not there yet.

    Args:
        config: Seed, style and number of processes.
        out: Folder to write `region/` and `outline.geojson` to.
        size: How much is made.

    Raises:
        RenderError: Fewer cells than `size.least_cells` cover the ground on which cameras stand.
        OutputExistsError: `region/` holds something else.
    """
    world = make_world(config.style, config.seed, size_m=(size.side_m, size.side_m))
    outline = out / "outline.geojson"
    width_m, height_m = world.grid.size_m
    ground = shapely.box(_RANGE_M, _RANGE_M, width_m - _RANGE_M, height_m - _RANGE_M)
    write_features(outline, world.grid, [(ground, {"name": "where cameras stand"})])
    if (n_cells := Region.from_geojson(outline).count(LEVEL)) < size.least_cells:
        raise RenderError(
            f"{outline}: {n_cells} cells of level {LEVEL} cover it, at least {size.least_cells} are wanted; "
            "make the region larger"
        )
    folder = out / "region"
    plan = write_region(
        world,
        folder,
        n_panoramas=size.n_panoramas,
        n_perspective=size.n_perspective,
        seed=config.seed,
        epochs=(REFERENCE_EPOCH,),
        range_m=_RANGE_M,
        overwrite=config.overwrite,
        num_workers=config.num_workers,
    )
    return DemoRegion(folder / plan["reference"], outline, find_queries([folder / "photos.csv"]))


def index_region(
    region: DemoRegion, encoder: Path, out: Path, inference: InferenceConfig, *, level: int = LEVEL
) -> CellIndex:
    """Builds the index of a region, or opens the one that is finished there.

    Args:
        region: The region.
        encoder: Encoder folder.
        out: Index folder.
        inference: How the encoder is run.
        level: S2 level of the cells.

    Raises:
        OutputExistsError: The index that is finished there is of another encoder.
    """
    network = CrossViewEncoder.load(encoder)
    if (out / "manifest.json").exists():
        index = CellIndex.open(out)
        if index.manifest.encoder["fingerprint"] != network.fingerprint():
            raise OutputExistsError(f"{out}: an index of another encoder than {encoder}; remove it")
        return index
    settings = BuildConfig(
        encoder=str(encoder),
        imagery=[str(region.reference)],
        out=str(out),
        region=str(region.outline),
        level=level,
        batch_size=inference.batch_size,
        device=inference.device,
        precision=inference.precision,
        num_workers=inference.num_workers,
    )
    source = tiles.open_source(settings.imagery)
    return build_index(network, source, Region.from_geojson(region.outline), out, settings)


def locate_unaided(index: CellIndex, photos: Sequence[PhotoQuery], inference: InferenceConfig) -> list[Localization]:
    """Locates photos of which nothing but the field of view is told.

    Args:
        index: Where to search.
        photos: What is known beyond the field of view is kept from the search.
        inference: How the encoder is run.

    Returns:
        An answer a photo: `TOP_K` places at most, `APART_M` apart at least.
    """
    unaided = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in photos]
    answers = Localizer(index, inference).locate(unaided, top_k=TOP_K, apart_m=APART_M)
    bar = tqdm(answers, total=len(unaided), desc="locate", unit="photo", disable=None, dynamic_ncols=True)
    return list(bar)


def score(
    index: CellIndex, region: DemoRegion, answers: Sequence[Localization], which: NDArray[np.intp]
) -> dict[str, Any]:
    """Scores some of the answers, as JSON can hold it: an infinite error is None.

    Args:
        index: That answered.
        region: Where the photos are from.
        answers: Those of all photos.
        which: (n,) rows to score.
    """
    centres = cells.centers_deg(index.cell_ids())
    mine = [answers[i] for i in which]
    scores = score_places(mine, region.truth_deg()[which], centres)
    failed = sum(answer.status == "failed" for answer in mine)
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return {"level": index.level, "n_failed": failed, **finite}


def summary(report: dict[str, Any]) -> str:
    """Returns a report as a small table."""
    columns = "first", "among 5", "among 10", "guess", "ceiling*", "median error"
    lines = [f"{'found within 100 m':<20}" + "".join(f"{column:>10}" for column in columns[:-1]) + f"{columns[-1]:>15}"]
    for kind in _KINDS:
        s = report[kind]
        shares = [s[f"recall_at_{k}_within_100_m"] for k in (1, 5, 10)]
        shares += [s["chance_recall_at_1_within_100_m"], s["ceiling_recall_within_50_m"]]
        median_m = s["median_error_m"]
        error = "none" if median_m is None else f"{median_m:.0f} m"
        name = f"{s['n_photos']} {kind}"
        lines.append(f"{name:<20}" + "".join(f"{100 * share:8.1f} %" for share in shares) + f"{error:>15}")
    n_cells, level = report["panoramas"]["n_cells"], report["panoramas"]["level"]
    lines.append(f"{n_cells} cells of level {level}; * photos with the centre of any cell within 50 m")
    return "\n".join(lines)


def _take(out: Path, config: DemoConfig, size: DemoSize, encoder: Path | None) -> None:
    """Takes the folder for these settings, and clears what other settings made, if that is asked for."""
    plan = {
        "seed": config.seed,
        "style": config.style,
        "level": LEVEL,
        "encoder": "trained here" if encoder is None else CrossViewEncoder.load(encoder).fingerprint(),
        "size": asdict(size),
    }
    path = out / "demo.json"
    same = path.exists() and json.loads(path.read_text(encoding="utf-8")) == plan
    finished, index = same and (out / "report.json").exists(), out / "index"
    if config.overwrite and not finished and any((index / name).exists() for name in ("manifest.json", "build")):
        # It may be of another region. It goes before the new plan comes: a kill in between must not leave it to that.
        remove_folder(index)
    claim(path, plan, made=_MADE, overwrite=config.overwrite)


def _write_answers(
    out: Path,
    config: DemoConfig,
    index: CellIndex,
    region: DemoRegion,
    answers: list[Localization],
    scores: dict[str, dict[str, Any]],
) -> None:
    imagery = tiles.open_source(index.manifest.imagery)
    drawn = [_drawn(region.of_kind(kind), _ON_PAGE, (config.seed, salt)) for salt, kind in enumerate(_KINDS)]
    on_page = [i for photos in drawn for i in photos]
    on_sheet = [i for photos in drawn for i in photos[:_ON_SHEET]]
    with full_disk_told(out):
        with write_text(out / "candidates.geojson") as file:
            write_geojson(answers, file)
        with write_text(out / "map.html") as file:
            write_html((answers[i] for i in on_page), file, index=index, imagery=imagery)
        panoramas, perspective = (100 * scores[kind]["recall_at_1_within_100_m"] for kind in _KINDS)
        guess = 100 * scores["panoramas"]["chance_recall_at_1_within_100_m"]
        sheet = draw_sheet(
            [(region.photos[i], answers[i]) for i in on_sheet],
            imagery,
            index.chip,
            title=f"Where was this taken?   {config.style.replace('_', ' ')}, seed {config.seed}",
            subtitle=f"The first of {len(index):,} cells is right for {panoramas:.1f} % of all panoramas and "
            f"{perspective:.1f} % of all perspective photos; a guess, for {guess:.1f} %. These are drawn by lot.",
        )
        with write_binary(out / "sheet.jpg") as binary:
            sheet.save(binary, "JPEG", quality=90)


def _drawn(photos: NDArray[np.intp], n: int, seed: tuple[int, int]) -> list[int]:
    """Draws photos by lot, so that nobody picks the pretty ones."""
    drawn: list[int] = np.random.default_rng([17, *seed]).permutation(photos)[:n].tolist()
    return drawn


@contextmanager
def _step(seconds: dict[str, float], name: str, what: str) -> Iterator[None]:
    """Says what is being done, and takes down how long it took."""
    log.info("%s", what)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)
