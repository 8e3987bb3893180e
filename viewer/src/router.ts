// The address says what is shown, so that the back button works and a view can be bookmarked.

import { useEffect, useState } from "preact/hooks";

export interface Route {
  path: string[];
  options: URLSearchParams;
}

function current(): Route {
  const [path = "", options = ""] = window.location.hash.replace(/^#\/?/, "").split("?");
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
  window.location.hash = path;
}

/** Change the address without a new entry in the history. */
export function note(path: string): void {
  try {
    window.history.replaceState(null, "", `#${path}`);
  } catch {
    // Some places where reports are shown have no history.
  }
}

export const runPath = (run: number) => `/run/${run}`;
export const episodePath = (run: number, episode: number, step = 0) =>
  `/run/${run}/episode/${episode}${step ? `?step=${step}` : ""}`;
export const comparePath = (one: number, other: number) => `/compare/${one}/${other}`;
export const pairPath = (one: number, other: number, a: number, b: number, step = 0) =>
  `/compare/${one}/${other}/pair/${a}/${b}${step ? `?step=${step}` : ""}`;
