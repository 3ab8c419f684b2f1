/** Answers as files, with the columns and properties of `geoview locate --out`. */

const FIELDS = [
  "query",
  "status",
  "rank",
  "lat",
  "lon",
  "radius_m",
  "score",
  "p_within_100m",
  "calibration",
  "cell",
  "heading_deg",
  "exif_lat",
  "exif_lon",
  "exif_distance_m",
  "error",
  "imagery_date",
];

/** A FeatureCollection (RFC 7946): a point a candidate, a feature without geometry for a failed photo. */
export function geojson(answers) {
  const features = rows(answers).map((row) => ({
    type: "Feature",
    geometry: row.lat === null ? null : { type: "Point", coordinates: [row.lon, row.lat] },
    properties: row,
  }));
  return JSON.stringify({ type: "FeatureCollection", features }, null, 1);
}

export function csv(answers) {
  return [FIELDS, ...rows(answers).map((row) => FIELDS.map((field) => row[field]))]
    .map((line) => line.map(cell).join(",") + "\n")
    .join("");
}

/** Saves text as a file of the user's. */
export function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function rows(answers) {
  return answers.flatMap((answer) =>
    (answer.candidates.length ? answer.candidates : [{}]).map((candidate) =>
      Object.fromEntries(FIELDS.map((field) => [field, candidate[field] ?? answer[field] ?? null])),
    ),
  );
}

function cell(value) {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  // A name that begins like a formula would be one in a spreadsheet.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
