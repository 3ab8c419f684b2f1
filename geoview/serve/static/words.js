/** Answers as an analyst reads them. */

const FRACTIONS = [
  [1, 50],
  [1, 20],
  [1, 10],
  [1, 5],
  [1, 4],
  [1, 3],
  [1, 2],
  [2, 3],
  [3, 4],
  [4, 5],
  [9, 10],
  [19, 20],
];
const WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"];

export function coordinates(lat, lon) {
  return `${lat.toFixed(5)}, ${lon.toFixed(5)}`;
}

export function distance(metres) {
  if (metres < 1000) return `${Math.round(metres)} m`;
  return `${(metres / 1000).toFixed(metres < 10_000 ? 1 : 0)} km`;
}

export function percent(p) {
  return p < 0.01 ? "under 1 %" : p > 0.99 ? "over 99 %" : `${Math.round(100 * p)} %`;
}

/** A probability as people say it: "about 3 in 4". */
export function chance(p) {
  if (p < 0.01) return "less than 1 in 100";
  if (p > 0.975) return "more than 19 in 20";
  const [n, of] = FRACTIONS.reduce((best, f) =>
    Math.abs(f[0] / f[1] - p) < Math.abs(best[0] / best[1] - p) ? f : best,
  );
  return `about ${n} in ${of}`;
}

export function heading(deg) {
  const turned = ((deg % 360) + 360) % 360;
  return `${WINDS[Math.round(turned / 45) % 8]} (${Math.round(turned) % 360}°)`;
}

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** What the numbers of an answer may be believed for. */
export function calibration(on) {
  return {
    none: "This index is not calibrated: a score is no probability.",
    rendered: "Calibrated on rendered photos only: on real ones the probabilities may be wrong.",
    photos: "Calibrated on photos of known place.",
  }[on];
}

/** "33.98, -117.35" as [lat, lon]; null where it is none. */
export function parseLatLon(text) {
  const numbers = text
    .trim()
    .split(/[\s,;]+/)
    .map(Number);
  const [lat, lon] = numbers;
  return numbers.length === 2 && Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? [lat, lon] : null;
}

/** Whether a place has a probability; a mere guess about a photo that is not here has none worth telling. */
export function probable(place, answer) {
  return answer.status === "ok" && place.p_within_100m !== null;
}

/** What an answer says of a place, in three words. */
export function shortly(place, answer) {
  return probable(place, answer) ? `${percent(place.p_within_100m)} within 100 m` : `score ${place.score.toFixed(3)}`;
}

/** Address of the imagery of a place, its top towards a heading. */
export function chipUrl(place, size_px, heading_deg) {
  return place.chip && `${place.chip}?size_px=${size_px}&heading_deg=${heading_deg ?? 0}`;
}
