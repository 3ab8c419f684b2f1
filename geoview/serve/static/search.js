/** What is asked of the service, and when: photos wait, are sent a few at a time, and are answered or not. */

import { locate } from "./service.js";

// Few enough that a request stays small, that progress is seen, and that cancelling loses little.
const PHOTOS_A_REQUEST = 8;
const BYTES_A_REQUEST = 32e6;
const AGAIN = "again";

export class Search {
  /**
   * @typedef {"waiting" | "asked" | "answered" | "trouble"} State
   * @typedef {{file: File, name: string, url: string, state: State, asked: Record<string, string>, answer: object | null}}
   *   Photo `asked`: what was, besides it.
   *
   * @param {() => Record<string, string>} fields What to ask besides the photos, as POST /locate takes it.
   * @param {{change: () => void, progress: (words: string, share: number | null) => void, end: (error: Error | null) =>
   *   void}} on Told when photos change, how far the search is (null: nobody knows), and when it ends.
   */
  constructor(fields, on) {
    this.photos = /** @type {Photo[]} */ ([]);
    this.fields = fields;
    this.on = on;
    this.running = null;
  }

  add(files) {
    const added = files.map((file) => ({
      file,
      name: file.name || "pasted picture",
      url: URL.createObjectURL(file),
      state: "waiting",
      asked: {},
      answer: null,
    }));
    this.photos.push(...added);
    this.run();
  }

  remove(photo) {
    URL.revokeObjectURL(photo.url);
    this.photos.splice(this.photos.indexOf(photo), 1);
  }

  /** Asks for every photo anew: what is asked has changed. */
  async again() {
    this.stop?.abort(AGAIN);
    await this.running;
    for (const photo of this.photos) Object.assign(photo, { state: "waiting", answer: null });
    this.run();
  }

  cancel() {
    this.stop?.abort();
  }

  /** Asks for what waits, unless that is being done. */
  run() {
    this.running ??= this.#untilNoneWaits().finally(() => {
      this.running = null;
    });
    this.on.change();
  }

  async #untilNoneWaits() {
    this.stop = new AbortController();
    let trouble = null;
    try {
      for (let batch; (batch = this.#waiting()).length;) await this.#ask(batch);
    } catch (error) {
      trouble = error;
      for (const photo of this.photos) if (photo.state !== "answered") photo.state = "trouble";
    }
    this.on.change();
    if (this.stop.signal.reason !== AGAIN) this.on.end(trouble);
  }

  #waiting() {
    let bytes = 0;
    const fits = ({ file }, i) => (bytes += file.size) <= BYTES_A_REQUEST || i === 0;
    return this.photos
      .filter(({ state }) => state === "waiting")
      .slice(0, PHOTOS_A_REQUEST)
      .filter(fits);
  }

  async #ask(batch) {
    const form = new FormData();
    const asked = this.fields();
    for (const photo of batch) {
      form.append("photos", photo.file, photo.name);
      Object.assign(photo, { state: "asked", asked });
    }
    for (const [name, value] of Object.entries(asked)) form.append(name, value);
    this.on.change();
    this.on.progress("Sending", null);
    // Answers come in the order of the photos.
    const open = [...batch];
    await locate(form, {
      signal: this.stop.signal,
      onSent: (share) =>
        this.on.progress(share < 1 ? "Sending" : "Sent; the service is looking", share < 1 ? share : null),
      onEvent: ({ event, answer }) => {
        if (event !== "answer") return;
        const photo = open.shift();
        Object.assign(photo, { state: "answered", answer });
        this.on.change();
        const done = this.photos.filter(({ state }) => state === "answered").length;
        this.on.progress(`${done} of ${this.photos.length} answered`, done / this.photos.length);
      },
    });
  }
}
