/** Entries of the two lists: photos, and the places of an answer. */

import { element, showPicture } from "./dom.js";
import { chipUrl, coordinates, probable, shortly } from "./words.js";

const CHIP_PX = 160;
const SIGNS = {
  waiting: ["…", "waiting"],
  asked: ["…", "being searched"],
  trouble: ["!", "not searched"],
  ok: ["✓", "answered"],
  rejected: ["✕", "not here"],
  failed: ["!", "not read"],
};
// An entry is made once, so that its picture is decoded once.
const made = new WeakMap();

export function photoEntry(photo) {
  if (!made.has(photo)) {
    const entry = element("li");
    entry.title = photo.name;
    entry.append(
      ...pictured(photo.url, "no preview"),
      element("span", "", "state"),
      element("span", photo.name, "name"),
    );
    made.set(photo, entry);
  }
  const entry = made.get(photo);
  const status = photo.answer?.status ?? photo.state;
  const [sign, words] = SIGNS[status];
  const state = entry.querySelector(".state");
  state.className = `state ${status}`;
  state.textContent = sign;
  entry.ariaLabel = `${photo.name}: ${words}`;
  return entry;
}

export function placeEntry(place, answer) {
  const entry = element("li");
  const words = element("span", "", "words");
  words.append(element("b", coordinates(place.lat, place.lon)), element("span", shortly(place, answer), "how"));
  if (place.imagery_date) words.append(element("span", `imagery of ${place.imagery_date}`, "soft"));
  entry.append(
    ...pictured(chipUrl(place, CHIP_PX, place.heading_deg), "no imagery"),
    element("span", place.rank, "rank"),
    words,
  );
  if (probable(place, answer)) {
    const bar = element("span", "", "bar");
    bar.style.setProperty("--share", place.p_within_100m);
    entry.append(bar);
  }
  return entry;
}

function pictured(url, without) {
  const [image, blank] = [element("img"), element("span", without, "blank")];
  image.alt = "";
  image.loading = "lazy";
  showPicture(image, blank, url);
  return [image, blank];
}
