"""What makes an index's scores probabilities, fitted on photos of known place that it has not seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from tqdm import tqdm

import tiles
from geoview.config import BuildConfig, CalibrateConfig, InferenceConfig
from geoview.data.pairs import PairTable
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import ConfigError
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.index.remote import local_folder
from geoview.locate.calibration import CONFIDENCE, Calibration, OfKind, Shown, shown_by, turning
from geoview.locate.embedding import EmbeddedPhoto, PhotoView
from geoview.locate.localizer import Localizer, Search
from geoview.locate.posterior import Place
from geoview.locate.surface import WITHIN_M, Surface, disc_deg
from geoview.metrics import brier_score, calibration_error
from geoview.render.region import REFERENCE_EPOCH, write_region
from geoview.render.world import make_world

__all__ = ["KEPT", "Sighting", "calibrate", "fit_calibration", "sighted", "sightings", "weighed"]

log = logging.getLogger(__name__)

#: Share of photos that are not refused.
KEPT = 0.95

# Photos that are found, without which nothing is fitted; and photos of a kind, without which it is not told apart.
_LEAST_FOUND, _LEAST_SHOWN = 30, 40
# Photos of a kind that are found, without which its places are refined, and its radii told, as those of all are.
_LEAST_NEAR = 20
_SHOWN: tuple[Shown, ...] = ("panorama", "perspective", "aerial")
# Places that are weighed for each photo, and their least distance, as `Localizer.answer` has it.
_SEARCH = Search(top_k=10, apart_m=WITHIN_M)
_TEMPERATURES = (1e-3, 1.0)
# How much flatter than probability the weights may be that refine positions; None leaves them as they are.
_FLATTER = (None, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Where photos are rendered when none are given: worlds that no encoder has learnt from.
_WORLDS: tuple[tuple[Literal["european_town", "american_grid", "rural"], int], ...] = (
    ("european_town", 700_001),
    ("american_grid", 700_002),
    ("rural", 700_003),
)
_WORLD_M, _RANGE_M, _N_PHOTOS = 1200.0, 100.0, 80


@dataclass(frozen=True)
class Sighting:
    """A photo of known place, and what an index makes of it.

    Attributes:
        photo: The photo.
        places: Its best cells as distinct places.
        surface: Its scores around them and around where it was taken.
        truth_deg: (2,) where it was taken.
    """

    photo: EmbeddedPhoto
    places: list[Place]
    surface: Surface
    truth_deg: NDArray[np.float64]

    @property
    def shown(self) -> Shown:
        """What it shows."""
        return shown_by(self.photo.fov_deg)


def calibrate(index: CellIndex, config: CalibrateConfig) -> dict[str, Any]:
    """Fits an index's calibration and commits it.

    Photos are told their field of view, and neither position nor heading, as most are asked. Without photos, three
    small regions are made up and indexed with the index's own encoder at its own level, and photos of them rendered.

    Args:
        index: To calibrate.
        config: Photos, and how the encoder is run.

    Returns:
        What was committed; with `unusable_photos`, of those given, that cannot be read or tell no position.

    Raises:
        ConfigError: The index is at an address; there are too few photos of known place that it covers and finds; or
            none are given, and it weighs ground photos, or `view` is not `ground`.
        TilesError: Cells are to be looked at again, and the imagery cannot be opened.
    """
    local_folder(index.path)  # an index at an address is refused before anything is done
    imagery = tiles.open_source(config.imagery or index.manifest.imagery) if config.rerank else None
    search = replace(_SEARCH, kappa=index.fusion, rerank=config.rerank)
    if config.photos:
        view = PhotoView(config.view, config.fov_deg, config.gsd_m)
        queries = [PhotoQuery(one.path, one.latlon_deg, fov_deg=one.fov_deg) for one in find_queries(config.photos)]
        seen = list(sightings(Localizer(index, config, imagery=imagery), queries, view, search))
        calibration, notes = fit_calibration(seen, "photos", search)
        notes["unusable_photos"] = len(queries) - len(seen)
    else:
        if index.fusion.kappa:
            raise ConfigError(
                f"{index.path}: weighs ground photos (kappa {index.fusion.kappa:g}), and made-up regions have none; "
                "give photos of known place with --photos"
            )
        if config.view != "ground":
            raise ConfigError("view is of photos that are given; made-up regions are photographed from the street")
        seen = [one for style, seed in _WORLDS for one in _rendered(index, style, seed, config, search)]
        calibration, notes = fit_calibration(seen, "rendered", search)
    content = {**calibration.to_manifest(), **notes}
    index.set_calibration(content)
    return content


def sightings(
    localizer: Localizer, queries: Sequence[PhotoQuery], view: PhotoView, search: Search
) -> Iterator[Sighting]:
    """Yields what an index makes of photos; those that cannot be read, or tell no position, are named and left out."""
    bar = tqdm(total=len(queries), desc="calibrate", unit="photo", disable=None, dynamic_ncols=True)
    with bar:
        for start in range(0, len(queries), localizer.config.batch_size):
            batch = localizer.embed(queries[start : start + localizer.config.batch_size], view)
            known = []
            for photo in batch:
                if photo.error:
                    log.warning("%s", photo.error)
                elif photo.latlon_deg is None:
                    log.warning("%s: has no position of its own, nor in a table; left out", photo.query.path)
                else:
                    known.append(photo)
            if known:
                yield from sighted(localizer, known, np.array([photo.latlon_deg for photo in known]), search)
            bar.update(len(batch))


def sighted(
    localizer: Localizer, photos: Sequence[EmbeddedPhoto], truth_deg: NDArray[np.float64], search: Search
) -> Iterator[Sighting]:
    """Yields what an index makes of N photos that are embedded, taken at (N, 2)."""
    found = localizer.find(photos, search)
    surfaces = localizer.surfaces(photos, found, search, truth_deg)
    for photo, mine, surface, at_deg in zip(photos, found, surfaces, truth_deg, strict=True):
        yield Sighting(photo, mine.places, surface, at_deg)


def fit_calibration(
    seen: Sequence[Sighting], on: Literal["photos", "rendered"], search: Search
) -> tuple[Calibration, dict[str, Any]]:
    """Fits a calibration.

    For panoramas, photos through a lens and photos from above, each kind for itself where enough were seen:

    * The temperature is that under which it is likeliest that each photo was taken within 100 m of where it was.
    * Positions are refined with the weights that bring the median of their errors lowest.
    * The radius is a line over the posterior's own quantile, fitted as a quantile is: by the pinball loss.
    * What is least of evidence, and of turning, refuses 5 % of the photos.

    Args:
        seen: Photos of known place.
        on: What they are.
        search: That found them: a fusion as `kappa`, and `rerank`.

    Returns:
        The calibration; and for the manifest `photos`, `uncovered_photos` and `reliability`: figures of photos whose
        blocks of ground (1 km) the temperature was not fitted on, or of the same photos where all are of one block.

    Raises:
        ConfigError: Too few photos are of ground that is covered, or are found.
    """
    covered = [one for one in seen if np.isfinite(one.surface.at(one.truth_deg))]
    if len(covered) < _LEAST_FOUND:
        raise ConfigError(
            f"{len(covered)} photos of known place were taken where the index has cells; {_LEAST_FOUND} are needed"
        )
    calibration = _fitted(covered, on, search)
    notes = {
        "photos": len(covered),
        "uncovered_photos": len(seen) - len(covered),
        "reliability": _reliability(covered, on, search, calibration),
    }
    return calibration, notes


def weighed(one: Sighting, calibration: Calibration) -> list[Place]:
    """Returns the places of a sighting as they would be answered, most probable first."""
    placed = [calibration.of_kind(one.shown).placed(one.surface, place) for place in one.places]
    return sorted(placed, key=lambda place: -(place.p_within_100m or 0.0))


def _fitted(covered: Sequence[Sighting], on: Literal["photos", "rendered"], search: Search) -> Calibration:
    temperature = _temperature(covered)
    near = _near(covered)
    if len(near) < _LEAST_FOUND:
        raise ConfigError(
            f"{len(near)} of {len(covered)} photos are found within {WITHIN_M:g} m at the first place; at least "
            f"{_LEAST_FOUND} are needed to tell how near: give more photos, or an encoder that finds more"
        )
    general = OfKind(temperature, *_placing(near, temperature), least_evidence=None, least_turning=None)
    assert isinstance(search.kappa, Fusion), "the scores are of one"
    calibration = Calibration(
        on,
        general,
        kinds={},
        kappa=search.kappa.kappa,
        offset=search.kappa.offset,
        rerank=search.rerank or 0,
    )
    for shown in _SHOWN:
        mine = [one for one in covered if one.shown == shown]
        if len(mine) >= _LEAST_SHOWN:
            kind = _unrefused(mine, general)
            kind = _refusing(mine, replace(calibration, kinds={shown: kind}))
            calibration = replace(calibration, kinds={**calibration.kinds, shown: kind})
    return calibration


def _near(covered: Sequence[Sighting]) -> list[tuple[Sighting, Place]]:
    """Returns the photos whose first place is right, and these: positions and radii are those of such."""
    return [(one, place) for one in covered for place in one.places[:1] if _apart_m(one, place.latlon_deg) <= WITHIN_M]


def _unrefused(mine: Sequence[Sighting], general: OfKind) -> OfKind:
    """Fits what photos of one kind have of their own; positions as all photos have, where too few are found."""
    temperature, near = _temperature(mine), _near(mine)
    if len(near) < _LEAST_NEAR:
        return replace(general, temperature=temperature)
    return OfKind(temperature, *_placing(near, temperature), least_evidence=None, least_turning=None)


def _placing(near: Sequence[tuple[Sighting, Place]], temperature: float) -> tuple[float | None, tuple[float, float]]:
    """Returns how positions are best refined, and how wide they are known then."""
    refined_deg = {
        sharpness: [
            np.array(place.latlon_deg) if sharpness is None else one.surface.refined_deg(place.cell_id, sharpness)
            for one, place in near
        ]
        for sharpness in (None if flatter is None else flatter * temperature for flatter in _FLATTER)
    }
    errors_m = {
        sharpness: np.array([_apart_m(one, at_deg) for (one, _), at_deg in zip(near, refined, strict=True)])
        for sharpness, refined in refined_deg.items()
    }
    sharpness = min(errors_m, key=lambda each: float(np.median(errors_m[each])))
    quantiles_m = [
        one.surface.quantile_m(at_deg, CONFIDENCE, temperature)
        for (one, _), at_deg in zip(near, refined_deg[sharpness], strict=True)
    ]
    return sharpness, _quantile_line(np.array(quantiles_m), errors_m[sharpness], CONFIDENCE)


def _temperature(seen: Sequence[Sighting]) -> float:
    around = [one.surface.at(disc_deg(one.truth_deg)) for one in seen]

    def unlikely(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        told = [
            one.surface.log_mass_of(scores / temperature, temperature) for one, scores in zip(seen, around, strict=True)
        ]
        return -float(np.mean(told))

    bounds = tuple(map(math.log, _TEMPERATURES))
    return math.exp(minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 0.01}).x)


def _refusing(mine: Sequence[Sighting], calibration: Calibration) -> OfKind:
    """Returns what photos of one kind have of their own, with what refuses 5 % of them."""
    kind = calibration.of_kind(mine[0].shown)
    best = [weighed(one, calibration)[0] for one in mine]
    evidence = np.array(
        [
            one.surface.evidence(np.array(place.latlon_deg), kind.temperature)
            for one, place in zip(mine, best, strict=True)
        ]
    )
    turned = [turning(one.photo.vectors, one.photo.headings_deg) for one in mine]
    if any(value is None for value in turned):
        return replace(kind, least_evidence=float(np.quantile(evidence, 1 - KEPT)))
    turns = np.array(turned, np.float64)
    # Each refuses as much as the other, and both together what is left.
    for share in np.linspace(1 - KEPT, 0.0, 51):
        least, turn = float(np.quantile(evidence, share)), float(np.quantile(turns, share))
        if ((evidence >= least) & (turns >= turn)).mean() >= KEPT:
            break
    return replace(kind, least_evidence=least, least_turning=turn)


def _quantile_line(x: NDArray[np.float64], y: NDArray[np.float64], share: float) -> tuple[float, float]:
    """Returns (a, b), neither negative, of the line a + b x below which a share of y lies (Koenker & Bassett, 1978)."""
    lines = []
    for slope in np.linspace(0.0, 2.0, 41):
        offset = max(0.0, float(np.quantile(y - slope * x, share)))
        beyond = y - offset - slope * x
        lines.append((float(np.maximum(share * beyond, (share - 1) * beyond).mean()), offset, float(slope)))
    return min(lines)[1:]


def _reliability(
    covered: Sequence[Sighting], on: Literal["photos", "rendered"], search: Search, whole: Calibration
) -> dict[str, float]:
    names = [one.photo.query.path for one in covered]
    truth_deg = np.array([one.truth_deg for one in covered])
    _, block = np.unique(PairTable.of(names, names, latlon_deg=truth_deg).blocks(), return_inverse=True)
    p, error_m, inside = np.empty(len(covered)), np.empty(len(covered)), np.empty(len(covered), np.bool_)
    for fold in (0, 1):
        here = block % 2 == fold
        try:
            others = [one for one, is_here in zip(covered, here, strict=True) if not is_here]
            calibration = _fitted(others, on, search) if others else whole
        except ConfigError:
            calibration = whole
        for i in np.flatnonzero(here).tolist():
            first = weighed(covered[i], calibration)[0]
            p[i], error_m[i] = first.p_within_100m or 0.0, _apart_m(covered[i], first.latlon_deg)
            inside[i] = error_m[i] <= (first.radius_m or 0.0)
    right = error_m <= WITHIN_M
    return {
        "recall_at_1_within_100_m": float(right.mean()),
        "brier": brier_score(p, right),
        "brier_of_base_rate": float(right.mean() * (1 - right.mean())),
        "calibration_error": calibration_error(p, right),
        "radius_covers": float(inside[right].mean()) if right.any() else math.nan,
    }


def _apart_m(one: Sighting, place_deg: NDArray[np.float64] | tuple[float, float]) -> float:
    return float(distance_m(one.truth_deg, np.asarray(place_deg)))


def _rendered(
    index: CellIndex,
    style: Literal["european_town", "american_grid", "rural"],
    seed: int,
    config: CalibrateConfig,
    search: Search,
) -> list[Sighting]:
    """Makes a region up, indexes it as the index is, and looks at photos of it."""
    log.info("no photos are given: renders a made-up region (%s) and photos of it", style.replace("_", " "))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world = make_world(style, seed, size_m=(_WORLD_M, _WORLD_M))
        plan = write_region(
            world,
            folder / "region",
            n_panoramas=_N_PHOTOS,
            n_perspective=_N_PHOTOS,
            seed=seed,
            epochs=(REFERENCE_EPOCH,),
            range_m=_RANGE_M,
            num_workers=config.num_workers,
        )
        inner = shapely.box(_RANGE_M, _RANGE_M, _WORLD_M - _RANGE_M, _WORLD_M - _RANGE_M)
        corners = world.grid.latlon_deg(shapely.get_coordinates(inner))
        paths = [str(folder / "region" / plan["reference"])]
        settings = BuildConfig(
            encoder=str(index.path),
            imagery=paths,
            out=str(folder / "index"),
            level=index.level,
            scales=index.manifest.scales,
            min_coverage=index.manifest.min_coverage,
            **asdict(InferenceConfig(config.batch_size, config.device, config.precision, config.num_workers)),
        )
        imagery = tiles.open_source(paths)
        made = build_index(
            index.encoder(),
            imagery,
            Region.from_geometry(shapely.Polygon(corners[:, ::-1])),
            settings.out,
            settings,
        )
        with made:
            photos = [
                PhotoQuery(photo.path, photo.latlon_deg, fov_deg=photo.fov_deg)
                for photo in find_queries([folder / "region" / "photos.csv"])
            ]
            localizer = Localizer(made, config, imagery=imagery if config.rerank else None)
            return list(sightings(localizer, photos, PhotoView(), search))
