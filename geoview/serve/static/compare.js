/** A photo and the imagery of a place, side by side, and what is known of the place. */

import { $, definitions, showPicture } from "./dom.js";
import { chance, chipUrl, coordinates, distance, heading, percent, probable } from "./words.js";

const CHIP_PX = 384;

export function showPhoto(photo) {
  showPicture($("photo"), $("photo-blank"), photo.url);
  $("photo").alt = `The photo ${photo.name}`;
  $("photo-name").textContent = photo.name;
}

/** Shows a place beside the photo, turned to the photo's heading or north up; null shows that there is none. */
export function showPlace(place, answer, northUp) {
  for (const part of ["chip-figure", "place"]) $(part).hidden = !place;
  $("compare").classList.toggle("alone", !place);
  if (!place) return;
  const looks = place.heading_deg !== null;
  const up_deg = northUp || !looks ? 0 : place.heading_deg;
  showPicture($("chip"), $("chip-blank"), chipUrl(place, CHIP_PX, up_deg));
  $("chip").alt = `Imagery at place ${place.rank}`;
  $("chip-frame").classList.toggle("looks", looks);
  $("view-arrow").style.transform = `rotate(${(place.heading_deg ?? 0) - up_deg}deg)`;
  $("north").style.transform = `rotate(${-up_deg}deg)`;
  $("north-up").hidden = !looks;
  $("north-up").ariaPressed = String(northUp);
  $("chip-caption").textContent = looks && !northUp ? "Up is where the photo looks" : "North is up";

  $("place-title").textContent = `Place ${place.rank} of ${answer.candidates.length}`;
  $("place-words").textContent = inWords(place, answer);
  const facts = { Position: coordinates(place.lat, place.lon), Score: place.score.toFixed(3) };
  if (looks) facts.Looks = heading(place.heading_deg);
  if (place.imagery_date) facts.Imagery = place.imagery_date;
  if (place.exif_distance_m !== null) facts.EXIF = `${distance(place.exif_distance_m)} away`;
  facts.Cell = place.cell;
  $("place-facts").replaceChildren(...definitions(facts));
}

function inWords(place, answer) {
  if (answer.status === "rejected") return "Only a guess: the photo does not seem to be from here.";
  if (!probable(place, answer)) return "The score is a likeness, not a probability.";
  const p = place.p_within_100m;
  const words = `${chance(p)} (${percent(p)}) that it was taken within 100 m of here.`;
  const radius = `If this is the place, it was taken within ${distance(place.radius_m)} (9 in 10).`;
  return `${words[0].toUpperCase()}${words.slice(1)} ${radius}`;
}
