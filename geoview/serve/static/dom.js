/** What the page is made of. File names and what the service says are text, never markup. */

export const $ = (id) => document.getElementById(id);

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

/** Terms and what they mean, as content of a <dl>. */
export function definitions(facts) {
  return Object.entries(facts).flatMap(([term, meaning]) => [element("dt", term), element("dd", meaning)]);
}

/** Shows a picture, or what stands for it where there is none or it cannot be shown. */
export function showPicture(image, blank, url) {
  image.hidden = !url;
  blank.hidden = Boolean(url);
  image.onerror = () => {
    image.hidden = true;
    blank.hidden = false;
  };
  if (url) image.src = url;
  else image.removeAttribute("src");
}
