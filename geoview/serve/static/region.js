/**
 * Where to search: null is everywhere, else an area {ring: [[lon, lat], …]}, closed, or a circle
 * {latlon_deg: [lat, lon], radius_m}.
 */

import { coordinates, distance } from "./words.js";

const EARTH_RADIUS_M = 6_371_008.8;
const CIRCLE_CORNERS = 72;

export function rectangle([west, south], [east, north]) {
  return {
    ring: [
      [west, south],
      [east, south],
      [east, north],
      [west, north],
      [west, south],
    ],
  };
}

export function polygon(corners) {
  return { ring: [...corners, corners[0]] };
}

export function circle(latlon_deg, radius_m) {
  return { latlon_deg, radius_m };
}

/** The border of a region as a ring of [lon, lat]. */
export function ringOf(region) {
  if (region.ring) return region.ring;
  return Array.from({ length: CIRCLE_CORNERS + 1 }, (_, i) =>
    destination(region.latlon_deg, (360 * i) / CIRCLE_CORNERS, region.radius_m),
  );
}

/** A region as fields of POST /locate. */
export function formFields(region) {
  if (!region) return {};
  if (region.ring)
    return { region: JSON.stringify({ type: "Polygon", coordinates: [counterclockwise(onEarth(region.ring))] }) };
  const [lat, lon] = region.latlon_deg;
  return { near: `${lat.toFixed(7)},${onEarth([[lon, lat]])[0][0].toFixed(7)}`, radius_m: region.radius_m.toFixed(1) };
}

export function describe(region) {
  if (region.ring) return "Only in the outlined area";
  return `Only within ${distance(region.radius_m)} of ${coordinates(...region.latlon_deg)}`;
}

export function distanceM([latA, lonA], [latB, lonB]) {
  const [a, b, turn] = [latA, latB, lonB - lonA].map(radians);
  const half = Math.sin((b - a) / 2) ** 2 + Math.cos(a) * Math.cos(b) * Math.sin(turn / 2) ** 2;
  return 2 * EARTH_RADIUS_M * Math.asin(Math.min(1, Math.sqrt(half)));
}

function destination([lat, lon], bearing_deg, distance_m) {
  const [a, bearing, arc] = [radians(lat), radians(bearing_deg), distance_m / EARTH_RADIUS_M];
  const b = Math.asin(Math.sin(a) * Math.cos(arc) + Math.cos(a) * Math.sin(arc) * Math.cos(bearing));
  const turn = Math.atan2(Math.sin(bearing) * Math.sin(arc) * Math.cos(a), Math.cos(arc) - Math.sin(a) * Math.sin(b));
  return [lon + degrees(turn), degrees(b)];
}

/** A ring that begins between -180 and 180 degrees: the map may have been turned round the Earth. */
function onEarth(ring) {
  const turns = Math.floor((Math.min(...ring.map(([lon]) => lon)) + 180) / 360);
  return ring.map(([lon, lat]) => [lon - 360 * turns, lat]);
}

/** RFC 7946: exterior rings run against the clock. */
function counterclockwise(ring) {
  let twice = 0;
  for (let i = 1; i < ring.length; i++) twice += (ring[i][0] - ring[i - 1][0]) * (ring[i][1] + ring[i - 1][1]);
  return twice > 0 ? [...ring].reverse() : ring;
}

function radians(deg) {
  return (deg * Math.PI) / 180;
}

function degrees(rad) {
  return (rad * 180) / Math.PI;
}
