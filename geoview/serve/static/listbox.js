/** A list that is one stop of the Tab key; arrows, Home and End walk in it (WAI-ARIA: selection follows focus). */

const MARGIN_PX = 14;
const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

/**
 * @param {HTMLElement} list With role listbox; its children are options.
 * @param {(index: number) => void} onSelect
 * @param {Record<string, (index: number) => void>} keys What other keys do with the selected option.
 */
export function listbox(list, onSelect, keys = {}) {
  const options = () => [...list.children];
  const selected = () => options().findIndex((option) => option.ariaSelected === "true");

  const mark = (index) =>
    options().forEach((option, i) => {
      option.ariaSelected = String(i === index);
      option.tabIndex = i === index ? 0 : -1;
      // Scrolls the list, and never the page.
      if (i === index) reveal(list, option);
    });

  list.addEventListener("click", (event) => {
    const index = options().findIndex((option) => option.contains(event.target));
    if (index >= 0) onSelect(index);
  });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = list.children.length - 1;
    const to =
      event.key === "Home" ? 0 : event.key === "End" ? last : event.key in STEPS ? selected() + STEPS[event.key] : null;
    if (to !== null) {
      event.preventDefault();
      if (to < 0 || to > last) return;
      onSelect(to);
      list.children[to].focus({ preventScroll: true });
    } else if (event.key in keys) {
      event.preventDefault();
      keys[event.key](selected());
    }
  });

  return {
    /** Replaces the options; whoever was in the list stays in it. */
    fill(entries, index) {
      const inside = list.contains(document.activeElement);
      for (const entry of entries) entry.setAttribute("role", "option");
      list.replaceChildren(...entries);
      mark(index);
      if (inside) list.children[index]?.focus({ preventScroll: true });
    },
    mark,
  };
}

function reveal(list, option) {
  const [box, own] = [list.getBoundingClientRect(), option.getBoundingClientRect()];
  const over = (low, high, from, to) => (low < from ? low - from - MARGIN_PX : high > to ? high - to + MARGIN_PX : 0);
  list.scrollBy(over(own.left, own.right, box.left, box.right), over(own.top, own.bottom, box.top, box.bottom));
}
