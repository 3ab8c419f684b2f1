/** The service behind the page: its index, its answers, and its refusals in words. */

const TOKEN = "geoview.token";

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Tells what the service searches. */
export async function openIndex() {
  if (sessionStorage.getItem(TOKEN)) await startSession(sessionStorage.getItem(TOKEN));
  return (await request("/index")).json();
}

/**
 * Gives the service its token: kept for this tab, and as a cookie that chips and tiles are asked for with.
 *
 * @throws {ServiceError} The service does not take it (status 401).
 */
export async function startSession(token) {
  sessionStorage.setItem(TOKEN, token);
  await request("/session", { method: "POST" });
}

/**
 * Asks where photos were taken.
 *
 * @param {FormData} form As POST /locate takes it.
 * @param {AbortSignal} signal Ends the request.
 * @param {(share: number) => void} onSent Share of the photos that is sent, 0 to 1.
 * @param {(event: object) => void} onEvent What the service tells, line by line.
 * @throws {ServiceError} The service refuses, breaks off or is not there.
 * @throws {DOMException} AbortError: `signal` ended it.
 */
export function locate(form, { signal, onSent, onEvent }) {
  signal.throwIfAborted();
  // fetch() does not tell how much of a body is sent.
  const call = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    let read = 0;
    let whole = false;
    const events = () => {
      const end = call.responseText.lastIndexOf("\n") + 1;
      const lines = call.responseText.slice(read, end).split("\n");
      read = Math.max(read, end);
      for (const line of lines) {
        if (!line.trim()) continue;
        const event = JSON.parse(line);
        if (event.event === "error") throw new ServiceError(`The search failed: ${event.detail}`);
        whole ||= event.event === "end";
        onEvent(event);
      }
    };
    const attempt = (step) => {
      try {
        step();
      } catch (error) {
        reject(error);
        call.abort();
      }
    };
    call.open("POST", "/locate");
    call.setRequestHeader("Accept", "application/x-ndjson");
    for (const [name, value] of Object.entries(authorization())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => onSent(event.lengthComputable ? event.loaded / event.total : 0);
    call.upload.onload = () => onSent(1);
    call.onprogress = () => call.status === 200 && attempt(events);
    call.onload = () =>
      attempt(() => {
        if (call.status !== 200) throw refusal(call.status, call.responseText, call.getResponseHeader("Retry-After"));
        events();
        if (!whole) throw new ServiceError("The service broke off before the answer was complete.");
        resolve();
      });
    call.onerror = () =>
      reject(new ServiceError("The service does not answer, or has closed the connection. Is it still running?"));
    call.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => call.abort(), { once: true });
    call.send(form);
  });
}

/**
 * Asks what speaks for a photo being of a cell.
 *
 * @param {FormData} form As POST /why takes it.
 * @param {AbortSignal} signal Ends the request.
 * @throws {ServiceError} The service refuses, breaks off or is not there; or `signal` ended it.
 */
export async function explain(form, signal) {
  const headers = { Accept: "application/json" };
  return (await request("/why", { method: "POST", body: form, headers, signal })).json();
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
  } catch {
    throw new ServiceError("The service does not answer. Is it still running?");
  }
  if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function refusal(status, body, retryAfter) {
  let detail = "";
  try {
    detail = JSON.parse(body).detail;
  } catch {
    // What stands between page and service may answer with a page of its own.
  }
  if (typeof detail !== "string") detail = JSON.stringify(detail ?? "");
  const wait =
    Number(retryAfter) > 0 ? ` Try again in ${Math.ceil(Number(retryAfter))} seconds.` : " Try again in a moment.";
  const told = detail ? ` It says: ${detail}` : "";
  const words = {
    400: `The service cannot do this search.${told}`,
    401: "The service asks for its token.",
    404: `There is nothing to show.${told}`,
    408: `The photos did not reach the service in time.${told}`,
    413: `The photos are too large for the service. Give fewer or smaller ones.${told}`,
    415: `The service does not read this kind of file.${told}`,
    422: `The service cannot do this search.${told}`,
    429: `Too many requests.${wait}`,
    503: `The service is busy.${wait}`,
    504: `The search took too long and was ended.${told}`,
  };
  const other = status < 500 ? `The service refuses (${status}).${told}` : `The service has failed (${status}).${told}`;
  return new ServiceError(words[status] ?? other, status);
}
