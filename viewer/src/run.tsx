// The page of a run: what was asked, what came out, and every episode.

import { useEffect, useLayoutEffect, useMemo, useState } from "preact/hooks";
import { type Bin, Histogram, Shares } from "./charts";
import { type Column, type Columns, type RunSummary, source } from "./data";
import { type Condition, matches, parse, write } from "./filter";
import { number, plural, title } from "./format";
import { useLoaded, useTitle } from "./hooks";
import { Command, Ending, Facts, Problem } from "./parts";
import { episodePath, go } from "./router";
import { Table, type TableColumn } from "./table";

/** The episodes of each run in the order of its table, for going from one to the next. */
export const orders = new Map<number, number[]>();

interface TableState {
  filter: string;
  sort: { column: string; isDescending: boolean };
  columns: string[] | null;
  plotted: string;
}

/** How each run's table was left. */
const states = new Map<number, TableState>();

const LISTED = ["episode_index", "ending", "return", "n_steps"];
const NEEDED = [...LISTED, "env_seed", "error"];
const N_STATISTICS = 4;
const N_FAILURES = 5;
/** Up to which all distributions are drawn. */
const N_SMALL = 20_000;

export function at(column: Column | undefined, row: number): number | string | null {
  if (!column) return null;
  return "numbers" in column ? column.numbers[row]! : column.words[column.codes[row]!]!;
}

/** All episodes: their columns as far as they were needed, kept up to date while a run goes on. */
export function useColumns(run: number, version: number, names: string[]): Columns | null {
  const [held, setHeld] = useState<Columns | null>(null);
  const [missing, setMissing] = useState(0);
  useEffect(() => {
    const isOutdated = !held || held.version !== version;
    const wanted = isOutdated ? names : names.filter((name) => !(name in held.columns));
    if (!wanted.length) return;
    let isWanted = true;
    source.columns(run, wanted).then((got) => {
      if (!isWanted) return;
      setHeld((before) =>
        before && before.version === got.version
          ? { ...got, columns: { ...before.columns, ...got.columns } }
          : got,
      );
    }, () => isWanted && setTimeout(() => setMissing(missing + 1), 1000));
    return () => {
      isWanted = false;
    };
  }, [run, version, names.join("\n"), missing, held?.version]);
  return held;
}

export function RunPage(props: { index: number; run: RunSummary }) {
  const { index, run } = props;
  useTitle(`${run.env} · ${run.policy}`);
  const [state, setState] = useState<TableState>(
    () => states.get(index) ?? {
      filter: "", sort: { column: "episode_index", isDescending: false }, columns: null, plotted: "return",
    },
  );
  const change = (changes: Partial<TableState>) => setState((before) => ({ ...before, ...changes }));
  states.set(index, state);
  useEffect(() => {
    if (run.n_episodes) source.startFrames(index);
  }, [index]);

  const statistics = run.statistics.map((one) => one.name);
  const shownColumns = state.columns ?? [
    ...LISTED,
    ...statistics.filter((name) => !LISTED.includes(name)).sort((a, b) => Number(b.startsWith("kpi.")) - Number(a.startsWith("kpi."))).slice(0, N_STATISTICS),
    "env_seed",
  ];
  const { conditions, problem } = useMemo(() => {
    try {
      return { conditions: parse(state.filter, run.columns), problem: "" };
    } catch (error) {
      return { conditions: [], problem: (error as Error).message };
    }
  }, [state.filter, run.columns]);
  const needed = [
    ...new Set([
      ...NEEDED, ...shownColumns, state.sort.column, state.plotted,
      ...conditions.map(({ column }) => column),
      ...(run.n_episodes <= N_SMALL ? statistics : []),
    ]),
  ];
  const columns = useColumns(index, run.version, needed);
  const rows = useMemo(() => chosenRows(columns, conditions, state.sort), [columns, conditions, state.sort]);
  useLayoutEffect(() => {
    const indices = columns?.columns["episode_index"];
    if (indices && "numbers" in indices) orders.set(index, Array.from(rows, (row) => indices.numbers[row]!));
  }, [rows]);

  const add = (...added: Condition[]) => {
    const kept = conditions.filter((one) => !added.some(({ column }) => column === one.column));
    change({ filter: [...kept, ...added].map(write).join(" ") });
  };
  const addBin = (name: string) => (bin: Bin) =>
    bin.isSingle
      ? add({ column: name, sign: "=", value: String(bin.low) })
      : add(
          { column: name, sign: ">=", value: String(Number(bin.low.toPrecision(12))) },
          { column: name, sign: "<", value: String(Number(bin.high.toPrecision(12))) },
        );

  return (
    <main class="run">
      <Head run={run} />
      <section class="panels" aria-label="Results">
        <Statistics run={run} columns={columns} plotted={state.plotted} onPlot={(plotted) => change({ plotted })} />
        <div class="panel">
          <h2>
            <label>
              Distribution of{" "}
              <select value={state.plotted} onChange={(event) => change({ plotted: event.currentTarget.value })}>
                {statistics.map((name) => <option key={name} value={name}>{title(name)}</option>)}
              </select>
            </label>
          </h2>
          <Histogram values={playedOf(columns, state.plotted)} name={title(state.plotted)} onChoose={addBin(state.plotted)} />
          <h2>Endings</h2>
          <Shares counts={run.endings} onChoose={(ending) => add({ column: "ending", sign: "=", value: ending })} />
        </div>
      </section>
      <Failures index={index} run={run} columns={columns} />
      <section class="panel" aria-label="Episodes">
        <div class="toolbar">
          <h2>Episodes</h2>
          <label class="filter">
            <span>Filter</span>
            <input
              type="search" value={state.filter} placeholder="return<20 ending=failed" spellcheck={false}
              aria-invalid={problem !== ""} aria-describedby="filter-help"
              onInput={(event) => change({ filter: event.currentTarget.value })}
            />
          </label>
          <span id="filter-help" class={problem ? "help wrong" : "help"} aria-live="polite">
            {problem || `${rows.length.toLocaleString("en-US")} of ${plural(columns?.n ?? 0, "episode")}`}
          </span>
          <ColumnChoice run={run} chosen={shownColumns} onChange={(names) => change({ columns: names })} />
        </div>
        <Table
          label="Episodes" columns={tableColumns(index, run, columns, rows, shownColumns)} n={rows.length}
          sort={state.sort}
          onSort={(column) =>
            change({ sort: { column, isDescending: state.sort.column === column && !state.sort.isDescending } })}
          onOpen={(row) => openEpisode(index, columns, rows[row]!)}
        />
      </section>
      <Origin run={run} />
    </main>
  );
}

function openEpisode(run: number, columns: Columns | null, row: number): void {
  const episode = at(columns?.columns["episode_index"], row) as number;
  if (source.hasEpisode(run, episode)) go(episodePath(run, episode));
}

function numbersOf(columns: Columns | null, name: string): ArrayLike<number> {
  const column = columns?.columns[name];
  const cached = column && asNumbers.get(column);
  if (cached) return cached;
  if (!column || !("numbers" in column)) return [];
  const numbers = Float64Array.from(column.numbers, (value) => value ?? NaN);
  asNumbers.set(column, numbers);
  return numbers;
}

const asNumbers = new WeakMap<Column, Float64Array>();

/** Those of the episodes that did not fail, which the statistics are about. */
function playedOf(columns: Columns | null, name: string): ArrayLike<number> {
  const endings = columns?.columns["ending"];
  const column = columns?.columns[name];
  if (!column || !endings || !("words" in endings)) return [];
  const failed = endings.words.indexOf("failed");
  if (failed < 0) return numbersOf(columns, name);
  const known = played.get(column);
  if (known) return known;
  const found = Float64Array.from(numbersOf(columns, name)).filter((_, row) => endings.codes[row] !== failed);
  played.set(column, found);
  return found;
}

const played = new WeakMap<Column, Float64Array>();

function chosenRows(columns: Columns | null, conditions: Condition[], sort: TableState["sort"]): Uint32Array {
  if (!columns) return new Uint32Array();
  const checked = conditions.map((condition) => {
    const column = columns.columns[condition.column];
    // Each distinct text is looked at once.
    const ofWords = column && "words" in column ? column.words.map((word) => matches(condition, word)) : null;
    return { condition, column, ofWords };
  });
  if (checked.some(({ column }) => !column)) return new Uint32Array();
  const rows: number[] = [];
  for (let row = 0; row < columns.n; row++) {
    const isChosen = checked.every(({ condition, column, ofWords }) =>
      ofWords ? ofWords[(column as { codes: number[] }).codes[row]!]! : matches(condition, at(column, row)),
    );
    if (isChosen) rows.push(row);
  }
  const column = columns.columns[sort.column];
  if (!column) return Uint32Array.from(rows);
  let keys: ArrayLike<number>;
  if ("words" in column) {
    const order = column.words.map((word, i) => [word, i] as const).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    const ranks = new Array<number>(order.length);
    order.forEach(([, i], rank) => (ranks[i] = rank));
    keys = column.codes.map((code) => ranks[code]!);
  } else {
    keys = numbersOf(columns, sort.column);
  }
  const sign = sort.isDescending ? -1 : 1;
  // What is no number comes last either way, and equal ones stay in the order of the episodes.
  return Uint32Array.from(rows.sort((a, b) => {
    const [x, y] = [keys[a]!, keys[b]!];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y)) || a - b;
    return sign * (x - y) || a - b;
  }));
}

function tableColumns(
  index: number, run: RunSummary, columns: Columns | null, rows: Uint32Array, names: string[],
): TableColumn[] {
  return names.map((name) => {
    const column = columns?.columns[name];
    const isNumber = run.columns.find((one) => one.name === name)?.kind === "number";
    return {
      name,
      title: title(name),
      isNumber: isNumber && name !== "episode_index",
      cell: (row) => {
        const value = at(column, rows[row]!);
        if (name === "episode_index") {
          const episode = value as number;
          if (!source.hasEpisode(index, episode)) return <span title="Not in this report">{episode}</span>;
          return <a href={`#${episodePath(index, episode)}`} tabIndex={-1}>{episode}</a>;
        }
        if (name === "ending") return <Ending ending={String(value ?? "")} />;
        if (typeof value === "string") return <span title={value}>{value}</span>;
        return name.endsWith("seed") ? String(value ?? "") : number(value);
      },
    };
  });
}

function Head(props: { run: RunSummary }) {
  const { run } = props;
  const isPartial = run.n_requested !== null && run.n_requested !== run.n_episodes;
  const of = isPartial ? ` of ${run.n_requested!.toLocaleString("en-US")}` : "";
  return (
    <header class="title">
      <h1>{run.env} <span class="by">{run.policy}</span></h1>
      <p class="summary">
        {run.is_live && <span class="live" role="status">live</span>}
        {run.n_episodes.toLocaleString("en-US")}{of} episodes · {plural(run.n_steps, "step")}
        {run.interrupted && " · interrupted"}
      </p>
      {isPartial && !run.is_live && (
        <p class="note">
          {plural(run.n_requested! - run.n_episodes, "episode")} missing: short ones finish first, so that these
          count for too much. <Command text={run.resume_command} />
        </p>
      )}
      {run.stopped_because && <Problem>The run stopped: {run.stopped_because}</Problem>}
      {run.warnings.map((warning) => <p key={warning} class="note">{warning}</p>)}
    </header>
  );
}

function Statistics(props: {
  run: RunSummary; columns: Columns | null; plotted: string; onPlot: (name: string) => void;
}) {
  const { run, columns } = props;
  const isSmall = run.n_episodes <= N_SMALL;
  return (
    <div class="panel">
      <h2>Statistics</h2>
      <div class="scroll">
        <table class="statistics">
          <thead>
            <tr>
              <th scope="col"><span class="hidden">statistic</span></th>
              <th scope="col">mean</th><th scope="col">95 % CI</th><th scope="col">std</th>
              <th scope="col">min</th><th scope="col">median</th><th scope="col">max</th>
              {isSmall && <th scope="col" class="wide">distribution</th>}
            </tr>
          </thead>
          <tbody>
            {run.statistics.map((one) => (
              <tr key={one.name} class={one.name === props.plotted ? "chosen" : ""} onClick={() => props.onPlot(one.name)}>
                <th scope="row"><button type="button" class="plain" title="Show its distribution" onClick={() => props.onPlot(one.name)}>{title(one.name)}</button></th>
                <td class="mean">{number(one.mean)}</td>
                <td>{one.ci_half_width === null ? "" : `± ${number(one.ci_half_width)}`}</td>
                <td>{number(one.std)}</td><td>{number(one.min)}</td>
                <td>{number(one.median)}</td><td>{number(one.max)}</td>
                {isSmall && <td class="wide"><Histogram isSmall values={playedOf(columns, one.name)} name={title(one.name)} /></td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {(run.endings["failed"] ?? 0) > 0 && (
        <p class="help">Episodes that failed are counted apart and are not in these numbers.</p>
      )}
    </div>
  );
}

function Failures(props: { index: number; run: RunSummary; columns: Columns | null }) {
  const { index, run, columns } = props;
  const n = run.endings["failed"] ?? 0;
  if (!n) return null;
  const endings = columns?.columns["ending"];
  const failed: number[] = [];
  for (let row = 0; row < (columns?.n ?? 0) && failed.length < N_FAILURES; row++) {
    if (at(endings, row) === "failed") failed.push(row);
  }
  return (
    <section class="panel failures" aria-label="Failed episodes">
      <h2>{plural(n, "failed episode")}</h2>
      <ul>
        {failed.map((row) => {
          const episode = at(columns?.columns["episode_index"], row) as number;
          return (
            <li key={episode}>
              {source.hasEpisode(index, episode)
                ? <a href={`#${episodePath(index, episode)}`}>episode {episode}</a>
                : <span>episode {episode}</span>}
              <span class="error">{String(at(columns?.columns["error"], row) ?? "")}</span>
              <Command text={run.replay_command.replace("{episode_index}", String(episode))} />
            </li>
          );
        })}
      </ul>
      {n > failed.length && <p class="help">{(n - failed.length).toLocaleString("en-US")} more: filter by ending=failed.</p>}
    </section>
  );
}

function ColumnChoice(props: { run: RunSummary; chosen: string[]; onChange: (names: string[]) => void }) {
  const { run, chosen } = props;
  return (
    <details class="choice">
      <summary>Columns</summary>
      <div class="options">
        {run.columns.map(({ name }) => (
          <label key={name}>
            <input
              type="checkbox" checked={chosen.includes(name)} disabled={name === "episode_index"}
              onChange={(event) =>
                props.onChange(event.currentTarget.checked ? [...chosen, name] : chosen.filter((one) => one !== name))}
            />
            {title(name)}
          </label>
        ))}
      </div>
    </details>
  );
}

function Origin(props: { run: RunSummary }) {
  const { run } = props;
  const seeds = Object.entries(run.seeding).filter(([name, value]) => name.endsWith("_base_seed") && value !== null);
  const rate = run.timing["steps_per_second"];
  return (
    <section class="panel" aria-label="What was run">
      <h2>What was run</h2>
      <Facts
        facts={[
          ...(run.command ? [["command", <Command text={run.command} />] as [string, preact.ComponentChildren]] : []),
          ["directory", <code>{run.path}</code>],
          ["seeds", seeds.length ? <code>{seeds.map(([name, value]) => `seeding.${name}=${value}`).join(" ")}</code> : "listed one by one"],
          ["versions", Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(" · ") || "–"],
          ...(typeof rate === "number" ? [["speed", `${number(Math.round(rate))} steps/s`] as [string, string]] : []),
        ]}
      />
      <details>
        <summary>Configuration</summary>
        <pre tabIndex={0}>{run.config}</pre>
      </details>
    </section>
  );
}

/** Keeps a run's summary up to date while the run goes on. */
export function useRuns(): { runs: RunSummary[] | null; error: string } {
  const [round, setRound] = useState(0);
  const { value, error } = useLoaded(() => source.runs(), [round]);
  const live = value?.flatMap((run, index) => (run.is_live ? [index] : [])) ?? [];
  const versions = value?.map((run) => run.version).join(" ") ?? "";
  useEffect(() => {
    if (!live.length) return;
    const timer = setInterval(async () => {
      try {
        const now = await Promise.all(live.map((index) => source.version(index)));
        if (live.some((index, i) => value![index]!.version !== now[i])) setRound(round + 1);
      } catch {
        // The viewer has ended; what is shown stays.
      }
    }, 1000);
    return () => clearInterval(timer);
  }, [versions]);
  return { runs: value, error };
}
