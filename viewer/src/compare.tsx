// Two runs side by side: pairs of episodes that began alike.

import { useEffect, useMemo, useState } from "preact/hooks";
import { Histogram } from "./charts";
import { type Comparison, type EpisodeInfo, type RunSummary, source } from "./data";
import { useNotedStep } from "./episode";
import { number, plural, title } from "./format";
import { FramePane, useFrames } from "./frames";
import { useLoaded, useTitle } from "./hooks";
import { Problem } from "./parts";
import { Controls, usePlayer } from "./player";
import { comparePath, episodePath, go, pairPath, runPath } from "./router";
import { at, useColumns } from "./run";
import { Table, type TableColumn } from "./table";
import { firstChannels, TimeLines, useWindow } from "./timelines";

interface Both {
  runs: [RunSummary, RunSummary];
  indices: [number, number];
}

const N_POINTS = 1000;
const orders = new Map<string, { column: string; isDescending: boolean }>();

export function ComparePage(props: Both) {
  const { runs: [one, other], indices: [a, b] } = props;
  useTitle("Comparison");
  const { value, error } = useLoaded(() => source.compare(a, b), [a, b, one.version, other.version]);
  return (
    <main class="compare">
      <Head {...props} />
      {error && <Problem>{error}</Problem>}
      {value && <Compared {...props} comparison={value} />}
    </main>
  );
}

function Head(props: Both) {
  const { runs: [one, other], indices: [a, b] } = props;
  return (
    <header class="title">
      <h1>Comparison</h1>
      <p class="summary">
        <span class="side a">A</span> <a href={`#${runPath(a)}`}>{one.env} {one.policy}</a> <span class="help">{one.path}</span>
        {" "}<span class="side b">B</span> <a href={`#${runPath(b)}`}>{other.env} {other.policy}</a> <span class="help">{other.path}</span>
      </p>
    </header>
  );
}

function Compared(props: Both & { comparison: Comparison }) {
  const { runs, indices: [a, b], comparison } = props;
  const [chosen, setChosen] = useState("return");
  const key = `${a}/${b}`;
  const [sort, setSortState] = useState(orders.get(key) ?? { column: "episode", isDescending: false });
  const setSort = (column: string) => {
    const next = { column, isDescending: sort.column === column && !sort.isDescending };
    orders.set(key, next);
    setSortState(next);
  };
  const names = ["episode_index", "env_seed", "ending", "n_steps", chosen];
  const columns = [useColumns(a, runs[0].version, names), useColumns(b, runs[1].version, names)] as const;
  const positionsA = comparison.pairs[0];

  const value = (side: 0 | 1, name: string, pair: number) =>
    at(columns[side]?.columns[name], comparison.pairs[side][pair]!);
  const difference = (pair: number): number | null => {
    const [x, y] = [value(0, chosen, pair), value(1, chosen, pair)];
    const isFailed = value(0, "ending", pair) === "failed" || value(1, "ending", pair) === "failed";
    return typeof x === "number" && typeof y === "number" && !isFailed ? y - x : null;
  };
  const differences = useMemo(
    () => Float64Array.from(positionsA, (_, pair) => difference(pair) ?? NaN),
    [comparison, columns[0], columns[1], chosen],
  );
  const order = useMemo(() => {
    const keyOf: (pair: number) => number | string | null = {
      episode: (pair: number) => value(0, "episode_index", pair),
      a: (pair: number) => value(0, chosen, pair),
      b: (pair: number) => value(1, chosen, pair),
      difference: (pair: number) => differences[pair]!,
      "ending a": (pair: number) => value(0, "ending", pair),
      "ending b": (pair: number) => value(1, "ending", pair),
      "steps a": (pair: number) => value(0, "n_steps", pair),
      "steps b": (pair: number) => value(1, "n_steps", pair),
      seed: (pair: number) => value(0, "env_seed", pair),
    }[sort.column] ?? ((pair: number) => pair);
    const keys = positionsA.map((_, pair) => keyOf(pair));
    const sign = sort.isDescending ? -1 : 1;
    return positionsA.map((_, pair) => pair).sort((p, q) => {
      const [x, y] = [keys[p]!, keys[q]!];
      const missing = [x, y].map((one) => one === null || Number.isNaN(one));
      if (missing[0] || missing[1]) return Number(missing[0]) - Number(missing[1]) || p - q;
      return sign * (x < y ? -1 : x > y ? 1 : 0) || p - q;
    });
  }, [comparison, columns[0], columns[1], chosen, sort, differences]);

  const cells: [string, string, boolean, (pair: number) => preact.ComponentChildren][] = [
    ["episode", "episode", false, (pair) => {
      const [x, y] = [value(0, "episode_index", pair) as number, value(1, "episode_index", pair) as number];
      const name = x === y ? `${x}` : `${x} | ${y}`;
      return isOpen(a, b, x, y) ? <a href={`#${pairPath(a, b, x, y)}`} tabIndex={-1}>{name}</a> : name;
    }],
    ["a", `${title(chosen)} A`, true, (pair) => number(value(0, chosen, pair) as number)],
    ["b", `${title(chosen)} B`, true, (pair) => number(value(1, chosen, pair) as number)],
    ["difference", "B − A", true, (pair) => <Difference value={difference(pair)} />],
    ["steps a", "steps A", true, (pair) => number(value(0, "n_steps", pair) as number)],
    ["steps b", "steps B", true, (pair) => number(value(1, "n_steps", pair) as number)],
    ["ending a", "ending A", false, (pair) => value(0, "ending", pair)],
    ["ending b", "ending B", false, (pair) => value(1, "ending", pair)],
    ["seed", "env seed", true, (pair) => String(value(0, "env_seed", pair) ?? "")],
  ];
  const tableColumns: TableColumn[] = cells.map(([name, text, isNumber, cell]) => ({
    name, title: text, isNumber, cell: (row) => cell(order[row]!),
  }));
  const n = positionsA.length;
  return (
    <>
      {n === 0 && (
        <Problem>
          The runs have no environment seed in common. Play both with the same one, such as
          seeding.env_base_seed=1, to compare them episode by episode.
        </Problem>
      )}
      <section class="panels">
        <div class="panel">
          <h2>Paired differences, B − A</h2>
          <p class="help">
            {plural(n, "pair")} of episodes with the same environment seed
            {comparison.n_alone.some(Boolean) && `; ${comparison.n_alone[0]} of A and ${comparison.n_alone[1]} of B have no partner`}
          </p>
          <div class="scroll">
            <table class="statistics">
              <thead>
                <tr>
                  <th scope="col"><span class="hidden">statistic</span></th><th scope="col">mean A</th><th scope="col">mean B</th>
                  <th scope="col">B − A</th><th scope="col">95 % CI</th><th scope="col">higher</th><th scope="col">equal</th><th scope="col">lower</th>
                </tr>
              </thead>
              <tbody>
                {comparison.statistics.map((statistic) => (
                  <tr key={statistic.name} class={statistic.name === chosen ? "chosen" : ""} onClick={() => setChosen(statistic.name)}>
                    <th scope="row"><button type="button" class="plain" onClick={() => setChosen(statistic.name)}>{title(statistic.name)}</button></th>
                    <td>{number(statistic.means[0])}</td><td>{number(statistic.means[1])}</td>
                    <td class="mean"><Difference value={statistic.mean} /></td>
                    <td>{statistic.ci_half_width === null ? "" : `± ${number(statistic.ci_half_width)}`}</td>
                    <td>{statistic.n_higher}</td><td>{statistic.n_equal}</td><td>{statistic.n_lower}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </div>
        <div class="panel">
          <h2>Differences in {title(chosen)}</h2>
          <Histogram values={differences} name={`differences in ${title(chosen)}`} />
        </div>
      </section>
      <section class="panel" aria-label="Pairs">
        <h2>Pairs</h2>
        {columns[0] && columns[1] && (  // Before that, a click on a row would lead nowhere.
          <Table
            label="Pairs" columns={tableColumns} n={n} sort={sort} onSort={setSort}
            onOpen={(row) => {
              const pair = order[row]!;
              const [x, y] = [value(0, "episode_index", pair) as number, value(1, "episode_index", pair) as number];
              if (isOpen(a, b, x, y)) go(pairPath(a, b, x, y));
            }}
          />
        )}
      </section>
    </>
  );
}

const isOpen = (a: number, b: number, x: number, y: number) => source.hasEpisode(a, x) && source.hasEpisode(b, y);

function Difference(props: { value: number | null }) {
  const { value } = props;
  return <span class={value ? (value > 0 ? "up" : "down") : ""}>{value !== null && value > 0 ? "+" : ""}{number(value)}</span>;
}

export function PairPage(props: Both & { episodes: [number, number]; step: number }) {
  const { runs, indices: [a, b], episodes: [x, y] } = props;
  useTitle(`Episodes ${x} and ${y}`);
  const infos = useLoaded(
    () => Promise.all([source.episode(a, x), source.episode(b, y)]), [a, b, x, y],
  );
  return (
    <main class="episode">
      <header class="title">
        <h1>
          <a href={`#${comparePath(a, b)}`}>Comparison</a><span class="divider" aria-hidden="true">/</span>
          {x === y ? `episode ${x}` : `episodes ${x} and ${y}`}
        </h1>
        <p class="summary">{runs[0].env}, environment seed {infos.value?.[0].env_seed ?? "…"}</p>
      </header>
      {infos.error && <Problem>{infos.error}</Problem>}
      {infos.value && <Pair key={`${a}/${x}/${b}/${y}`} {...props} infos={infos.value} />}
    </main>
  );
}

function Pair(props: Both & { episodes: [number, number]; step: number; infos: [EpisodeInfo, EpisodeInfo] }) {
  const { runs, indices: [a, b], episodes: [x, y], infos } = props;
  const lasts = infos.map((info) => Math.max(info.n_positions - 1, 0)) as [number, number];
  const last = Math.max(...lasts);
  const frames = [useFrames(a, x, lasts[0]), useFrames(b, y, lasts[1])] as const;
  const player = usePlayer(last, props.step, (step) =>
    frames.every((cache, i) => cache.isSettled(Math.min(step, lasts[i]!))));
  const { step } = player;
  useNotedStep(step, (at) => pairPath(a, b, x, y, at));
  const channels = infos[0].channels.filter(({ name }) => infos[1].channels.some((one) => one.name === name));
  const [shown, setShown] = useState(() => firstChannels(channels, []));
  const [window, zoom] = useWindow(last);
  const keys = [shown.join("\n"), window.from, window.to];
  const overviews = [
    useLoaded(() => source.overview(a, x, shown, window.from, window.to + 1, N_POINTS), [a, x, ...keys]),
    useLoaded(() => source.overview(b, y, shown, window.from, window.to + 1, N_POINTS), [b, y, ...keys]),
  ];
  const divergence = useLoaded(() => source.divergence(a, x, b, y), [a, x, b, y]);
  const at = divergence.value?.step ?? null;
  const told = divergence.error
    || (!divergence.value ? "…" : at === null
      ? (divergence.value.what === "unknown" ? "" : "Both episodes are the same.")
      : at >= Math.min(...lasts) && divergence.value.what === "length"
        ? `They are the same until one of them ends, after step ${at}.`
        : `They differ from step ${at} on: first in the ${divergence.value.what}.`);
  useEffect(() => {
    source.startFrames(a);
    source.startFrames(b);
  }, [a, b]);
  return (
    <>
      <p class="divergence" role="status">
        {told} {at !== null && <button type="button" onClick={() => player.go(at)}>go to step {at}</button>}
      </p>
      <section class="stage two">
        {([0, 1] as const).map((side) => {
          const info = infos[side];
          const isOver = step >= lasts[side];
          return (
            <div class="panel" key={side}>
              <h2>
                <span class={`side ${"ab"[side]}`}>{"AB"[side]}</span> {runs[side].policy}{" "}
                <a class="help" href={`#${episodePath([a, b][side]!, [x, y][side]!, Math.min(step, lasts[side]))}`}>episode {[x, y][side]}</a>
                <span class="help"> return {number(info.return)} · {info.ending}{isOver && step > lasts[side] ? ` after step ${lasts[side]}` : ""}</span>
              </h2>
              <FramePane
                run={[a, b][side]!} episode={[x, y][side]!} step={Math.min(step, lasts[side])} cache={frames[side]}
                label={`${"AB"[side]}, episode ${[x, y][side]}`}
              />
            </div>
          );
        })}
      </section>
      <Controls player={player} />
      <TimeLines
        channels={channels} events={[]} shown={shown} onShow={setShown} overviews={overviews.map(({ value }) => value)}
        window={window} onZoom={zoom} step={step} onStep={player.go}
        mark={at === null ? null : { step: at, text: `first difference: step ${at}` }}
      />
    </>
  );
}
