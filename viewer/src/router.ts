// The address says what is shown, so that the back button works and a view can be bookmarked.

import { useEffect, useState } from "preact/hooks";

export interface Route {
  path: string[];
  options: URLSearchParams;
}

/** Inside a notebook the page has no address of its own: then it is kept here. */
const isEmbedded = window.location.protocol === "about:";
let embeddedHash = "";

if (isEmbedded) {
  // A link to a fragment would lead to the notebook.
  document.addEventListener("click", (event) => {
    const link = (event.target as HTMLElement).closest?.("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    go(link.getAttribute("href")!.slice(1));
  });
}

function current(): Route {
  const hash = isEmbedded ? embeddedHash : window.location.hash;
  const [path = "", options = ""] = hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean), options: new URLSearchParams(options) };
}

export function useRoute(): Route {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const changed = () => setRoute(current());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}

export function go(path: string): void {
  if (!isEmbedded) {
    window.location.hash = path;
    return;
  }
  embeddedHash = `#${path}`;
  window.dispatchEvent(new Event("hashchange"));
}

/** Change the address without a new entry in the history. */
export function note(path: string): void {
  if (isEmbedded) embeddedHash = `#${path}`;
  else window.history.replaceState(null, "", `#${path}`);
}

export const runPath = (run: number) => `/run/${run}`;
export const episodePath = (run: number, episode: number, step = 0) =>
  `/run/${run}/episode/${episode}${step ? `?step=${step}` : ""}`;
export const comparePath = (one: number, other: number) => `/compare/${one}/${other}`;
export const pairPath = (one: number, other: number, a: number, b: number, step = 0) =>
  `/compare/${one}/${other}/pair/${a}/${b}${step ? `?step=${step}` : ""}`;
