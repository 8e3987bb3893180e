// Where the page gets its data: from the server, or, in an exported report, from the page itself.

export interface Numbers {
  numbers: (number | null)[];
}

export interface Words {
  words: string[];
  codes: number[];
}

export type Column = Numbers | Words;

export interface Columns {
  version: number;
  n: number;
  columns: Record<string, Column>;
}

export interface Statistic {
  name: string;
  n: number;
  mean: number | null;
  ci_half_width: number | null;
  std: number | null;
  min: number | null;
  median: number | null;
  max: number | null;
}

export interface ColumnName {
  name: string;
  kind: "number" | "text";
}

export interface RunSummary {
  name: string;
  path: string;
  version: number;
  env: string;
  policy: string;
  n_requested: number | null;
  n_episodes: number;
  endings: Record<string, number>;
  n_steps: number;
  statistics: Statistic[];
  columns: ColumnName[];
  event_types: string[];
  has_trajectories: boolean;
  is_live: boolean;
  interrupted: boolean;
  stopped_because: string;
  warnings: string[];
  command: string;
  versions: Record<string, string>;
  seeding: Record<string, unknown>;
  config: string;
  replay_command: string;
  resume_command: string;
  timing: Record<string, unknown>;
}

export interface ChannelName {
  name: string;
  group: "reward" | "observation" | "action" | "policy";
  is_discrete: boolean;
  is_constant: boolean;
}

export interface Failure {
  place: string;
  step: number;
  exception_type: string;
  message: string;
  traceback: string;
  output?: string;
}

export interface EpisodeInfo {
  episode_index: number;
  episode_id: string;
  env_seed: string;
  agent_seed: string;
  ending: string;
  truncated_by: string;
  return: number | null;
  n_env_steps: number;
  n_steps: number;
  n_positions: number;
  has_data: boolean;
  is_structured: boolean;
  digest: string;
  attempts: number;
  statistics: Record<string, number | null>;
  failure: Failure | null;
  channels: ChannelName[];
  events: Record<string, number>;
  images: { name: string; step_key: string }[];
  problems: string[];
}

export interface Line {
  x: number[];
  y?: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
}

export interface Marks {
  marks: number[];
  counts: number[];
}

export interface Overview {
  channels: Record<string, Line | Marks>;
  actors: [number, number, string][];
}

export interface Step {
  step: number;
  time: number;
  actor: string;
  observation: Record<string, unknown>;
  action: Record<string, unknown>;
  reward: number | null;
  total: number | null;
  events: string[];
}

export interface FrameStatus {
  source: string;
  verdict: string;
  is_equal: boolean | null;
  differs_at: number | null;
  error: string;
}

export interface PairedStatistic extends Statistic {
  means: (number | null)[];
  n_higher: number;
  n_equal: number;
  n_lower: number;
}

export interface Comparison {
  pairs: [number[], number[]];
  n_alone: [number, number];
  statistics: PairedStatistic[];
}

export interface Divergence {
  step: number | null;
  what: string;
}

export interface Source {
  /** Whether there is a server, so that runs may go on and any frame can be asked for. */
  isServed: boolean;
  /** What is missing in a report, and other things to know about it. */
  note: string;
  runs(): Promise<RunSummary[]>;
  version(run: number): Promise<number>;
  columns(run: number, names: string[]): Promise<Columns>;
  hasEpisode(run: number, episode: number): boolean;
  episode(run: number, episode: number): Promise<EpisodeInfo>;
  overview(
    run: number, episode: number, names: string[], from: number, to: number, points: number,
  ): Promise<Overview>;
  steps(run: number, episode: number, from: number, to: number): Promise<Step[]>;
  /** The address of a frame; `null` if there is none. Equal addresses are equal frames. */
  frame(run: number, episode: number, step: number): string | null;
  startFrames(run: number): void;
  frameStatus(run: number, episode: number): Promise<FrameStatus>;
  image(run: number, episode: number, name: string, step: number): string | null;
  compare(one: number, other: number): Promise<Comparison>;
  divergence(
    one: number, oneEpisode: number, other: number, otherEpisode: number,
  ): Promise<Divergence>;
}

class Server implements Source {
  isServed = true;
  note = "";

  private async get<T>(path: string): Promise<T> {
    let response: Response;
    try {
      response = await fetch(`/api/${path}`);
    } catch {
      throw new Error("The viewer does not answer: has `maze view` ended?");
    }
    const content = await response.json();
    if (!response.ok) throw new Error(content.error ?? response.statusText);
    return content as T;
  }

  runs = () => this.get<RunSummary[]>("runs");
  version = async (run: number) => (await this.get<{ version: number }>(`runs/${run}/version`)).version;
  columns = (run: number, names: string[]) => this.get<Columns>(`runs/${run}/columns?${list(names)}`);
  hasEpisode = () => true;
  episode = (run: number, episode: number) => this.get<EpisodeInfo>(`runs/${run}/episodes/${episode}`);
  overview = (run: number, episode: number, names: string[], from: number, to: number, points: number) =>
    this.get<Overview>(
      `runs/${run}/episodes/${episode}/overview?${list(names)}&from=${from}&to=${to}&points=${points}`,
    );
  steps = (run: number, episode: number, from: number, to: number) =>
    this.get<Step[]>(`runs/${run}/episodes/${episode}/steps?from=${from}&to=${to}`);
  frame = (run: number, episode: number, step: number) =>
    `/api/runs/${run}/episodes/${episode}/frames/${step}`;
  startFrames = (run: number) => void fetch(`/api/runs/${run}/start_frames`).catch(() => {});
  frameStatus = (run: number, episode: number) =>
    this.get<FrameStatus>(`runs/${run}/episodes/${episode}/frames`);
  image = (run: number, episode: number, name: string, step: number) =>
    `/api/runs/${run}/episodes/${episode}/images/${step}?name=${encodeURIComponent(name)}`;
  compare = (one: number, other: number) => this.get<Comparison>(`compare/${one}/${other}`);
  divergence = (one: number, oneEpisode: number, other: number, otherEpisode: number) =>
    this.get<Divergence>(`compare/${one}/${other}/${oneEpisode}/${otherEpisode}`);
}

function list(names: string[]): string {
  return `names=${encodeURIComponent(JSON.stringify(names))}`;
}

interface Pictures {
  /** Ascending. */
  steps: number[];
  urls: string[];
}

interface EmbeddedEpisode {
  info: EpisodeInfo;
  overview: Overview;
  steps: Step[];
  frames: Pictures | null;
  frame_status: FrameStatus;
  images: Record<string, Pictures>;
}

interface Embedded {
  note: string;
  runs: RunSummary[];
  columns: Columns[];
  episodes: Record<string, EmbeddedEpisode>;
  comparisons: Record<string, Comparison>;
  divergences: Record<string, Divergence>;
}

class Report implements Source {
  isServed = false;
  note: string;

  constructor(private data: Embedded) {
    this.note = data.note;
  }

  private of(run: number, episode: number): EmbeddedEpisode {
    const found = this.data.episodes[`${run}/${episode}`];
    if (!found) throw new Error("This episode is not in the report.");
    return found;
  }

  runs = async () => this.data.runs;
  version = async (run: number) => this.data.runs[run]!.version;
  columns = async (run: number) => this.data.columns[run]!;
  hasEpisode = (run: number, episode: number) => `${run}/${episode}` in this.data.episodes;
  episode = async (run: number, episode: number) => this.of(run, episode).info;
  overview = async (run: number, episode: number) => this.of(run, episode).overview;
  steps = async (run: number, episode: number, from: number, to: number) =>
    this.of(run, episode).steps.filter((step) => from <= step.step && step.step < to);
  frame = (run: number, episode: number, step: number) => picture(this.of(run, episode).frames, step);
  startFrames = () => {};
  frameStatus = async (run: number, episode: number) => this.of(run, episode).frame_status;
  image = (run: number, episode: number, name: string, step: number) =>
    picture(this.of(run, episode).images[name] ?? null, step);
  compare = async (one: number, other: number) => {
    const found = this.data.comparisons[`${one}/${other}`];
    if (!found) throw new Error("This comparison is not in the report.");
    return found;
  };
  divergence = async (one: number, oneEpisode: number, other: number, otherEpisode: number) =>
    this.data.divergences[`${one}/${other}/${oneEpisode}/${otherEpisode}`] ?? { step: null, what: "unknown" };
}

/** The picture of a step, or the last one before it. */
function picture(pictures: Pictures | null, step: number): string | null {
  if (!pictures) return null;
  let found: string | null = null;
  for (let i = 0; i < pictures.steps.length && pictures.steps[i]! <= step; i++) {
    found = pictures.urls[i]!;
  }
  return found;
}

function open(): Source {
  const embedded = document.getElementById("maze-data");
  return embedded ? new Report(JSON.parse(embedded.textContent!) as Embedded) : new Server();
}

export const source = open();
