// Helpers for elements of the page.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; an attribute that is null is left out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An icon: one of the symbols in index.html. */
export function icon(name, colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  if (colour) svg.style.setProperty("--c", colour);
  return svg;
}

/** Set a node's text, if it differs: no needless layout and no needless announcement. */
export function setText(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Set the symbol and the colour of the icon in a node. */
export function setIcon(node, name, colour) {
  let use = node.querySelector("use");
  if (use.parentNode.dataset.split) { // two halves, see splitIcon
    delete use.parentNode.dataset.split;
    const whole = use.cloneNode();
    whole.removeAttribute("class");
    whole.removeAttribute("style");
    use.parentNode.replaceChildren(whole);
    use = whole;
  }
  if (use.getAttribute("href") !== `#${name}`) use.setAttribute("href", `#${name}`);
  node.style.setProperty("--c", colour ?? "");
}

/** What the browser keeps for this page; nothing where it may not. */
export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It holds for this visit only.
  }
}
