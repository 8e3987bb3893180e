// A table of any length: only the rows in view are in the page.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { rem } from "./hooks";

export interface TableColumn {
  name: string;
  title: string;
  isNumber: boolean;
  cell: (row: number) => ComponentChildren;
}

const MORE = 8;

/** Columns are of equal width in head and body, however long their names are. */
function widths(columns: TableColumn[]): Record<string, string> {
  const least = columns.map((column) => (column.isNumber ? 5.5 : 7));
  return {
    "--columns": columns.map((column, i) => `minmax(${least[i]}rem, ${column.isNumber ? 1 : 1.3}fr)`).join(" "),
    "--least": `${least.reduce((sum, width) => sum + width + 0.8, 2.4)}rem`,
  };
}

export function Table(props: {
  label: string;
  columns: TableColumn[];
  n: number;
  sort?: { column: string; isDescending: boolean };
  onSort?: (column: string) => void;
  onOpen?: (row: number) => void;
  nShown?: number;
}) {
  const { columns, n } = props;
  const body = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [chosen, setChosen] = useState(0);
  const [height, setHeight] = useState(() => 2 * rem());
  useLayoutEffect(() => setHeight(2 * rem()));
  const nShown = props.nShown ?? 16;
  const first = Math.max(0, Math.floor(top / height) - MORE);
  const last = Math.min(n, Math.ceil(top / height) + nShown + MORE);
  useEffect(() => {
    if (chosen >= n) setChosen(Math.max(0, n - 1));
  }, [n]);

  function choose(row: number): void {
    const next = Math.min(Math.max(row, 0), n - 1);
    setChosen(next);
    const element = body.current!;
    if (next * height < element.scrollTop) element.scrollTop = next * height;
    if ((next + 1) * height > element.scrollTop + element.clientHeight) {
      element.scrollTop = (next + 1) * height - element.clientHeight;
    }
  }

  function pressed(event: KeyboardEvent): void {
    const moves: Record<string, number> = {
      ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + nShown, PageUp: chosen - nShown,
      Home: 0, End: n - 1,
    };
    if (event.key in moves) choose(moves[event.key]!);
    else if (event.key === "Enter" && n && event.target === body.current) props.onOpen?.(chosen);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const rows = [];
  for (let row = first; row < last; row++) {
    rows.push(
      <div
        key={row} role="row" aria-rowindex={row + 2} aria-selected={row === chosen}
        class={row === chosen ? "row chosen" : "row"}
        onClick={(event) => {
          setChosen(row);
          if (!(event.target as HTMLElement).closest("a")) props.onOpen?.(row);
        }}
      >
        {columns.map((column) => (
          <span key={column.name} role="gridcell" class={column.isNumber ? "cell number" : "cell"}>
            {column.cell(row)}
          </span>
        ))}
      </div>,
    );
  }
  return (
    <div class="table" role="grid" aria-label={props.label} aria-rowcount={n + 1} style={widths(columns)}>
      <div class="head" role="rowgroup">
        <div class="row" role="row" aria-rowindex={1}>
          {columns.map((column) => {
            const isSorted = props.sort?.column === column.name;
            const arrow = isSorted ? (props.sort!.isDescending ? "▼" : "▲") : "";
            return (
              <span
                key={column.name} role="columnheader" class={column.isNumber ? "cell number" : "cell"}
                aria-sort={isSorted ? (props.sort!.isDescending ? "descending" : "ascending") : "none"}
              >
                {props.onSort ? (
                  <button type="button" class="plain" title={`Sort by ${column.title}`} onClick={() => props.onSort!(column.name)}>
                    {column.title} <span class="arrow" aria-hidden="true">{arrow}</span>
                  </button>
                ) : (
                  column.title
                )}
              </span>
            );
          })}
        </div>
      </div>
      <div
        ref={body} class="body" role="rowgroup" tabIndex={0} aria-label={`${props.label}: arrows move, Enter opens`}
        style={{ height: `${Math.max(1, Math.min(n, nShown)) * 2}rem` }}
        onScroll={() => setTop(body.current!.scrollTop)} onKeyDown={pressed}
      >
        <div style={{ height: `${n * 2}rem` }}>
          <div style={{ transform: `translateY(${first * 2}rem)` }}>{rows}</div>
        </div>
      </div>
      {n === 0 && <p class="empty">None.</p>}
    </div>
  );
}
