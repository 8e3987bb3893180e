// Time lines below each other, with a cursor through all of them; clicking goes to a step.

import { useEffect, useState } from "preact/hooks";
import { LineChart, MarkChart, toStep, toX, valueAt, type Window } from "./charts";
import type { ChannelName, Line, Marks, Overview } from "./data";
import { number } from "./format";
import { rem, useKeys, useWidth } from "./hooks";

const SHOWN: Record<ChannelName["group"], number> = { reward: 2, action: 6, policy: 8, observation: 8 };
const GROUPS: ChannelName["group"][] = ["reward", "action", "policy", "observation"];
const NAMES = { reward: "Reward", action: "Actions", policy: "Policy", observation: "Observations" };

/** The time lines that are shown at first: some of each kind. */
export function firstChannels(channels: ChannelName[], events: string[]): string[] {
  const chosen = GROUPS.flatMap((group) => {
    const ofGroup = channels.filter((one) => one.group === group);
    // Where there are too many, those that never change can go first.
    const isChanging = ofGroup.length > SHOWN[group] ? ofGroup.filter((one) => !one.is_constant) : ofGroup;
    return isChanging.slice(0, SHOWN[group]).map(({ name }) => name);
  });
  return [...chosen, ...events.slice(0, 6)];
}

export function useWindow(last: number): [Window, (zoom: number, around: number) => void] {
  const whole = { from: 0, to: Math.max(last, 1) };
  const [window, setWindow] = useState<Window>(whole);
  useEffect(() => setWindow(whole), [last]);
  const zoom = (factor: number, around: number) =>
    setWindow((before) => {
      const span = Math.max(10, Math.min(whole.to, Math.round((before.to - before.from) * factor)));
      const from = Math.max(0, Math.min(whole.to - span, Math.round(around - span / 2)));
      return span >= whole.to ? whole : { from, to: from + span };
    });
  return [window, zoom];
}

export function TimeLines(props: {
  channels: ChannelName[];
  events: string[];
  shown: string[];
  onShow: (names: string[]) => void;
  /** One, or one for each of two episodes. */
  overviews: (Overview | null)[];
  window: Window;
  onZoom: (factor: number, around: number) => void;
  step: number;
  onStep: (step: number) => void;
  /** Where something is to be seen. */
  mark?: { step: number; text: string } | null;
}) {
  const { window, step, overviews } = props;
  const [element, width] = useWidth<HTMLDivElement>();
  const [isDragging, setDragging] = useState(false);
  useKeys((event) => {
    const factors: Record<string, number> = { "+": 0.5, "=": 0.5, "-": 2, "0": 1e9 };
    if (event.key in factors) props.onZoom(factors[event.key]!, step);
  });
  const seek = (event: PointerEvent) => {
    const box = element.current!.getBoundingClientRect();
    props.onStep(toStep(event.clientX - box.left, window, width));
  };
  const isIn = window.from <= step && step <= window.to;
  const height = 2.4 * rem();
  const kinds = new Map(props.channels.map((channel) => [channel.name, channel]));
  const actors = overviews.length === 1 ? (overviews[0]?.actors ?? []) : [];
  const several = actors.length > 1 || actors.some(([, , actor]) => !actor);
  return (
    <section class="panel" aria-label="Time lines">
      <div class="toolbar">
        <h2>Time lines</h2>
        <div class="zoom" role="group" aria-label="Zoom">
          <button type="button" onClick={() => props.onZoom(0.5, step)} title="Zoom in (+)" aria-label="Zoom in">+</button>
          <button type="button" onClick={() => props.onZoom(2, step)} title="Zoom out (-)" aria-label="Zoom out">−</button>
          <button type="button" onClick={() => props.onZoom(1e9, step)} title="Whole episode (0)">all</button>
        </div>
        <details class="choice">
          <summary>Choose ({props.shown.length} of {props.channels.length + props.events.length})</summary>
          <div class="options">
            {GROUPS.map((group) => {
              const names = props.channels.filter((one) => one.group === group).map(({ name }) => name);
              return names.length > 0 && (
                <fieldset key={group}>
                  <legend>{NAMES[group]}</legend>
                  <Choices names={names} shown={props.shown} onShow={props.onShow} />
                </fieldset>
              );
            })}
            {props.events.length > 0 && (
              <fieldset>
                <legend>Events</legend>
                <Choices names={props.events} shown={props.shown} onShow={props.onShow} />
              </fieldset>
            )}
          </div>
        </details>
      </div>
      <div
        ref={element} class="lines" data-testid="lines"
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          setDragging(true);
          seek(event);
        }}
        onPointerMove={(event) => isDragging && seek(event)}
        onPointerUp={() => setDragging(false)} onPointerCancel={() => setDragging(false)}
      >
        {several && <Actors stretches={actors} window={window} width={width} />}
        {width > 0 && props.shown.map((name) => {
          const found = overviews.map((overview) => overview?.channels[name] ?? null);
          const lines = found.filter((one): one is Line => one !== null && "x" in one);
          const marks = found.filter((one): one is Marks => one !== null && "marks" in one);
          const values = lines.map((line) => number(valueAt(line, step)));
          return (
            <div key={name} class="timeline" style={{ minHeight: `${height + 1.2 * rem()}px` }}>
              <div class="caption"><span>{name}</span><span class="value">{values.join(" | ")}</span></div>
              {lines.length > 0 && (
                <LineChart lines={lines} window={window} width={width} height={height} name={name} isDiscrete={kinds.get(name)?.is_discrete ?? false} />
              )}
              {marks.map((one, i) => <MarkChart key={i} marks={one} window={window} width={width} height={height / (2 * marks.length)} name={name} />)}
            </div>
          );
        })}
        {props.mark && window.from <= props.mark.step && props.mark.step <= window.to && (
          <div class="mark" style={{ transform: `translateX(${toX(props.mark.step, window, width)}px)` }} title={props.mark.text} />
        )}
        {isIn && <div class="cursor" style={{ transform: `translateX(${toX(step, window, width)}px)` }} />}
      </div>
      <div class="range"><span>{window.from.toLocaleString("en-US")}</span><span>step</span><span>{window.to.toLocaleString("en-US")}</span></div>
    </section>
  );
}

function Choices(props: { names: string[]; shown: string[]; onShow: (names: string[]) => void }) {
  return (
    <>
      {props.names.map((name) => (
        <label key={name}>
          <input
            type="checkbox" checked={props.shown.includes(name)}
            onChange={(event) =>
              props.onShow(event.currentTarget.checked ? [...props.shown, name] : props.shown.filter((one) => one !== name))}
          />
          {name}
        </label>
      ))}
    </>
  );
}

function Actors(props: { stretches: [number, number, string][]; window: Window; width: number }) {
  // Where many steps share a pixel, several actors do.
  const names = [...new Set(props.stretches.map(([, , actor]) => actor))].filter(Boolean).sort();
  const isShared = props.stretches.some(([, , actor]) => !actor);
  const height = 0.8 * rem();
  return (
    <div class="timeline">
      <div class="caption">
        <span>actor (step key/agent)</span>
        <span class="legend">{names.map((name, i) => <span key={name}><i class={`swatch of-${i % 6}`} />{name}</span>)}{isShared && <span><i class="swatch of-all" />several: zoom in</span>}</span>
      </div>
      <svg width={props.width} height={height} role="img" aria-label={`Actors: ${names.join(", ") || "several"}`}>
        {props.stretches.map(([from, to, actor]) => {
          const x = toX(from, props.window, props.width);
          return <rect key={from} class={`actor of-${actor ? names.indexOf(actor) % 6 : "all"}`} x={x} y={0} width={Math.max(0.5, toX(to, props.window, props.width) - x)} height={height} />;
        })}
      </svg>
    </div>
  );
}
