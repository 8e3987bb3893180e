// Numbers and names as people read them.

export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size >= 1e9 || size < 1e-4) return value.toExponential(2);
  const decimals = Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(size))));
  return value.toLocaleString("en-US", {
    minimumFractionDigits: size < 1 ? 0 : Math.min(decimals, 2),
    maximumFractionDigits: decimals,
  });
}

/** Of an axis: short. */
export function tick(value: number): string {
  const size = Math.abs(value);
  if (value !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

export function title(column: string): string {
  return { episode_index: "episode", n_steps: "steps", return: "return" }[column] ?? column.replaceAll("_", " ");
}

export function plural(n: number, word: string): string {
  return `${n.toLocaleString("en-US")} ${word}${n === 1 ? "" : "s"}`;
}
