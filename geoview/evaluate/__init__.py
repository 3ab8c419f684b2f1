"""How good answers are: data sets scored with an encoder, and photos of known position with an index."""

from geoview.evaluate.places import RADII_M, RANKS, errors_m, score_places

__all__ = ["RADII_M", "RANKS", "errors_m", "score_places"]
