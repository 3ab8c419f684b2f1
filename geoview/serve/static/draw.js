/** Drawing a region with mouse, pen or finger, on a sheet that lies over the map and keeps it still. */

import { circle, distanceM, polygon, rectangle } from "./region.js";

export const HINTS = {
  rectangle: "Drag from corner to corner.",
  polygon: "Click the corners; a double click or the first corner closes it.",
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
  const finish = shape === "polygon" ? byClicks(sheet, lonlat, preview, end, listening) : byDrag(sheet, SPANNED[shape], lonlat, preview, end, listening);
  return { done, finish };
}

/** Regions that two places [lon, lat] span. */
const SPANNED = {
  rectangle: (a, b) => rectangle([Math.min(a[0], b[0]), Math.min(a[1], b[1])], [Math.max(a[0], b[0]), Math.max(a[1], b[1])]),
  circle: ([lon, lat], [toLon, toLat]) => circle([lat, lon], distanceM([lat, lon], [toLat, toLon])),
};

function byDrag(sheet, spanned, lonlat, preview, end, listening) {
  let from = null;
  const region = (to) => spanned(lonlat(from), lonlat(to));
  const far = (to) => Math.hypot(to.x - from.x, to.y - from.y) >= LEAST_DRAG_PX;
  sheet.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return;
    sheet.setPointerCapture(event.pointerId);
    from = at(sheet, event);
  }, listening);
  sheet.addEventListener("pointermove", (event) => {
    if (from && event.isPrimary) preview(far(at(sheet, event)) ? region(at(sheet, event)) : null);
  }, listening);
  sheet.addEventListener("pointerup", (event) => {
    if (!from || !event.isPrimary) return;
    const to = at(sheet, event);
    if (far(to)) end(region(to));
    from = null;
  }, listening);
  return () => end(null);
}

function byClicks(sheet, lonlat, preview, end, listening) {
  const corners = [];
  const finish = () => end(corners.length < 3 ? null : polygon(corners.map(lonlat)));
  const near = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) < CLOSE_PX;
  sheet.addEventListener("click", (event) => {
    const point = at(sheet, event);
    // The second click of a double click falls on the corner that the first has made.
    if (corners.length && near(point, corners.at(-1))) return void (event.detail > 1 && finish());
    if (corners.length > 2 && near(point, corners[0])) return void finish();
    corners.push(point);
    preview(polygon(corners.map(lonlat)));
  }, listening);
  sheet.addEventListener("pointermove", (event) => {
    if (corners.length) preview(polygon([...corners, at(sheet, event)].map(lonlat)));
  }, listening);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Backspace") {
      corners.pop();
      preview(corners.length ? polygon(corners.map(lonlat)) : null);
    }
    if (event.key === "Enter" && event.target === document.body) finish();
  }, listening);
  return finish;
}

function at(sheet, event) {
  const box = sheet.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
