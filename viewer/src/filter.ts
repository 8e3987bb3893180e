// Conditions on episodes, as `maze show --where` knows them: return<20 ending=failed

import type { ColumnName } from "./data";

export interface Condition {
  column: string;
  sign: "<=" | ">=" | "!=" | "=" | "<" | ">" | "~";
  value: string;
}

const CONDITION = /\s*(?:"([^"]+)"|([^\s,<>=!~"]+))\s*(<=|>=|!=|=|<|>|~)\s*(?:"([^"]*)"|([^\s,]+))\s*,?/y;
const TITLES: Record<string, string> = { episode: "episode_index", steps: "n_steps", seed: "env_seed" };

/** Throws an `Error` that says what is wrong. */
export function parse(text: string, columns: ColumnName[]): Condition[] {
  const conditions: Condition[] = [];
  CONDITION.lastIndex = 0;
  let end = 0;
  for (let found = CONDITION.exec(text); found; found = CONDITION.exec(text)) {
    const written = found[1] ?? found[2]!;
    const column = TITLES[written] ?? written;
    const known = columns.find((one) => one.name === column);
    if (!known) throw new Error(`There is no column “${written}”.${hint(column, columns)}`);
    const sign = found[3] as Condition["sign"];
    const value = found[4] ?? found[5]!;
    if (known.kind === "number" && (sign === "~" || !Number.isFinite(Number(value)))) {
      throw new Error(`“${written}” is compared with a number, such as ${written}>10.`);
    }
    if (known.kind === "text" && !["=", "!=", "~"].includes(sign)) {
      throw new Error(`“${written}” is text: use = or != or ~ (contains).`);
    }
    conditions.push({ column, sign, value });
    end = CONDITION.lastIndex;
  }
  if (text.slice(end).trim()) {
    throw new Error(`“${text.slice(end).trim()}” is no condition. Write for instance: return<20 ending=failed`);
  }
  return conditions;
}

export function write(condition: Condition): string {
  const quoted = (part: string) => (/[\s,<>=!~]/.test(part) || part === "" ? `"${part}"` : part);
  return `${quoted(condition.column)}${condition.sign}${quoted(condition.value)}`;
}

export function matches(condition: Condition, value: number | string | null): boolean {
  const { sign } = condition;
  if (typeof value === "string") {
    if (sign === "~") return value.toLowerCase().includes(condition.value.toLowerCase());
    return (value === condition.value) === (sign === "=");
  }
  if (value === null) return false;
  const limit = Number(condition.value);
  switch (sign) {
    case "<": return value < limit;
    case ">": return value > limit;
    case "<=": return value <= limit;
    case ">=": return value >= limit;
    case "!=": return value !== limit;
    default: return value === limit;
  }
}

function hint(name: string, columns: ColumnName[]): string {
  const near = columns.filter(({ name: other }) => other.toLowerCase().includes(name.toLowerCase().slice(0, 4)));
  const shown = (near.length ? near : columns).slice(0, 6).map(({ name: other }) => other);
  return ` ${near.length ? "Did you mean" : "There are"}: ${shown.join(", ")}`;
}
