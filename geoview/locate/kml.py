"""KML 2.2 (OGC 07-147r2), as Google Earth and GIS open it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Any, TextIO
from xml.etree import ElementTree

from geoview.locate.candidates import COLUMNS, circle, rows
from geoview.locate.localizer import Localization

__all__ = ["write_kml"]

_TYPES = {str: "string", int: "int", float: "double"}
# Colour (alpha, blue, green, red) and size of the marks of the first, second and third place, and of all after.
_MARKS = (("ff0c41c2", 1.3), ("ff1673f9", 1.1), ("ff4db8fd", 1.0), ("ffb8a394", 0.8))


def write_kml(answers: Iterable[Localization], file: TextIO) -> None:
    """Writes a folder a photo, in it a placemark a candidate, and the circles of those that have a radius.

    Marks are told apart by colour and size alone: an icon would be asked of some server. A failed photo has a placemark
    without geometry.
    """
    file.write('<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2">\n<Document>\n')
    for element in _head():
        file.write(_xml(element))
    for answer in answers:
        file.write(_xml(_folder(answer)))
    file.write("</Document>\n</kml>\n")


def _head() -> Iterator[ElementTree.Element]:
    for rank, (colour, scale) in enumerate(_MARKS, start=1):
        style = ElementTree.Element("Style", id=f"rank{rank}")
        mark = _within(style, "IconStyle")
        _within(mark, "color", colour)
        _within(mark, "scale", str(scale))
        line = _within(style, "LineStyle")
        _within(line, "color", colour)
        _within(line, "width", "2")
        _within(_within(style, "PolyStyle"), "fill", "0")
        yield style
    schema = ElementTree.Element("Schema", name="candidate", id="candidate")
    for name, kind in COLUMNS.items():
        ElementTree.SubElement(schema, "SimpleField", name=name, type=_TYPES[kind])
    yield schema


def _folder(answer: Localization) -> ElementTree.Element:
    table = list(rows([answer]))
    folder = ElementTree.Element("Folder")
    _within(folder, "name", table[0]["query"])
    for row in table:
        placemark = _placemark(folder, row)
        values = _within(_within(placemark, "ExtendedData"), "SchemaData", schemaUrl="#candidate")
        for name, value in _told(row).items():
            _within(values, "SimpleData", str(value), name=name)
        if row["lat"] is not None:
            _within(_within(placemark, "Point"), "coordinates", f"{row['lon']},{row['lat']}")
    if circled := [row for row in table if row["radius_m"] is not None]:
        circles = _within(folder, "Folder")
        _within(circles, "name", f"{table[0]['query']}: radius_m")
        for row in circled:
            shape = _within(_placemark(circles, row), "MultiGeometry")
            for part in circle(row).geoms:
                polygon = _within(shape, "Polygon")
                _within(polygon, "tessellate", "1")
                ring = _within(_within(polygon, "outerBoundaryIs"), "LinearRing")
                _within(ring, "coordinates", " ".join(f"{lon:.7f},{lat:.7f}" for lon, lat in part.exterior.coords))
    return folder


def _placemark(folder: ElementTree.Element, row: dict[str, Any]) -> ElementTree.Element:
    placemark = _within(folder, "Placemark")
    _within(placemark, "name", str(row["rank"] or row["status"]))
    # Descriptions are HTML.
    told = (f"{name}: {html.escape(str(value))}" for name, value in _told(row).items())
    _within(placemark, "description", "<br>".join(told))
    if row["rank"] is not None:
        _within(placemark, "styleUrl", f"#rank{min(row['rank'], len(_MARKS))}")
    return placemark


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value not in (None, "")}


def _within(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _xml(element: ElementTree.Element) -> str:
    return ElementTree.tostring(element, encoding="unicode") + "\n"
