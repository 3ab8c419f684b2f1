"""What makes scores of an index probabilities, and answers trustworthy: a temperature, and where to say "not here"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from geoview.config import Dates
from geoview.errors import ConfigError
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.locate.posterior import Place, Posterior
from geoview.locate.surface import Surface

__all__ = ["CONFIDENCE", "Calibration", "OfKind", "Shown", "shown_by", "turning"]

#: Probability that a photo was taken within `radius_m` of the right place.
CONFIDENCE = 0.9

#: What a photo shows, by how wide it looks: how much that says of where it was taken differs.
Shown = Literal["panorama", "perspective", "aerial"]


def shown_by(fov_deg: float | None) -> Shown:
    """Returns the kind of a photo that spans so much; None is one from above."""
    return "aerial" if fov_deg is None else "panorama" if fov_deg >= 180 else "perspective"


def turning(vectors: NDArray[np.float32], headings_deg: NDArray[np.float64]) -> float | None:
    """Returns how much the embedding of a photo changes with the heading it is taken to have, 0 to 1.

    A photo that shows nothing looks alike from all sides. None where no two headings were tried.

    Args:
        vectors: (V, dim) unit vectors.
        headings_deg: (V,) the heading of each; NaN where it does not matter.
    """
    if len(np.unique(headings_deg[np.isfinite(headings_deg)])) < 2:
        return None
    return float(1 - np.linalg.norm(vectors.mean(axis=0)))


@dataclass(frozen=True)
class OfKind:
    """What was fitted on photos that show the same.

    Attributes:
        temperature: That turns scores into probabilities: the one under which where the photos were taken is likeliest.
        sharpness: Temperature of the mean that refines a position; None leaves it as it was found.
        radius_m: Of the two numbers, the first is what `radius_m` of a place is at least, the second what the
            posterior's own quantile counts.
        least_evidence: Of `Surface.evidence` at the best place; below, a photo is "not here". None refuses none.
        least_turning: Of `turning`, likewise; None where headings are not tried. Both together refuse 5 % of the photos
            that they were fitted on.
    """

    temperature: float
    sharpness: float | None
    radius_m: tuple[float, float]
    least_evidence: float | None
    least_turning: float | None

    def placed(self, surface: Surface, place: Place) -> Place:
        """Returns a place with its position refined, and with its radius and probability."""
        refined_deg = np.array(place.latlon_deg)
        if self.sharpness is not None:
            refined_deg = surface.refined_deg(place.cell_id, self.sharpness)
        least_m, counts = self.radius_m
        return replace(
            place,
            latlon_deg=(float(refined_deg[0]), float(refined_deg[1])),
            radius_m=least_m + counts * surface.quantile_m(refined_deg, CONFIDENCE, self.temperature),
            p_within_100m=float(np.exp(surface.log_mass(refined_deg, self.temperature))),
        )

    def of_logarithms(self) -> OfKind:
        """Returns the same for surfaces whose scores are logarithms of probabilities already."""
        sharpness = None if self.sharpness is None else self.sharpness / self.temperature
        return replace(self, temperature=1.0, sharpness=sharpness, least_evidence=None, least_turning=None)


@dataclass(frozen=True)
class Calibration:
    """What was fitted on photos of known place.

    Attributes:
        on: Whether these were real photos, or rendered ones.
        general: Of all photos together, for kinds of which too few were seen: these are never refused.
        kinds: By what photos show.
        kappa: Weight of ground photos in the scores.
        offset: Of cells without a prototype in the scores.
        rerank: So many cells were looked at again.
    """

    on: Literal["photos", "rendered"]
    general: OfKind
    kinds: Mapping[Shown, OfKind]
    kappa: float
    offset: float
    rerank: int

    @classmethod
    def of(cls, index: CellIndex) -> Self | None:
        """Returns an index's calibration; None before it has one.

        Raises:
            ConfigError: It was written by another geoview.
        """
        said = index.manifest.calibration
        if said is None:
            return None
        try:
            kinds = {shown: _of_kind(each) for shown, each in said["kinds"].items()}
            values = {name: said[name] for name in ("on", "kappa", "offset", "rerank")}
            return cls(general=_of_kind(said["general"]), kinds=kinds, **values)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{index.path}: its calibration is of another geoview ({error}); run `geoview index calibrate` again"
            ) from error

    def to_manifest(self) -> dict[str, Any]:
        """Returns what is written of it."""
        return asdict(self)

    def is_of(self, index: CellIndex, *, kappa: float | Fusion | None, dates: Dates, rerank: int) -> bool:
        """Tells whether scores of such a search are those that were calibrated.

        Args:
            index: That is searched.
            kappa: Weight of ground photos; None is what the index was fitted to.
            dates: What counts of several dates of a cell.
            rerank: So many cells are looked at again.

        Raises:
            ConfigError: Ground photos are to count, and the index has none.
        """
        fusion = index.fusion_at(kappa)
        same_dates = dates == "max" or index.dates_a_cell == 1
        return same_dates and (self.kappa, self.offset, self.rerank) == (fusion.kappa, fusion.offset, rerank)

    def of_kind(self, shown: Shown) -> OfKind:
        """Returns what was fitted on photos that show this."""
        return self.kinds.get(shown, self.general)

    def refuses(self, surface: Surface, places: Sequence[Place], turned: float | None, shown: Shown) -> bool:
        """Tells whether a photo is "not here".

        Args:
            surface: Of the photo.
            places: Its places, best first.
            turned: Its `turning`.
            shown: What it shows.
        """
        kind = self.of_kind(shown)
        if not places:
            return False
        if kind.least_turning is not None and turned is not None and turned < kind.least_turning:
            return True
        if kind.least_evidence is None:
            return False
        return surface.evidence(np.array(places[0].latlon_deg), kind.temperature) < kind.least_evidence

    def posterior(self, surface: Surface, shown: Shown) -> Posterior:
        """Returns where a photo that shows this may have been taken."""
        return surface.posterior(self.of_kind(shown).temperature)


def _of_kind(said: Mapping[str, Any]) -> OfKind:
    return OfKind(**{**said, "radius_m": tuple(said["radius_m"])})
