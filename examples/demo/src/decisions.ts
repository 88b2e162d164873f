/**
 * What the server decided, as its demo routes tell.
 *
 * Owns: the rows and the polling. An application has nothing of the kind: this is the view behind the curtain.
 */
import { useSyncExternalStore } from "react";

export type Row = {
  readonly number: number;
  /** Seconds since the epoch. */
  readonly at: number;
  readonly who: "you" | "thief";
  readonly event: string;
  readonly outcome: string;
  readonly generation: string;
  readonly reason: string;
  readonly text: string;
};

/** The times of this demo, in seconds. */
export type Times = {
  readonly settle_time: number;
  readonly tail_time: number;
  readonly access_lifetime: number;
  readonly inactivity_timeout: number;
};

export type Decisions = { readonly rows: readonly Row[]; readonly times: Times | null };

const INTERVAL = 1000;
const MOST = 100;

let known: Decisions = { rows: [], times: null };
let timer: ReturnType<typeof setInterval> | undefined;
let asked: Promise<void> | undefined;
const callbacks = new Set<() => void>();

const ask = async (): Promise<void> => {
  try {
    const response = await fetch(`/demo/decisions?after=${known.rows.at(-1)?.number ?? 0}`, { cache: "no-store" });
    const { decisions, ...times } = (await response.json()) as { decisions: Row[] } & Times;
    if (decisions.length || !known.times) {
      known = { rows: [...known.rows, ...decisions].slice(-MOST), times };
      for (const callback of callbacks) callback();
    }
  } catch {
    // The page says elsewhere that the server does not answer; the next round asks again.
  }
};

/** Ask for what has been decided up to now, one request at a time. */
export const look = (): Promise<void> => {
  const mine = (asked ?? Promise.resolve()).then(ask).finally(() => {
    if (asked === mine) asked = undefined;
  });
  asked = mine;
  return mine;
};

/** Ask again and again, but not in a tab that nobody sees, and not while the last answer is still awaited. */
const poll = () => {
  if (!asked && !document.hidden) void look();
};

const subscribe = (callback: () => void) => {
  callbacks.add(callback);
  if (!timer) {
    timer = setInterval(poll, INTERVAL);
    poll();
  }
  return () => {
    callbacks.delete(callback);
    if (callbacks.size) return;
    clearInterval(timer);
    timer = undefined;
  };
};

/** The rows, oldest first, and the times of this demo once known. */
export const useDecisions = (): Decisions => useSyncExternalStore(subscribe, () => known);

/** Do something and count the refreshes that the server saw this browser make meanwhile. */
export const countRefreshes = async (work: () => Promise<unknown>): Promise<number> => {
  await look();
  const before = known.rows.at(-1)?.number ?? 0;
  await work();
  await look();
  return known.rows.filter((row) => row.number > before && row.who === "you" && row.event === "refreshed").length;
};

/** What the server did last for this browser's session. */
export const lastOf = (rows: readonly Row[]): Row | undefined =>
  rows.findLast(({ who, event }) => who === "you" && (event === "refreshed" || event === "signed_in"));
