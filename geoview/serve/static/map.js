/** The map: the index's own imagery, its outline, places, the heat map and the region of the search. North is up. */

import { element } from "./dom.js";
import { circle, ringOf } from "./region.js";

const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const EMPTY = { type: "FeatureCollection", features: [] };
const MARGIN_PX = 70;
const CLOSEST_ZOOM = 19;

/**
 * Opens the map of an index.
 *
 * @param {HTMLElement} container
 * @param {object} index What GET /index tells.
 * @param {(rank: number) => void} onPick A place was clicked.
 * @throws {Error} The browser has no WebGL2, or the map library cannot be loaded.
 */
export async function openMap(container, index, onPick) {
  const library = await import("./vendor/maplibre-gl/maplibre-gl.mjs");
  const map = new library.Map({
    container,
    style: style(index),
    bounds: box(index.bounds),
    fitBoundsOptions: { padding: 24 },
    attributionControl: false,
    dragRotate: false,
    pitchWithRotate: false,
    maxPitch: 0,
    maxZoom: CLOSEST_ZOOM + 2,
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new library.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new library.ScaleControl(), "bottom-left");
  map.getCanvas().setAttribute("aria-label", "Map. Arrow keys move it, + and − zoom.");
  await map.once("style.load");
  DARK.addEventListener("change", () => map.setPaintProperty("ground", "background-color", groundColour()));

  let markers = [];
  const own = new library.Marker({ element: element("div", "◆", "own") });
  own.getElement().setAttribute("aria-label", "The photo's own position");
  const data = (source, ...features) => map.getSource(source).setData({ type: "FeatureCollection", features });

  return {
    /** Shows the places of one answer; `latlon_deg` is the photo's own position, if it is told. */
    show(candidates, latlon_deg) {
      for (const marker of markers) marker.remove();
      markers = candidates.map((place) => {
        const pin = pinOf(place);
        pin.addEventListener("click", () => onPick(place.rank));
        return new library.Marker({ element: pin }).setLngLat([place.lon, place.lat]).addTo(map);
      });
      if (latlon_deg) own.setLngLat([latlon_deg[1], latlon_deg[0]]).addTo(map);
      else own.remove();
    },

    /** Marks the place that is looked at, and brings it into view. */
    select(place) {
      for (const marker of markers) {
        const chosen = marker.getElement().dataset.rank === String(place?.rank);
        marker.getElement().classList.toggle("chosen", chosen);
      }
      data("radius", ...(place?.radius_m ? [outline(circle([place.lat, place.lon], place.radius_m))] : []));
      if (!place) return;
      const { x, y } = map.project([place.lon, place.lat]);
      const { clientWidth: width, clientHeight: height } = map.getContainer();
      if (x < MARGIN_PX / 2 || y < MARGIN_PX / 2 || x > width - MARGIN_PX / 2 || y > height - MARGIN_PX / 2) {
        map.easeTo({ center: [place.lon, place.lat], animate: !STILL.matches });
      }
    },

    heat(cells) {
      const most = cells ? Math.max(...cells.features.map((cell) => cell.properties.p)) : 1;
      map.setPaintProperty("heat", "fill-color", heatColour(most));
      map.getSource("heat").setData(cells ?? EMPTY);
    },

    region(region) {
      data("region", ...(region ? [outline(region)] : []));
    },

    preview(region) {
      data("preview", ...(region ? [outline(region)] : []));
    },

    /** Shows all of some places [lon, lat]; without any, the whole index. */
    fit(lonlats) {
      map.fitBounds(lonlats.length ? bounds(lonlats) : box(index.bounds), {
        padding: MARGIN_PX,
        maxZoom: CLOSEST_ZOOM - 1,
        animate: !STILL.matches,
      });
    },

    zoomTo(place) {
      const around = circle([place.lat, place.lon], Math.max(place.radius_m ?? 0, index.chip_m));
      map.fitBounds(bounds(ringOf(around)), { padding: MARGIN_PX, maxZoom: CLOSEST_ZOOM + 1, animate: !STILL.matches });
    },

    /** South-western and north-eastern corner of what is seen. */
    visible() {
      const seen = map.getBounds();
      return [
        [seen.getWest(), seen.getSouth()],
        [seen.getEast(), seen.getNorth()],
      ];
    },

    lonlat(point) {
      return map.unproject([point.x, point.y]).toArray();
    },
  };
}

function style(index) {
  const fade = { "raster-fade-duration": STILL.matches ? 0 : 150 };
  const tiled = (url, zooms) => ({ type: "raster", tiles: [url], tileSize: 256, ...zooms });
  const drawn = (data = EMPTY) => ({ type: "geojson", data });
  const line = (id, source, color, width) => ({
    id,
    type: "line",
    source,
    paint: { "line-color": color, "line-width": width },
  });
  const fill = (id, source, paint) => ({ id, type: "fill", source, paint });

  const sources = {
    coverage: drawn(index.coverage),
    heat: drawn(),
    region: drawn(),
    radius: drawn(),
    preview: drawn(),
  };
  const layers = [{ id: "ground", type: "background", paint: { "background-color": groundColour() } }];
  if (index.basemap) {
    sources.basemap = tiled(index.basemap.url);
    layers.push({ id: "basemap", type: "raster", source: "basemap", paint: fade });
  }
  if (index.tiles) {
    const { url, minzoom, maxzoom } = index.tiles;
    // MapLibre's workers do not know where the page lies.
    sources.imagery = tiled(location.origin + url, { minzoom, maxzoom });
    layers.push({ id: "imagery", type: "raster", source: "imagery", paint: fade });
  } else {
    layers.push(fill("covered", "coverage", { "fill-color": "#64748b", "fill-opacity": 0.25 }));
  }
  // Lines are dark beneath and bright above: they are seen on any imagery.
  layers.push(
    line("coverage", "coverage", "#94a3b8", 1.5),
    fill("heat", "heat", { "fill-color": heatColour(1), "fill-antialias": false }),
    fill("region-fill", "region", { "fill-color": "#38bdf8", "fill-opacity": 0.1 }),
    line("region-halo", "region", "#0c4a6e", 4),
    line("region", "region", "#7dd3fc", 2),
    line("radius-halo", "radius", "#431407", 4),
    line("radius", "radius", "#fdba74", 2),
    line("preview-halo", "preview", "#0c4a6e", 4),
    line("preview", "preview", "#ffffff", 2),
  );
  return { version: 8, sources, layers };
}

/** Colour by the square root of the share of the most probable cell: probabilities span magnitudes. */
function heatColour(most) {
  const share = ["sqrt", ["/", ["get", "p"], most || 1]];
  const faint = [0, "rgb(254 240 138 / 0)", 0.3, "rgb(250 204 21 / 0.4)"];
  const strong = [0.7, "rgb(239 68 68 / 0.6)", 1, "rgb(157 23 77 / 0.8)"];
  return ["interpolate", ["linear"], share, ...faint, ...strong];
}

function groundColour() {
  return DARK.matches ? "#11171f" : "#e4eaf0";
}

/** A numbered mark, with an arrow the way the photo looks. */
function pinOf(place) {
  const pin = element("button", "", "pin");
  pin.type = "button";
  // The list of places is the way for the keyboard: ten more stops would only be in its way.
  pin.tabIndex = -1;
  pin.dataset.rank = place.rank;
  pin.setAttribute("aria-label", `Place ${place.rank}`);
  if (place.heading_deg !== null) {
    const arrow = element("span", "", "heading");
    arrow.style.transform = `rotate(${place.heading_deg}deg)`;
    pin.append(arrow);
  }
  pin.append(element("span", place.rank, "number"));
  return pin;
}

function outline(region) {
  return { type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: [ringOf(region)] } };
}

/** Bounds of places [lon, lat], on the first one's side of the date line. */
function bounds(lonlats) {
  const [first] = lonlats;
  const lons = lonlats.map(([lon]) => lon + 360 * Math.round((first[0] - lon) / 360));
  const lats = lonlats.map(([, lat]) => lat);
  return [Math.min(...lons), Math.min(...lats), Math.max(...lons), Math.max(...lats)];
}

/** Bounds as MapLibre takes them where they cross the date line (west > east in GeoJSON). */
function box([west, south, east, north]) {
  return [west, south, east < west ? east + 360 : east, north];
}
