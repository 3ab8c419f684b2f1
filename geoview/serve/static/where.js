/** The tools over the map that say where to search: drawn, seen, near a position, or everywhere. */

import { $ } from "./dom.js";
import { draw, HINTS } from "./draw.js";
import { circle, describe, rectangle } from "./region.js";
import { parseLatLon } from "./words.js";

const shapes = () => document.querySelectorAll("[data-draw]");
let drawing = null;

/**
 * @param {(region: object | null) => void} onRegion A region was chosen; null is everywhere.
 * @param {(words: string) => void} say Tells those who do not see it.
 */
export function offerRegions(onRegion, say) {
  const choose = (region) => {
    $("everywhere").hidden = !region;
    $("where-text").textContent = region ? describe(region) : "";
    say(region ? describe(region) : "Searching everywhere");
    onRegion(region);
  };
  $("everywhere").onclick = () => {
    choose(null);
    $("near").firstElementChild.focus();
  };
  $("near-form").onsubmit = (event) => {
    event.preventDefault();
    const { latlon, radius_m } = event.target.elements;
    const middle = parseLatLon(latlon.value);
    $("near-error").textContent = middle ? "" : "Two numbers in degrees: latitude, longitude.";
    if (!middle) return void latlon.focus();
    closeNear();
    choose(circle(middle, radius_m.valueAsNumber));
  };
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (drawing) stopDrawing();
    else if ($("near").open) closeNear();
  });
  return {
    choose,
    /** Offers what needs a map. */
    onMap(map) {
      for (const button of [...shapes(), $("visible")]) button.hidden = false;
      for (const button of shapes()) button.onclick = () => toggle(button, map, choose, say);
      $("visible").onclick = () => choose(rectangle(...map.visible()));
      $("draw-cancel").onclick = stopDrawing;
    },
  };
}

async function toggle(button, map, choose, say) {
  const on = button.ariaPressed === "true";
  stopDrawing();
  if (on) return;
  const own = (drawing = new AbortController());
  const shape = button.dataset.draw;
  button.ariaPressed = "true";
  const { done, finish } = draw($("draw"), shape, map.lonlat, map.preview, own.signal);
  $("draw-hint").hidden = false;
  $("draw-hint").firstElementChild.textContent = HINTS[shape];
  $("draw-finish").hidden = shape !== "polygon";
  $("draw-finish").onclick = finish;
  say(`${HINTS[shape]} Escape leaves off.`);
  const region = await done;
  if (drawing === own) stopDrawing();
  if (region) choose(region);
}

function stopDrawing() {
  drawing?.abort();
  drawing = null;
  $("draw-hint").hidden = true;
  for (const button of shapes()) button.ariaPressed = "false";
}

function closeNear() {
  $("near").open = false;
  $("near").firstElementChild.focus();
}
