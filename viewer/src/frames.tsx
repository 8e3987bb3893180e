// Frames: loaded ahead of where one is, so that they are there when they are wanted.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type FrameStatus, source } from "./data";

const N_AHEAD = 40;
const N_BEHIND = 6;
const N_AT_ONCE = 3;
const N_KEPT = 240;

export class FrameCache {
  error = "";
  private ready = new Map<string, HTMLImageElement>();
  private loading = new Map<string, Promise<HTMLImageElement>>();
  private wanted: number[] = [];
  private nLoading = 0;

  constructor(private url: (step: number) => string | null, private last: number) {}

  /** The decoded frame of a step, if it is there. */
  get(step: number): HTMLImageElement | undefined {
    const url = this.url(step);
    return url === null ? undefined : this.ready.get(url);
  }

  /** Whether nothing more can come: the frame is there, or there is none. */
  isSettled(step: number): boolean {
    return this.error !== "" || this.url(step) === null || this.get(step) !== undefined;
  }

  async load(step: number): Promise<HTMLImageElement | null> {
    const url = this.url(step);
    if (url === null) return null;
    const there = this.ready.get(url);
    if (there) return there;
    let loading = this.loading.get(url);
    if (!loading) {
      loading = decoded(url).finally(() => this.loading.delete(url));
      this.loading.set(url, loading);
      loading.then((image) => this.keep(url, image), () => {});
    }
    return loading;
  }

  /** Load what comes next, and a little of what was before. */
  prefetch(step: number, isBackwards: boolean): void {
    const direction = isBackwards ? -1 : 1;
    this.wanted = [];
    for (let i = 1; i <= N_AHEAD; i++) this.wanted.push(step + direction * i);
    for (let i = 1; i <= N_BEHIND; i++) this.wanted.push(step - direction * i);
    this.wanted = this.wanted.filter((one) => one >= 0 && one <= this.last);
    this.pump();
  }

  private pump(): void {
    while (this.nLoading < N_AT_ONCE && this.wanted.length && !this.error) {
      const step = this.wanted.shift()!;
      if (this.isSettled(step)) continue;
      this.nLoading++;
      this.load(step).catch(() => {}).finally(() => {
        this.nLoading--;
        this.pump();
      });
    }
  }

  private keep(url: string, image: HTMLImageElement): void {
    this.ready.set(url, image);
    for (const old of this.ready.keys()) {
      if (this.ready.size <= N_KEPT) break;
      this.ready.delete(old);
    }
  }
}

async function decoded(url: string): Promise<HTMLImageElement> {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    if (url.startsWith("data:")) throw new Error("The frame cannot be read.");
    const response = await fetch(url).catch(() => null);
    if (!response) throw new Error("The viewer does not answer: has `maze view` ended?");
    if (response.ok) throw new Error("The frame cannot be read.");
    throw new Error((await response.json()).error);
  }
  return image;
}

export function useFrames(run: number, episode: number, last: number): FrameCache {
  return useMemo(
    () => new FrameCache((step) => source.frame(run, episode, Math.min(step, last)), last),
    [run, episode, last],
  );
}

export function FramePane(props: {
  run: number;
  episode: number;
  step: number;
  cache: FrameCache;
  label: string;
}) {
  const { run, episode, step, cache } = props;
  const place = useRef<HTMLDivElement>(null);
  const before = useRef(step);
  const [error, setError] = useState("");
  const [isLate, setLate] = useState(false);
  const [isDrawn, setDrawn] = useState(false);
  const [status, setStatus] = useState<FrameStatus | null>(null);

  useLayoutEffect(() => {
    const show = (image: HTMLImageElement) => {
      image.alt = `${props.label}, step ${step}`;
      image.dataset["step"] = String(step);
      if (place.current?.firstChild !== image) place.current?.replaceChildren(image);
      setLate(false);
      setDrawn(true);
    };
    const isBackwards = step < before.current;
    before.current = step;
    const there = cache.get(step);
    if (there) {
      show(there);
      cache.prefetch(step, isBackwards);
      return;
    }
    let isWanted = true;
    const patience = setTimeout(() => isWanted && setLate(true), 250);
    cache.load(step).then(
      (image) => {
        if (image && isWanted) {
          setError("");
          show(image);
          cache.prefetch(step, isBackwards);
        } else if (!image) {
          setError("There are no frames of this episode in the report.");
        }
      },
      (problem: Error) => {
        cache.error ||= problem.message;
        if (isWanted) setError(problem.message);
      },
    ).finally(() => clearTimeout(patience));
    return () => {
      isWanted = false;
      clearTimeout(patience);
    };
  }, [cache, step]);

  useEffect(() => {
    setStatus(null);
    let timer = 0;
    const ask = async () => {
      try {
        const now = await source.frameStatus(run, episode);
        setStatus(now);
        if (now.verdict || now.error || now.source === "video") return;
      } catch {
        return;
      }
      timer = window.setTimeout(ask, 500);
    };
    void ask();
    return () => clearTimeout(timer);
  }, [run, episode]);

  return (
    <figure class="frame">
      <div class="picture" data-late={isLate}>
        <div ref={place} class={error ? "image gone" : "image"} />
        {error ? <p class="why" role="alert">{error}</p> : !isDrawn && <p class="why">drawing…</p>}
      </div>
      <figcaption><Origin status={status} error={error} step={step} /></figcaption>
    </figure>
  );
}

function Origin(props: { status: FrameStatus | null; error: string; step: number }) {
  const { status, step } = props;
  if (props.error) return <span class="badge">no frame</span>;
  if (!status?.source) return <span class="badge">…</span>;
  if (status.source === "video") return <span class="badge">stored video</span>;
  if (status.is_equal) {
    return <span class="badge good" title={status.verdict}>played again · proven by its digest</span>;
  }
  if (status.is_equal === null) return <span class="badge">played again · being compared</span>;
  const at = status.differs_at;
  return (
    <span class="badge bad" title={status.verdict}>
      {at !== null && step <= at
        ? `played again · as recorded up to step ${at}`
        : at === null ? `played again · ${status.verdict}` : `not what was recorded: differs from step ${at}`}
    </span>
  );
}
