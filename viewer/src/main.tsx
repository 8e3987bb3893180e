import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ComparePage, PairPage } from "./compare";
import { type RunSummary, source } from "./data";
import { EpisodePage } from "./episode";
import { useKeys } from "./hooks";
import { Problem } from "./parts";
import { comparePath, go, runPath, type Route, useRoute } from "./router";
import { RunPage, useRuns } from "./run";
import "./style.css";

const KEYS: [string, string][] = [
  ["← →", "a step back or on; with shift, ten"],
  ["Home End", "first and last step"],
  ["Page ↑ ↓", "a tenth of the episode"],
  ["space", "play and pause"],
  ["< >", "slower and faster"],
  ["+ − 0", "zoom into the time lines, out, and all"],
  ["p n", "previous and next episode of the table"],
  ["u", "up to the run"],
  ["?", "this list"],
];

function App() {
  const { runs, error } = useRuns();
  const route = useRoute();
  const [isHelping, setHelping] = useState(false);
  useKeys((event) => {
    if (event.key === "?") setHelping(!isHelping);
    if (event.key === "Escape") setHelping(false);
  });
  useEffect(() => window.scrollTo(0, 0), [route.path.join("/")]);
  return (
    <>
      <Bar runs={runs ?? []} route={route} onHelp={() => setHelping(!isHelping)} />
      {isHelping && (
        <aside class="keys" aria-label="Keys">
          <h2>Keys</h2>
          <dl>{KEYS.map(([keys, text]) => <div key={keys}><dt>{keys.split(" ").map((key) => <kbd key={key}>{key}</kbd>)}</dt><dd>{text}</dd></div>)}</dl>
        </aside>
      )}
      {source.note && <p class="note report">{source.note}</p>}
      {error && <main><Problem>{error}</Problem></main>}
      {runs && <Page runs={runs} route={route} />}
    </>
  );
}

function Page(props: { runs: RunSummary[]; route: Route }) {
  const { runs, route: { path, options } } = props;
  const [kind, ...rest] = path;
  const step = Number(options.get("step") ?? 0) || 0;
  const numbers = rest.filter((part) => /^\d+$/.test(part)).map(Number);
  if (kind === "compare") {
    const [a, b, x, y] = numbers;
    const [one, other] = [runs[a ?? 0], runs[b ?? 1]];
    if (!one || !other) return <Lost />;
    const both = { runs: [one, other] as [RunSummary, RunSummary], indices: [a ?? 0, b ?? 1] as [number, number] };
    if (x !== undefined && y !== undefined) return <PairPage {...both} episodes={[x, y]} step={step} />;
    return <ComparePage key={path.join("/")} {...both} />;
  }
  const [index = 0, episode] = numbers;
  const run = runs[index];
  if (!run || (kind !== undefined && kind !== "run")) return <Lost />;
  if (episode !== undefined) return <EpisodePage index={index} run={run} episode={episode} step={step} />;
  return <RunPage key={index} index={index} run={run} />;
}

function Lost() {
  return <main><Problem>There is no such page. <a href="#/">To the run</a></Problem></main>;
}

function Bar(props: { runs: RunSummary[]; route: Route; onHelp: () => void }) {
  const { runs, route: { path } } = props;
  const current = path[0] === "compare" ? "compare" : Number(path[1] ?? 0);
  return (
    <nav class="bar" aria-label="Runs">
      <a class="brand" href="#/">maze</a>
      <span class="runs">
        {runs.map((run, index) => (
          <a key={index} href={`#${runPath(index)}`} aria-current={current === index ? "page" : undefined} title={run.path}>
            {runs.length > 1 && runs.length <= 26 && <b>{String.fromCharCode(65 + index)} </b>}{run.name}
          </a>
        ))}
        {runs.length > 1 && <a href={`#${comparePath(0, 1)}`} aria-current={current === "compare" ? "page" : undefined}>compare</a>}
        {runs.length > 2 && current === "compare" && <Choice runs={runs} path={path} />}
      </span>
      <button type="button" class="quiet" onClick={props.onHelp} title="Keys (?)">keys</button>
      <Theme />
    </nav>
  );
}

function Choice(props: { runs: RunSummary[]; path: string[] }) {
  const [a, b] = [Number(props.path[1] ?? 0), Number(props.path[2] ?? 1)];
  const select = (value: number, label: string, change: (next: number) => string) => (
    <select aria-label={label} value={value} onChange={(event) => go(change(Number(event.currentTarget.value)))}>
      {props.runs.map((run, index) => <option key={index} value={index}>{String.fromCharCode(65 + (index % 26))} {run.name}</option>)}
    </select>
  );
  return <>{select(a, "First run", (next) => comparePath(next, b))} {select(b, "Second run", (next) => comparePath(a, next))}</>;
}

const THEMES = ["auto", "light", "dark"];

function Theme() {
  const [theme, setTheme] = useState(() => stored() ?? "auto");
  useEffect(() => {
    document.documentElement.dataset["theme"] = theme;
    try {
      localStorage.setItem("maze-theme", theme);
    } catch {
      // Not everywhere may something be stored.
    }
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  return (
    <button type="button" class="quiet" onClick={() => setTheme(next)} aria-label={`Colours: ${theme}. Change to ${next}`}>
      {theme}
    </button>
  );
}

function stored(): string | null {
  try {
    const theme = localStorage.getItem("maze-theme");
    return theme && THEMES.includes(theme) ? theme : null;
  } catch {
    return null;
  }
}

render(<App />, document.getElementById("page")!);
