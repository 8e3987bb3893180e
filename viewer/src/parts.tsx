// Small things that every page uses.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

export function Problem(props: { children: ComponentChildren }) {
  return <p class="problem" role="alert">{props.children}</p>;
}

export function Command(props: { text: string }) {
  const [isCopied, setCopied] = useState(false);
  if (!props.text) return null;
  const copy = () => {
    navigator.clipboard?.writeText(props.text).then(() => {
      setCopied(true);
      setTimeout(() => setCopied(false), 1500);
    }, () => {});
  };
  return (
    <span class="command">
      <code>{props.text}</code>
      {"clipboard" in navigator && (
        <button type="button" class="quiet" onClick={copy} aria-label={`Copy: ${props.text}`}>
          {isCopied ? "copied" : "copy"}
        </button>
      )}
    </span>
  );
}

export function Facts(props: { facts: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {props.facts.map(([name, content]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{content}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Ending(props: { ending: string }) {
  return <span class={`ending ${props.ending}`}>{props.ending}</span>;
}
