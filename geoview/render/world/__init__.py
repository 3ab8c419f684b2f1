"""Procedural regions: `styles` says what there is, `landuse` plans it, `state` builds and paints it at a date."""

from geoview.render.world.make import STYLES, TRAINING_STYLES, UNSEEN_STYLE, State, World, WorldObject, make_world

__all__ = ["STYLES", "TRAINING_STYLES", "UNSEEN_STYLE", "State", "World", "WorldObject", "make_world"]
