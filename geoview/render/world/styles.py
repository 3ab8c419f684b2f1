"""What tells one kind of region from another: street net, mix of land uses, colours, climate, places on the globe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["MATERIALS", "STYLE", "STYLES", "TRAINING_STYLES", "UNSEEN_STYLE", "Look", "Material", "Rgb", "Style"]

Rgb = tuple[int, int, int]

TRAINING_STYLES: tuple[str, ...] = ("european_town", "american_grid", "arid", "rural")
UNSEEN_STYLE = "waterfront"
STYLES: tuple[str, ...] = (*TRAINING_STYLES, UNSEEN_STYLE)


class Material(IntEnum):
    """What a pixel of the ground is made of."""

    GRASS = 0
    LAWN = 1
    SOIL = 2
    CROP = 3
    ASPHALT = 4
    PAVING = 5
    CONCRETE = 6
    GRAVEL = 7
    DIRT = 8
    SAND = 9
    WATER = 10
    PAINT = 11
    ROCK = 12
    HEDGE = 13
    WALL = 14
    MOVABLE = 15
    LITTER = 16
    COURT = 17


@dataclass(frozen=True)
class Look:
    """How a material varies: relative amplitude of broad and of fine noise, and how much it dries out in patches."""

    broad: float
    fine: float
    patchy: float = 0.0


MATERIALS: dict[Material, Look] = {
    Material.GRASS: Look(0.10, 0.09, 0.9),
    Material.LAWN: Look(0.06, 0.07, 0.6),
    Material.SOIL: Look(0.12, 0.07, 0.25),
    Material.CROP: Look(0.06, 0.06, 0.35),
    Material.ASPHALT: Look(0.08, 0.04),
    Material.PAVING: Look(0.06, 0.06),
    Material.CONCRETE: Look(0.08, 0.05),
    Material.GRAVEL: Look(0.09, 0.08),
    Material.DIRT: Look(0.10, 0.06, 0.1),
    Material.SAND: Look(0.06, 0.03, 0.1),
    Material.WATER: Look(0.05, 0.02),
    Material.PAINT: Look(0.05, 0.05),
    Material.ROCK: Look(0.12, 0.18),
    Material.HEDGE: Look(0.08, 0.16),
    Material.WALL: Look(0.05, 0.05),
    Material.MOVABLE: Look(0.0, 0.04),
    Material.LITTER: Look(0.12, 0.14, 0.5),
    Material.COURT: Look(0.03, 0.03),
}


@dataclass(frozen=True)
class Style:
    """Parameters of a kind of region.

    Attributes:
        anchors_deg: Places (latitude, longitude) around which such regions lie.
        regular: Whether streets form a right-angled grid; otherwise areas are split again and again, askew.
        block_m2: Area of a block in the densest and in the most open parts.
        skew_deg: Standard deviation of the angle at which a street leaves the right angle.
        bend_m: Amplitude of the smooth displacement that bends all lines.
        street_m: Carriageway widths of main roads, streets and lanes.
        pavement_m: Width of the pavements beside them.
        lane: Material of the lanes (the smallest streets).
        relief_m: Least and greatest height of the hills.
        river: "river", "stream", "wadi", "coast" or "" for none.
        river_share: Probability of it.
        rail_share: Probability of a railway.
        freeway_share: Probability of a freeway.
        mix: (land use, share of the area) from the densest to the most open.
        ground: Colour of the land that nothing covers.
        asphalt: Colours of carriageways.
        roofs: Colours of pitched roofs.
        flats: Colours of flat roofs.
        street_trees: Share of streets lined with trees.
        garden_trees: Trees per 1000 m² of gardens.
        evergreen: Share of trees that never change colour.
        dry_summer: Whether grass turns yellow in summer rather than in winter.
        flat_share: Share of small houses with flat roofs.
    """

    anchors_deg: tuple[tuple[float, float], ...]
    regular: bool
    block_m2: tuple[float, float]
    skew_deg: float
    bend_m: float
    street_m: tuple[float, float, float]
    pavement_m: float
    lane: Material
    relief_m: tuple[float, float]
    river: str
    river_share: float
    rail_share: float
    freeway_share: float
    mix: tuple[tuple[str, float], ...]
    ground: Material
    asphalt: tuple[Rgb, ...]
    roofs: tuple[Rgb, ...]
    flats: tuple[Rgb, ...]
    street_trees: float
    garden_trees: float
    evergreen: float
    dry_summer: bool
    flat_share: float


_GREY_FLATS: tuple[Rgb, ...] = ((168, 166, 160), (140, 140, 138), (196, 194, 188), (112, 110, 108), (150, 144, 134))
_ASPHALT: tuple[Rgb, ...] = ((112, 112, 112), (98, 98, 100), (128, 126, 122), (120, 118, 116))

STYLE: dict[str, Style] = {
    "european_town": Style(
        anchors_deg=(
            (51.05, 13.74),
            (48.21, 16.37),
            (50.06, 19.94),
            (45.19, 5.72),
            (52.27, 10.52),
            (47.38, 8.54),
            (44.49, 11.34),
            (49.44, 1.10),
            (53.55, -1.48),
            (42.70, 23.32),
            (-31.42, -64.18),
            (-33.45, -70.66),
        ),
        regular=False,
        block_m2=(5200.0, 14000.0),
        skew_deg=11.0,
        bend_m=26.0,
        street_m=(12.0, 8.0, 5.5),
        pavement_m=2.4,
        lane=Material.ASPHALT,
        relief_m=(6.0, 24.0),
        river="river",
        river_share=0.6,
        rail_share=0.6,
        freeway_share=0.0,
        mix=(
            ("square", 0.04),
            ("perimeter", 0.34),
            ("terrace", 0.16),
            ("slabs", 0.07),
            ("school", 0.04),
            ("detached", 0.15),
            ("industry", 0.06),
            ("park", 0.06),
            ("allotments", 0.03),
            ("field", 0.03),
            ("wood", 0.02),
        ),
        ground=Material.GRASS,
        asphalt=_ASPHALT,
        roofs=((150, 88, 68), (134, 78, 62), (116, 78, 64), (164, 104, 80), (104, 92, 88), (92, 88, 88), (124, 70, 58)),
        flats=_GREY_FLATS,
        street_trees=0.4,
        garden_trees=5.5,
        evergreen=0.25,
        dry_summer=False,
        flat_share=0.12,
    ),
    "american_grid": Style(
        anchors_deg=(
            (39.10, -94.58),
            (41.59, -93.62),
            (35.47, -97.52),
            (44.95, -89.62),
            (36.15, -86.78),
            (33.75, -84.39),
            (40.58, -105.08),
            (43.62, -116.20),
            (32.78, -96.80),
            (49.90, -97.14),
            (-37.81, 145.30),
            (-31.95, 116.10),
        ),
        regular=True,
        block_m2=(9000.0, 16000.0),
        skew_deg=0.0,
        bend_m=7.0,
        street_m=(17.0, 10.0, 9.0),
        pavement_m=2.0,
        lane=Material.ASPHALT,
        relief_m=(4.0, 16.0),
        river="stream",
        river_share=0.4,
        rail_share=0.4,
        freeway_share=0.4,
        mix=(
            ("retail", 0.12),
            ("office", 0.06),
            ("detached", 0.58),
            ("school", 0.07),
            ("industry", 0.07),
            ("park", 0.06),
            ("field", 0.02),
            ("wood", 0.02),
        ),
        ground=Material.GRASS,
        asphalt=((118, 118, 120), (136, 134, 130), (104, 104, 106), (150, 147, 142)),
        roofs=(
            (112, 104, 98),
            (96, 92, 92),
            (128, 112, 98),
            (84, 80, 80),
            (140, 128, 114),
            (110, 88, 78),
            (124, 124, 126),
        ),
        flats=((206, 204, 198), (176, 174, 168), (222, 220, 214), (146, 144, 140), (188, 180, 166)),
        street_trees=0.45,
        garden_trees=5.0,
        evergreen=0.3,
        dry_summer=False,
        flat_share=0.02,
    ),
    "arid": Style(
        anchors_deg=(
            (31.63, -8.00),
            (33.89, 5.50),
            (30.05, 31.80),
            (24.47, 44.50),
            (29.60, 52.58),
            (25.38, 68.35),
            (31.68, -106.42),
            (33.40, -112.40),
            (-22.46, -68.93),
            (-22.56, 17.08),
            (-23.70, 133.87),
            (15.60, 32.10),
        ),
        regular=False,
        block_m2=(4200.0, 26000.0),
        skew_deg=5.0,
        bend_m=14.0,
        street_m=(10.0, 7.0, 5.0),
        pavement_m=1.2,
        lane=Material.DIRT,
        relief_m=(8.0, 34.0),
        river="wadi",
        river_share=0.85,
        rail_share=0.15,
        freeway_share=0.0,
        mix=(
            ("square", 0.02),
            ("walled", 0.42),
            ("school", 0.03),
            ("industry", 0.05),
            ("orchard", 0.11),
            ("pivot", 0.07),
            ("field", 0.06),
            ("scrub", 0.24),
        ),
        ground=Material.SOIL,
        asphalt=((138, 132, 124), (122, 118, 114), (150, 142, 132)),
        roofs=((186, 164, 138), (170, 130, 104), (196, 178, 154)),
        flats=((206, 192, 170), (188, 170, 146), (222, 212, 196), (176, 158, 136), (198, 180, 152), (164, 152, 140)),
        street_trees=0.12,
        garden_trees=2.2,
        evergreen=0.9,
        dry_summer=True,
        flat_share=0.94,
    ),
    "rural": Style(
        anchors_deg=(
            (47.00, -0.20),
            (52.60, 1.00),
            (55.60, 9.60),
            (48.40, 12.60),
            (46.20, 20.60),
            (52.30, 21.60),
            (42.60, -88.90),
            (40.30, -80.30),
            (45.40, -73.00),
            (-34.60, -60.90),
            (-38.00, 176.30),
            (-28.00, 30.60),
        ),
        regular=False,
        block_m2=(9000.0, 95000.0),
        skew_deg=14.0,
        bend_m=42.0,
        street_m=(8.0, 6.0, 3.6),
        pavement_m=0.0,
        lane=Material.GRAVEL,
        relief_m=(10.0, 40.0),
        river="stream",
        river_share=0.8,
        rail_share=0.25,
        freeway_share=0.0,
        mix=(
            ("terrace", 0.02),
            ("detached", 0.10),
            ("school", 0.01),
            ("allotments", 0.01),
            ("farmstead", 0.10),
            ("field", 0.54),
            ("orchard", 0.04),
            ("meadow", 0.07),
            ("wood", 0.11),
        ),
        ground=Material.GRASS,
        asphalt=((124, 122, 118), (112, 110, 108), (136, 132, 126)),
        roofs=((146, 90, 70), (112, 82, 68), (98, 92, 90), (128, 106, 92), (134, 76, 60)),
        flats=_GREY_FLATS,
        street_trees=0.25,
        garden_trees=6.0,
        evergreen=0.25,
        dry_summer=False,
        flat_share=0.04,
    ),
    "waterfront": Style(
        anchors_deg=(
            (53.90, 10.70),
            (43.30, 5.90),
            (59.30, 17.90),
            (40.60, 14.60),
            (45.60, 13.80),
            (37.80, -122.20),
            (41.20, -72.90),
            (47.60, -122.40),
            (35.40, 139.60),
            (-33.90, 151.00),
            (-34.00, 18.70),
            (-23.90, -46.40),
        ),
        regular=False,
        block_m2=(9000.0, 26000.0),
        skew_deg=5.0,
        bend_m=10.0,
        street_m=(13.0, 9.0, 6.5),
        pavement_m=2.8,
        lane=Material.ASPHALT,
        relief_m=(4.0, 22.0),
        river="coast",
        river_share=1.0,
        rail_share=0.6,
        freeway_share=0.0,
        mix=(
            ("containers", 0.13),
            ("industry", 0.20),
            ("square", 0.03),
            ("office", 0.08),
            ("slabs", 0.26),
            ("perimeter", 0.08),
            ("detached", 0.08),
            ("park", 0.09),
            ("wood", 0.05),
        ),
        ground=Material.GRASS,
        asphalt=_ASPHALT,
        roofs=((120, 116, 112), (142, 104, 88), (98, 102, 106), (134, 130, 124), (112, 92, 82)),
        flats=((184, 182, 178), (158, 158, 156), (206, 206, 202), (134, 134, 134), (170, 160, 148)),
        street_trees=0.4,
        garden_trees=5.0,
        evergreen=0.4,
        dry_summer=True,
        flat_share=0.2,
    ),
}
