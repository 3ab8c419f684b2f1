"""Encoders: one set of weights for the view from the ground and the view from above."""

from geoview.models.encoder import CrossViewEncoder

__all__ = ["CrossViewEncoder"]
