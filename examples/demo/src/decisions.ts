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
let asking = false;
const callbacks = new Set<() => void>();

/** Ask for what is new; a tab that nobody sees does not. */
export const look = async (): Promise<void> => {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const response = await fetch(`/demo/decisions?after=${known.rows.at(-1)?.number ?? 0}`, { cache: "no-store" });
    const { decisions, ...times } = (await response.json()) as { decisions: Row[] } & Times;
    if (decisions.length || !known.times) {
      known = { rows: [...known.rows, ...decisions].slice(-MOST), times };
      for (const callback of callbacks) callback();
    }
  } catch {
    // The page says elsewhere that the server does not answer; the next round asks again.
  } finally {
    asking = false;
  }
};

const subscribe = (callback: () => void) => {
  callbacks.add(callback);
  if (!timer) {
    timer = setInterval(look, INTERVAL);
    void look();
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

/** What the server did last for this browser's session. */
export const lastOf = (rows: readonly Row[]): Row | undefined =>
  rows.findLast(({ who, event }) => who === "you" && (event === "refreshed" || event === "signed_in"));
