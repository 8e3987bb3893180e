import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

export interface Loaded<T> {
  value: T | null;
  error: string;
}

/** Load something when `keys` change. What was loaded before stays until the new is there. */
export function useLoaded<T>(load: () => Promise<T>, keys: unknown[]): Loaded<T> {
  const [loaded, setLoaded] = useState<Loaded<T>>({ value: null, error: "" });
  useEffect(() => {
    let isWanted = true;
    load().then(
      (value) => isWanted && setLoaded({ value, error: "" }),
      (error: Error) => isWanted && setLoaded({ value: null, error: error.message }),
    );
    return () => {
      isWanted = false;
    };
  }, keys);
  return loaded;
}

/** The width of an element in pixels, also after it changed. */
export function useWidth<E extends HTMLElement>(): [RefObject<E | null>, number] {
  const element = useRef<E | null>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    if (!element.current) return;
    setWidth(element.current.clientWidth);
    const observer = new ResizeObserver(() => element.current && setWidth(element.current.clientWidth));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

/** Call with key presses that are not meant for a text field. */
export function useKeys(pressed: (event: KeyboardEvent) => void): void {
  const latest = useRef(pressed);
  latest.current = pressed;
  // Before the page is painted: what is seen takes keys already.
  useLayoutEffect(() => {
    const listen = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const isTyping =
        target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
      if (!isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) latest.current(event);
    };
    window.addEventListener("keydown", listen);
    return () => window.removeEventListener("keydown", listen);
  }, []);
}

export function useTitle(text: string): void {
  useEffect(() => {
    document.title = text ? `${text} · Maze` : "Maze";
  }, [text]);
}

/** The size of a rem, with which everything grows on large screens. */
export function rem(): number {
  return parseFloat(getComputedStyle(document.documentElement).fontSize);
}
