/** Why a place: what in its photo and its chip speaks for it, asked for when somebody wants to know. */

import { $, element } from "./dom.js";
import { explain } from "./service.js";

// What a place was told once is not asked for again.
const told = new WeakMap();
let stop = null;

/** Whether reasons are shown, or being asked for. */
export const isOpen = () => Boolean(stop);

/**
 * Shows the reasons of a place in place of the plain pictures, or tells what keeps them.
 *
 * @throws {ServiceError} The service refuses or is not there.
 */
export async function showWhy(photo, place) {
  const mine = (stop = new AbortController());
  busy(true);
  try {
    if (!told.has(place)) told.set(place, await explain(formOf(photo, place), mine.signal));
    const figures = await drawn(photo, place, told.get(place));
    if (mine.signal.aborted) return;
    $("why-pictures").replaceChildren(...figures);
    $("why-cosine").textContent = told.get(place).cosine.toFixed(3);
  } catch (error) {
    if (mine.signal.aborted) return;
    hideWhy();
    throw error;
  }
  busy(false);
  instead(true);
}

/** Goes back to the plain pictures, and leaves off asking. */
export function hideWhy() {
  stop?.abort();
  stop = null;
  busy(false);
  instead(false);
}

function busy(on) {
  $("why-progress").hidden = !on;
  $("why").ariaBusy = String(on);
  $("why").ariaPressed = String(isOpen());
}

function instead(on) {
  $("why-view").hidden = !on;
  for (const part of ["photo-figure", "chip-figure"]) $(part).classList.toggle("covered", on);
  if (on) $("why-view").scrollIntoView({ block: "nearest" });
}

/** The fields of POST /why: what was said of the photo when it was located, with the heading that was found. */
function formOf(photo, place) {
  const form = new FormData();
  form.append("photos", photo.file, photo.name);
  form.append("cell", place.cell);
  const { view, fov_deg, gsd_m, heading_deg } = photo.asked;
  const said = { view, fov_deg, gsd_m, heading_deg: place.heading_deg ?? heading_deg };
  for (const [name, value] of Object.entries(said)) if (value !== undefined) form.append(name, value);
  return form;
}

/** The pictures, once they can be shown. */
function drawn(photo, place, reasons) {
  const pictures = [
    [reasons.photo, "Photo", `The photo ${photo.name}`],
    [reasons.seen, "As it is compared", `The photo ${photo.name} as it is compared`],
    [reasons.chip, "Imagery, north up", `Imagery at place ${place.rank}`],
  ];
  return Promise.all(
    pictures
      .filter(([url]) => url)
      .map(async ([url, caption, alt]) => {
        const [figure, image] = [element("figure"), element("img")];
        image.src = url;
        image.alt = `${alt}: red speaks for the place, blue against it`;
        await image.decode();
        figure.style.setProperty("--aspect", image.naturalWidth / image.naturalHeight);
        figure.append(image, element("figcaption", caption));
        return figure;
      }),
  );
}
