/** Small hooks of this page. */
import { useCallback, useEffect, useRef, useState } from "react";
import { auth } from "./auth.ts";
import { tellError } from "./words.ts";

/** The client's clock, read again every second. */
export const useClock = (): number => {
  const [at, setAt] = useState(() => auth.now());
  useEffect(() => {
    const timer = setInterval(() => setAt(auth.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return at;
};

export type Action = {
  readonly busy: boolean;
  readonly error: string | null;
  /** Do it, one at a time; resolves to whether it worked. */
  readonly run: (work: () => Promise<unknown>) => Promise<boolean>;
};

/** Something a person starts, that takes a moment and may fail. */
export const useAction = (): Action => {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const run = useCallback(async (work: () => Promise<unknown>) => {
    setBusy(true);
    setError(null);
    try {
      await work();
      return true;
    } catch (failure) {
      setError(tellError(failure));
      return false;
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, error, run };
};

/**
 * Something read from the server: now, whenever the session has a new token, and when this tab is looked at again. `load`
 * has to be the same function in every render.
 */
export const useLoaded = <Value>(load: () => Promise<Value>): { value: Value | null; reload: () => Promise<void> } => {
  const [value, setValue] = useState<Value | null>(null);
  const times = useRef(0);
  const reload = useCallback(async () => {
    const mine = ++times.current;
    try {
      const loaded = await load();
      // Of answers that overtake each other the one counts that was asked for last.
      if (mine === times.current) setValue(loaded);
    } catch {
      // Signed out or no network: the page shows that already, and what was read stands until then.
    }
  }, [load]);
  useEffect(() => {
    void reload();
    const stop = auth.on("refreshed", () => void reload());
    const seen = () => void (document.hidden || reload());
    document.addEventListener("visibilitychange", seen);
    return () => {
      stop();
      document.removeEventListener("visibilitychange", seen);
    };
  }, [reload]);
  return { value, reload };
};
