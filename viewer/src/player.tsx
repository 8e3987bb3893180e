// Where in an episode one is: by slider, by keys, by clicking, or playing.

import { useEffect, useRef, useState } from "preact/hooks";
import { useKeys } from "./hooks";

export const SPEEDS = [1, 2, 5, 10, 30, 60, 120];

export interface Player {
  step: number;
  last: number;
  isPlaying: boolean;
  speed: number;
  go: (step: number) => void;
  toggle: () => void;
  setSpeed: (speed: number) => void;
}

/**
 * @param last the last position: the state after the last action.
 * @param isReady whether a step can be shown at once; playing waits for it.
 */
export function usePlayer(last: number, initial: number, isReady: (step: number) => boolean): Player {
  const clamp = (step: number) => Math.min(Math.max(Math.round(step), 0), last);
  const [step, setStep] = useState(() => clamp(initial));
  const [isPlaying, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(30);
  const now = useRef(step);
  const ready = useRef(isReady);
  ready.current = isReady;
  now.current = step;

  const go = (next: number) => {
    now.current = clamp(next);
    setStep(now.current);
  };
  const toggle = () => {
    if (!isPlaying && now.current >= last) go(0);
    setPlaying(!isPlaying);
  };

  useEffect(() => {
    if (!isPlaying) return;
    let due = performance.now() + 1000 / speed;
    let handle = requestAnimationFrame(function tick(time) {
      // A step is left out rather than played late, but none before it can be seen.
      let moved = 0;
      while (time >= due && now.current < last && moved < 8 && ready.current(now.current + 1)) {
        now.current++;
        moved++;
        due += 1000 / speed;
      }
      if (time > due + 250) due = time;
      if (moved) setStep(now.current);
      if (now.current >= last) setPlaying(false);
      else handle = requestAnimationFrame(tick);
    });
    return () => cancelAnimationFrame(handle);
  }, [isPlaying, speed, last]);

  useKeys((event) => {
    const page = Math.max(1, Math.round(last / 10));
    const pace = event.shiftKey ? 10 : 1;
    const moves: Record<string, () => void> = {
      ArrowLeft: () => go(now.current - pace),
      ArrowRight: () => go(now.current + pace),
      PageUp: () => go(now.current - page),
      PageDown: () => go(now.current + page),
      Home: () => go(0),
      End: () => go(last),
      " ": toggle,
      "<": () => setSpeed(faster(speed, -1)),
      ">": () => setSpeed(faster(speed, 1)),
    };
    const target = event.target as HTMLElement;
    const isPressable = event.key === " " && target.closest("button, summary, a, input[type=checkbox]");
    const isScrolling = target.closest(".table, pre");
    if (!(event.key in moves) || isPressable || isScrolling) return;
    event.preventDefault();
    moves[event.key]!();
  });

  return { step, last, isPlaying, speed, go, toggle, setSpeed };
}

function faster(speed: number, by: number): number {
  const place = SPEEDS.indexOf(speed) + by;
  return SPEEDS[Math.min(Math.max(place, 0), SPEEDS.length - 1)]!;
}

export function Controls(props: { player: Player }) {
  const { player } = props;
  return (
    <div class="controls" role="group" aria-label="Steps">
      <button type="button" onClick={() => player.go(0)} aria-label="First step" title="First step (Home)">|◀</button>
      <button type="button" onClick={() => player.go(player.step - 1)} aria-label="Step back" title="Step back (←)">◀</button>
      <button
        type="button" class="play" onClick={player.toggle}
        aria-label={player.isPlaying ? "Pause" : "Play"} title={`${player.isPlaying ? "Pause" : "Play"} (space)`}
      >
        {player.isPlaying ? "❚❚" : "►"}
      </button>
      <button type="button" onClick={() => player.go(player.step + 1)} aria-label="Step forward" title="Step forward (→)">▶</button>
      <button type="button" onClick={() => player.go(player.last)} aria-label="Last step" title="Last step (End)">▶|</button>
      <input
        type="range" min={0} max={player.last} value={player.step} aria-label="Step"
        aria-valuetext={`step ${player.step} of ${player.last}`}
        onInput={(event) => player.go(Number(event.currentTarget.value))}
        onKeyDown={(event) => event.key.startsWith("Arrow") && event.preventDefault()}
      />
      <label class="step">
        <span>step</span>
        <input
          type="number" min={0} max={player.last} value={player.step} data-testid="step"
          onChange={(event) => player.go(Number(event.currentTarget.value))}
        />
        <span>of {player.last.toLocaleString("en-US")}</span>
      </label>
      <label>
        <span class="hidden">Speed</span>
        <select value={player.speed} onChange={(event) => player.setSpeed(Number(event.currentTarget.value))} title="Speed (< and >)">
          {SPEEDS.map((speed) => <option key={speed} value={speed}>{speed} steps/s</option>)}
        </select>
      </label>
    </div>
  );
}
