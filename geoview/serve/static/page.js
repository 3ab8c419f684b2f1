/** The page: photos come in, answers go to the lists, the map and the files that are saved. */

import { showPhoto, showPlace } from "./compare.js";
import { $, definitions } from "./dom.js";
import { photoEntry, placeEntry } from "./entries.js";
import { csv, geojson, save } from "./export.js";
import { listbox } from "./listbox.js";
import { openMap } from "./map.js";
import { formFields, ringOf } from "./region.js";
import { Search } from "./search.js";
import { openIndex, ServiceError, startSession } from "./service.js";
import { offerRegions } from "./where.js";
import { hideWhy, isOpen, showWhy } from "./why.js";
import { calibration, coordinates, count, shortly } from "./words.js";

let index = null;
let map = null;
let region = null;
let photo = null;
let shown = null;
let place = null;
let northUp = false;

// Photos -------------------------------------------------------------------------------------------------------------

const search = new Search(() => ({ ...options(), ...formFields(region) }), {
  change() {
    listPhotos();
    if (!photo) choosePhoto(search.photos[0] ?? null);
    // Who looks at an answer is not disturbed by those to other photos.
    else if (!photo.answer || photo.answer !== shown) showAnswer();
  },
  progress(words, share) {
    $("progress").hidden = false;
    $("progress-text").textContent = words;
    if (share === null) $("progress-bar").removeAttribute("value");
    else $("progress-bar").value = share;
  },
  end(error) {
    $("progress").hidden = true;
    if (!error) say(summary());
    else if (error.name === "AbortError") tell("Cancelled.", "Search again");
    else tell(error instanceof ServiceError ? error.message : `This page has failed: ${error.message}`);
    if (error?.status === 401) askForToken(again);
  },
});

function add(files) {
  if (!files.length) return;
  tell("");
  search.add([...files]);
}

function remove(gone) {
  const at = search.photos.indexOf(gone);
  search.remove(gone);
  listPhotos();
  if (photo === gone) choosePhoto(search.photos[Math.min(at, search.photos.length - 1)] ?? null);
}

function again() {
  tell("");
  search.again();
}

function listPhotos() {
  $("photos").hidden = !search.photos.length;
  $("welcome").hidden = Boolean(search.photos.length);
  $("exports").hidden = !answers().length;
  photoList.fill(search.photos.map(photoEntry), search.photos.indexOf(photo));
}

function choosePhoto(chosen) {
  photo = chosen;
  photoList.mark(search.photos.indexOf(photo));
  $("compare").hidden = !photo;
  if (photo) showPhoto(photo);
  showAnswer();
}

function stepPhoto(step) {
  const next = search.photos[search.photos.indexOf(photo) + step];
  if (next) choosePhoto(next);
}

const drop = (i) => remove(search.photos[i]);
const photoList = listbox($("photo-list"), (i) => choosePhoto(search.photos[i]), { Delete: drop, Backspace: drop });

/** The fields of POST /locate that the options stand for; what is left empty is left to the service. */
function options() {
  const form = new FormData($("options-form"));
  const names = ["view", "top_k", ...(form.get("view") === "aerial" ? ["gsd_m"] : ["fov_deg", "heading_deg"])];
  const given = Object.fromEntries(names.map((name) => [name, form.get(name)]).filter(([, value]) => value !== ""));
  return { ...given, exif: String(form.has("exif")), heat: String(form.has("heat")) };
}

// Answers ------------------------------------------------------------------------------------------------------------

function showAnswer() {
  const answer = (shown = photo?.answer ?? null);
  const [verdict, note] = wordsOf(answer);
  $("answer").hidden = !photo || photo.state === "trouble";
  $("answer").setAttribute("aria-busy", String(!answer));
  $("verdict").textContent = verdict;
  $("verdict").className = answer?.status ?? "";
  $("verdict-note").textContent = note;
  $("guesses").hidden = answer?.status !== "rejected" || !answer.candidates.length;
  openGuesses(false);
  if (answer) fit();
}

function openGuesses(open) {
  $("guesses").ariaExpanded = String(open);
  candidateList.fill(
    places().map((each) => placeEntry(each, photo.answer)),
    0,
  );
  $("candidates").hidden = !places().length;
  $("candidates").classList.toggle("guessed", open);
  showOnMap();
  choosePlace(places()[0] ?? null);
}

/** Places that are looked at: guesses about a photo that is not here only when they are asked for. */
function places() {
  const answer = photo?.answer;
  return !answer || (answer.status === "rejected" && $("guesses").ariaExpanded !== "true") ? [] : answer.candidates;
}

function wordsOf(answer) {
  if (!answer) return ["Looking…", ""];
  const note = calibration(answer.calibration);
  if (answer.status === "failed") return ["This photo could not be searched", answer.error];
  if (answer.status === "rejected")
    return ["Not here", `Nothing in this ${region ? "region" : "index"} looks like the place of the photo. ${note}`];
  return [`${count(answer.candidates.length, "place")}, best first`, note];
}

function choosePlace(chosen) {
  place = chosen;
  candidateList.mark(place ? place.rank - 1 : 0);
  if (photo) showPlace(place, photo.answer, northUp);
  tellWhy("");
  hideWhy();
  map?.select(place);
}

function stepPlace(step) {
  const next = places()[(place?.rank ?? 0) - 1 + step];
  if (!next) return;
  choosePlace(next);
  say(`Place ${place.rank}: ${shortly(place, photo.answer)}`);
}

function turn() {
  northUp = !northUp;
  if (place) showPlace(place, photo.answer, northUp);
}

async function why() {
  tellWhy("");
  if (isOpen()) return hideWhy();
  if (!place || $("why").hidden) return;
  try {
    await showWhy(photo, place);
    if (isOpen()) say("The pictures show what speaks for the place.");
  } catch (error) {
    tellWhy(error instanceof ServiceError ? error.message : `This page has failed: ${error.message}`);
    if (error.status === 401) askForToken(why);
  }
}

/** Tells what keeps reasons from being shown. */
function tellWhy(words) {
  $("why-trouble").hidden = !words;
  $("why-trouble").textContent = words;
}

const zoom = () => place && map?.zoomTo(place);
const candidateList = listbox($("candidates"), (i) => choosePlace(places()[i]), { Enter: zoom });

function summary() {
  const { photos } = search;
  if (photos.length !== 1) return photos.length ? `${count(photos.length, "photo")} answered.` : "";
  const [verdict, note] = wordsOf(photos[0].answer);
  const [best] = places();
  return best
    ? `${verdict}. The first: ${coordinates(best.lat, best.lon)}, ${shortly(best, photo.answer)}.`
    : `${verdict}. ${note}`;
}

// Map ----------------------------------------------------------------------------------------------------------------

function showOnMap() {
  map?.show(places(), own());
  showHeat();
}

function showHeat() {
  const cells = places().length ? photo.answer.heat : null;
  const wanted = Boolean(map && cells?.features.length && $("options-form").elements.heat.checked);
  map?.heat(wanted ? cells : null);
  $("legend").hidden = !wanted;
}

/** The photo's own position, where it is told. */
function own() {
  const answer = photo?.answer;
  return answer && answer.exif_lat !== null ? [answer.exif_lat, answer.exif_lon] : null;
}

function fit() {
  const lonlats = [...places().map(({ lat, lon }) => [lat, lon]), ...(own() ? [own()] : [])].map(([lat, lon]) => [
    lon,
    lat,
  ]);
  map?.fit(lonlats.length || !region ? lonlats : ringOf(region));
}

const where = offerRegions((chosen) => {
  region = chosen;
  map?.region(region);
  if (search.photos.length) again();
  else fit();
}, say);

// Start --------------------------------------------------------------------------------------------------------------

async function start() {
  tell("");
  try {
    index = await openIndex();
  } catch (error) {
    $("index-line").textContent = "no index";
    tell(error.message);
    if (error.status === 401) askForToken(start);
    return;
  }
  showIndex();
  if (search.photos.length) again();
  try {
    map = await openMap($("map"), index, (rank) => choosePlace(places()[rank - 1]));
  } catch (error) {
    const reason = error.name === "GPUInitializationError" ? "this browser offers no WebGL2" : error.message;
    $("no-map-reason").textContent = reason;
    $("no-map").hidden = false;
    return;
  }
  where.onMap(map);
  $("zoom-to").hidden = false;
  map.region(region);
  showOnMap();
  map.select(place);
  if (photo?.answer) fit();
}

function showIndex() {
  const { name, number, cells, level, chip_m, dates, attribution, licences, basemap } = index;
  $("index-line").textContent = `${name} · ${count(cells, "cell")}`;
  const facts = {
    Name: name,
    Generation: number,
    Cells: `${cells.toLocaleString("en")} of level ${level}`,
    Chips: `${chip_m.toFixed(0)} m wide`,
    "Imagery of": dates.join(", ") || "unknown date",
    "Imagery by": attribution || "not told",
    Licence: licences.join("; ") || "not told",
    Calibration: calibration(index.calibration?.on ?? "none"),
  };
  if (!index.tiles) facts.Note = "Its imagery is not to be had here: answers come without pictures.";
  $("index-facts").replaceChildren(...definitions(facts));
  $("open-index").disabled = false;
  $("why").hidden = !index.why;
  const imagery = [attribution, ...licences].filter(Boolean).join(", ");
  $("attribution").textContent = [imagery && `Imagery: ${imagery}`, basemap && `Map: ${basemap.attribution}`]
    .filter(Boolean)
    .join(" · ");
  const { heat } = $("options-form").elements;
  heat.disabled = !index.calibration;
  heat.checked &&= Boolean(index.calibration);
  $("heat-note").textContent = index.calibration ? "" : "(needs a calibrated index)";
}

function askForToken(then) {
  const form = $("token-form");
  form.onsubmit = async (event) => {
    event.preventDefault();
    try {
      await startSession(form.elements.token.value.trim());
    } catch (error) {
      $("token-note").textContent = error.status === 401 ? "That is not its token." : error.message;
      return;
    }
    form.reset();
    $("token-dialog").close();
    then();
  };
  $("token-dialog").showModal();
}

/** Tells what went wrong, and offers to do it again. */
function tell(words, remedy = "Try again") {
  $("trouble").hidden = !words;
  $("trouble-text").textContent = words;
  $("retry").textContent = remedy;
}

/** Tells those who do not see the page what has happened. */
function say(words) {
  $("say").textContent = words;
}

// Controls -----------------------------------------------------------------------------------------------------------

$("files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";
};
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});

const CLICKS = {
  cancel: () => search.cancel(),
  retry: () => (index ? again() : start()),
  remove: () => remove(photo),
  guesses: () => openGuesses($("guesses").ariaExpanded !== "true"),
  previous: () => stepPlace(-1),
  next: () => stepPlace(1),
  "north-up": turn,
  why,
  "zoom-to": zoom,
  copy: async () => {
    await copy(coordinates(place.lat, place.lon));
    say("Copied");
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy position"), 1500);
  },
  "export-geojson": () => save(geojson(answers()), "geoview.geojson", "application/geo+json"),
  "export-csv": () => save(csv(answers()), "geoview.csv", "text/csv"),
  "open-index": () => $("index-dialog").showModal(),
  "open-help": () => $("help-dialog").showModal(),
  enlarge: () => {
    $("large").src = photo.url;
    $("large").alt = $("photo").alt;
    $("large-dialog").showModal();
  },
};
for (const [id, click] of Object.entries(CLICKS)) $(id).onclick = click;

$("options-form").onsubmit = (event) => {
  event.preventDefault();
  again();
};
$("options-form").elements.heat.onchange = showHeat;
$("options-form").elements.view.onchange = (event) => {
  for (const field of document.querySelectorAll("[data-view]"))
    field.hidden = field.dataset.view !== event.target.value;
  $("options-form").elements.gsd_m.required = event.target.value === "aerial";
};

const LETTERS = {
  j: () => stepPlace(1),
  k: () => stepPlace(-1),
  n: () => stepPhoto(1),
  p: () => stepPhoto(-1),
  o: () => $("files").click(),
  f: fit,
  z: zoom,
  u: turn,
  w: why,
  h: () => $("options-form").elements.heat.click(),
  x: () => region && where.choose(null),
  "?": CLICKS["open-help"],
};
$("letters").checked = localStorage.getItem("geoview.letters") !== "off";
$("letters").onchange = () => localStorage.setItem("geoview.letters", $("letters").checked ? "on" : "off");
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox], [type=file]), select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !$("letters").checked || !(event.key in LETTERS))
    return;
  event.preventDefault();
  LETTERS[event.key]();
});

function answers() {
  return search.photos.map((each) => each.answer).filter(Boolean);
}

async function copy(text) {
  // Without HTTPS, only pages of this very machine may use the clipboard.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

start();
