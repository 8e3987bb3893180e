// The page of an episode: what was to be seen, what was done, and why it ended.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type EpisodeInfo, type RunSummary, source, type Step } from "./data";
import { number, plural, title } from "./format";
import { FramePane, useFrames } from "./frames";
import { useKeys, useLoaded, useTitle } from "./hooks";
import { Command, Ending, Facts, Problem } from "./parts";
import { Controls, usePlayer } from "./player";
import { episodePath, go, note, runPath } from "./router";
import { orders } from "./run";
import { firstChannels, TimeLines, useWindow } from "./timelines";

const N_IN_PIECE = 100;
const N_POINTS = 1000;

export function EpisodePage(props: { index: number; run: RunSummary; episode: number; step: number }) {
  const { index, run, episode } = props;
  const { value, error } = useLoaded(() => source.episode(index, episode), [index, episode]);
  useTitle(`Episode ${episode} · ${run.env}`);
  return (
    <main class="episode">
      <Head index={index} run={run} episode={episode} info={value?.episode_index === episode ? value : null} />
      {error && <Problem>{error}</Problem>}
      {value?.episode_index === episode && <Loaded key={`${index}/${episode}`} {...props} info={value} />}
    </main>
  );
}

function Head(props: { index: number; run: RunSummary; episode: number; info: EpisodeInfo | null }) {
  const { index, run, episode, info } = props;
  const order = orders.get(index) ?? Array.from({ length: run.n_episodes }, (_, i) => i);
  const place = order.indexOf(episode);
  const open = (by: number) => {
    for (let i = place + by; place >= 0 && i >= 0 && i < order.length; i += by) {
      if (source.hasEpisode(index, order[i]!)) return go(episodePath(index, order[i]!));
    }
  };
  useKeys((event) => {
    if (event.key === "n") open(1);
    else if (event.key === "p") open(-1);
    else if (event.key === "u") go(runPath(index));
  });
  return (
    <header class="title">
      <h1>
        <a href={`#${runPath(index)}`} title="Back to the run (u)">{run.env}</a> <span class="by">{run.policy}</span>
        <span class="divider" aria-hidden="true">/</span> episode {episode}
        <span class="neighbours">
          <button type="button" disabled={place <= 0} onClick={() => open(-1)} aria-label="Previous episode" title="Previous in the table (p)">↑</button>
          <button type="button" disabled={place < 0 || place + 1 >= order.length} onClick={() => open(1)} aria-label="Next episode" title="Next in the table (n)">↓</button>
        </span>
      </h1>
      <p class="summary">
        {info ? (
          <>
            return <b>{number(info.return)}</b> · {plural(info.n_env_steps, "step")}
            {info.is_structured && ` of ${plural(info.n_steps, "sub-step")}`} · <Ending ending={info.ending} />
            {info.truncated_by && ` by the ${info.truncated_by}`}
          </>
        ) : " "}
      </p>
    </header>
  );
}

function Loaded(props: { index: number; run: RunSummary; episode: number; step: number; info: EpisodeInfo }) {
  const { index, run, episode, info } = props;
  const last = Math.max(info.n_positions - 1, 0);
  const frames = useFrames(index, episode, last);
  const player = usePlayer(last, props.step, (step) => frames.isSettled(step));
  const { step } = player;
  useNotedStep(step, (at) => episodePath(index, episode, at));
  const events = Object.keys(info.events);
  const [shown, setShown] = useState(() => firstChannels(info.channels, events));
  const [window, zoom] = useWindow(last);
  const overview = useLoaded(
    () => source.overview(index, episode, shown, window.from, window.to + 1, N_POINTS),
    [index, episode, shown.join("\n"), window.from, window.to],
  );
  const values = useStep(index, episode, step);
  return (
    <>
      {info.problems.map((problem) => <Problem key={problem}>{problem}</Problem>)}
      {info.failure && <FailureBox info={info} run={run} onStep={player.go} />}
      <section class="stage">
        <div class="panel">
          <FramePane run={index} episode={episode} step={step} cache={frames} label={`Episode ${episode}`} />
          {info.images.length > 0 && (
            <div class="images">
              {info.images.map(({ name }) => {
                const url = source.image(index, episode, name, step);
                return url && (
                  <figure key={name}><img src={url} alt={`${name}, step ${step}`} /><figcaption>{name}</figcaption></figure>
                );
              })}
            </div>
          )}
        </div>
        <Values step={step} values={values} info={info} />
      </section>
      {last > 0 && <Controls player={player} />}
      {info.has_data && (
        <TimeLines
          channels={info.channels} events={events} shown={shown} onShow={setShown} overviews={[overview.value]}
          window={window} onZoom={zoom} step={step} onStep={player.go}
        />
      )}
      {overview.error && <Problem>{overview.error}</Problem>}
      <section class="panel" aria-label="About this episode">
        <h2>About this episode</h2>
        <Facts
          facts={[
            ["seeds", <code>env_seed={info.env_seed} agent_seed={info.agent_seed}</code>],
            ["digest", <code>{info.digest || "–"}</code>],
            ...(run.replay_command
              ? [["play it again", <Command text={run.replay_command.replace("{episode_index}", String(episode))} />] as [string, preact.ComponentChildren]]
              : []),
            ...Object.entries(info.statistics).map(
              ([name, value]) => [title(name), number(value)] as [string, string]),
          ]}
        />
      </section>
    </>
  );
}

/** Put the step into the address, not more often than browsers like. */
export function useNotedStep(step: number, address: (step: number) => string): void {
  useEffect(() => {
    const timer = setTimeout(() => note(address(step)), 400);
    return () => clearTimeout(timer);
  }, [step]);
}

/** What was seen and done in a step. Loaded in pieces; the piece after it comes in advance. */
export function useStep(run: number, episode: number, step: number): Step | null | string {
  const pieces = useRef(new Map<number, Step[] | string>());
  const [, setRound] = useState(0);
  const key = `${run}/${episode}`;
  const known = useRef(key);
  if (known.current !== key) {
    known.current = key;
    pieces.current = new Map();
  }
  const piece = Math.floor(step / N_IN_PIECE);
  useEffect(() => {
    for (const number of [piece, ...(step % N_IN_PIECE > N_IN_PIECE / 2 ? [piece + 1] : [])]) {
      if (pieces.current.has(number)) continue;
      const held = pieces.current;
      held.set(number, []);
      source.steps(run, episode, number * N_IN_PIECE, (number + 1) * N_IN_PIECE).then(
        (steps) => held.set(number, steps), (error: Error) => held.set(number, error.message),
      ).finally(() => {
        for (const old of held.keys()) if (held.size > 8 && Math.abs(old - number) > 4) held.delete(old);
        setRound((round) => round + 1);
      });
    }
  }, [key, piece, step % N_IN_PIECE > N_IN_PIECE / 2]);
  const found = pieces.current.get(piece);
  if (typeof found === "string") return found;
  return useMemo(() => found?.find((one) => one.step === step) ?? null, [found, step]);
}

function Values(props: { step: number; values: Step | null | string; info: EpisodeInfo }) {
  const { values, info, step } = props;
  const last = useRef<Step | null>(null);
  if (values && typeof values !== "string") last.current = values;
  // What was shown stays until the new is there, so that nothing jumps.
  const shown = typeof values === "string" ? null : (values ?? last.current);
  return (
    <div class="panel values" aria-label="Values of the step" role="region">
      <h2>
        Step {step}
        {shown && info.is_structured && <span class="help"> time {shown.time} · actor {shown.actor}</span>}
      </h2>
      {typeof values === "string" && <Problem>{values}</Problem>}
      {!info.has_data && (
        <p class="help">No trajectory of this episode was recorded (runner.record_trajectory=true does).</p>
      )}
      {shown && (
        <div class="scroll" tabIndex={0} aria-label="Values">
          <table>
            <tbody>
              <Group title="Action" values={shown.action} none={step >= info.n_steps ? "none: the episode is over" : "none"} />
              <tr><th scope="row">reward</th><td>{number(shown.reward)}</td></tr>
              <tr><th scope="row">return so far</th><td>{number(shown.total)}</td></tr>
              {shown.events.length > 0 && (
                <tr>
                  <th scope="row">events</th>
                  <td><ul class="events">{shown.events.map((event, i) => <li key={i}>{event}</li>)}</ul></td>
                </tr>
              )}
              <Group title="Observation" values={shown.observation} none="none" />
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}

function Group(props: { title: string; values: Record<string, unknown>; none: string }) {
  const entries = Object.entries(props.values);
  return (
    <>
      {entries.length === 0 && <tr><th scope="row">{props.title.toLowerCase()}</th><td class="help">{props.none}</td></tr>}
      {entries.map(([name, value]) => (
        <tr key={name}><th scope="row">{name}</th><td><Value value={value} /></td></tr>
      ))}
    </>
  );
}

function Value(props: { value: unknown }) {
  const { value } = props;
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    const told = value as { text?: string; shape?: number[]; dtype?: string; min?: number; max?: number; mean?: number };
    if (told.text !== undefined) return <code>{told.text}</code>;
    return (
      <span>
        {told.shape!.join(" × ")} {told.dtype}, from {number(told.min)} to {number(told.max)}, mean {number(told.mean)}
      </span>
    );
  }
  if (!Array.isArray(value)) return <code>{scalar(value)}</code>;
  const flat = value.flat(8);
  if (flat.length <= 16) return <code>{text(value)}</code>;
  return (
    <details>
      <summary>{flat.length} numbers</summary>
      <code>{text(value)}</code>
    </details>
  );
}

function text(value: unknown): string {
  return Array.isArray(value) ? `[${value.map(text).join(", ")}]` : scalar(value);
}

function scalar(value: unknown): string {
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(7))) : String(value);
}

const PLACES: Record<string, string> = {
  construction: "while the environment was made", reset: "in the environment's reset",
  step: "in the environment's step", policy: "in the policy", worker: "with its process",
};

function FailureBox(props: { info: EpisodeInfo; run: RunSummary; onStep: (step: number) => void }) {
  const failure = props.info.failure!;
  return (
    <section class="panel failures" aria-label="Failure">
      <h2>Failed {PLACES[failure.place] ?? failure.place}, at{" "}
        <button type="button" class="plain" onClick={() => props.onStep(failure.step)}>step {failure.step}</button>
      </h2>
      <p class="error">{failure.exception_type}: {failure.message}</p>
      <p><Command text={props.run.replay_command.replace("{episode_index}", String(props.info.episode_index))} /></p>
      {failure.traceback && (
        <details open>
          <summary>Traceback</summary>
          <pre tabIndex={0}>{failure.traceback}</pre>
        </details>
      )}
      {failure.output && (
        <details>
          <summary>What the process printed</summary>
          <pre tabIndex={0}>{failure.output}</pre>
        </details>
      )}
    </section>
  );
}
