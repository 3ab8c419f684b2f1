/** Drawing a region with mouse, pen or finger, on a sheet that lies over the map and keeps it still. */

import { circle, distanceM, polygon, rectangle } from "./region.js";

export const HINTS = {
  rectangle: "Drag from corner to corner.",
  polygon: "Click the corners; the first one closes it.",
  circle: "Drag from the middle outwards.",
};

const LEAST_DRAG_PX = 6;
const CLOSE_PX = 14;

/**
 * Draws one shape.
 *
 * @param {HTMLElement} sheet Lies over the map.
 * @param {"rectangle" | "polygon" | "circle"} shape
 * @param {(point: {x: number, y: number}) => [number, number]} lonlat Place under a point of the sheet.
 * @param {(region: object | null) => void} preview Shows what is drawn so far.
 * @param {AbortSignal} signal Leaves off drawing.
 * @returns {{done: Promise<object | null>, finish: () => void}} The region, or null if none was drawn; `finish` closes
 *   a polygon with the corners it has.
 */
export function draw(sheet, shape, lonlat, preview, signal) {
  const own = new AbortController();
  const listening = { signal: AbortSignal.any([own.signal, signal]) };
  let end;
  const done = new Promise((resolve) => {
    end = (region) => {
      own.abort();
      sheet.hidden = true;
      preview(null);
      resolve(region);
    };
  });
  signal.addEventListener("abort", () => end(null), { signal: own.signal });
  sheet.hidden = false;
  const tools = { sheet, lonlat, preview, end, listening };
  return { done, finish: shape === "polygon" ? byClicks(tools) : byDrag(tools, SPANNED[shape]) };
}

/** Regions that two places [lon, lat] span. */
const SPANNED = {
  rectangle: ([lon, lat], [toLon, toLat]) =>
    rectangle([Math.min(lon, toLon), Math.min(lat, toLat)], [Math.max(lon, toLon), Math.max(lat, toLat)]),
  circle: ([lon, lat], [toLon, toLat]) => circle([lat, lon], distanceM([lat, lon], [toLat, toLon])),
};

function byDrag({ sheet, lonlat, preview, end, listening }, spanned) {
  let from = null;
  const drawn = (event) => {
    const to = at(sheet, event);
    return apart(from, to) < LEAST_DRAG_PX ? null : spanned(from.place, lonlat(to));
  };
  sheet.addEventListener(
    "pointerdown",
    (event) => {
      if (!event.isPrimary || event.button) return;
      sheet.setPointerCapture(event.pointerId);
      const point = at(sheet, event);
      from = { ...point, place: lonlat(point) };
    },
    listening,
  );
  sheet.addEventListener(
    "pointermove",
    (event) => {
      if (from && event.isPrimary) preview(drawn(event));
    },
    listening,
  );
  sheet.addEventListener(
    "pointerup",
    (event) => {
      if (!from || !event.isPrimary) return;
      const region = drawn(event);
      from = null;
      if (region) end(region);
    },
    listening,
  );
  return () => end(null);
}

function byClicks({ sheet, lonlat, preview, end, listening }) {
  const corners = [];
  const show = (...more) => preview(corners.length ? polygon([...corners.map(({ place }) => place), ...more]) : null);
  const finish = () => end(corners.length < 3 ? null : polygon(corners.map(({ place }) => place)));
  sheet.addEventListener(
    "click",
    (event) => {
      const point = at(sheet, event);
      // The second click of a double click falls on the corner that the first has made.
      if (corners.length && apart(corners.at(-1), point) < CLOSE_PX) {
        if (event.detail > 1) finish();
      } else if (corners.length > 2 && apart(corners[0], point) < CLOSE_PX) {
        finish();
      } else {
        corners.push({ ...point, place: lonlat(point) });
        show();
      }
    },
    listening,
  );
  sheet.addEventListener("pointermove", (event) => show(lonlat(at(sheet, event))), listening);
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Backspace") {
        corners.pop();
        show();
      }
      if (event.key === "Enter" && event.target === document.body) finish();
    },
    listening,
  );
  return finish;
}

function apart(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}

function at(sheet, event) {
  const box = sheet.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
