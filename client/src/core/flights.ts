/**
 * The requests that change who is signed in, one at a time: refresh, login, logout.
 *
 * Owns: their order, in this tab by a promise and across tabs by a lock. Must not hold: what an answer means (machine).
 * No lock makes this correct (a tab that goes away drops its lock while its request travels); the server does. Locks
 * and broadcasts save requests.
 */
import { usable } from "../machine/machine.ts";
import { isAnswer } from "./check.ts";
import { AuthError } from "./errors.ts";
import { endReasons, post } from "./http.ts";
import { readHint, type Store } from "./store.ts";
import type { Environment, LoginBody, SignupBody } from "./types.ts";

/** How long to wait for the lock. A frozen tab may hold it for ever; the server can take two refreshes at once. */
const LOCK_LIMIT = 5_000;
const OWED = "kt_logout";

export type Flights = {
  /** Refresh now, or join what is under way. Never rejects: the outcome is in the state. */
  refresh: () => Promise<void>;
  /** A token that is not `rejected` and lasts for `spare` milliseconds; null when nobody is signed in. */
  obtain: (spare: number, rejected: string | null, signal?: AbortSignal | null) => Promise<string | null>;
  enter: (path: string, body: LoginBody | SignupBody) => Promise<void>;
  leave: (everywhere: boolean) => Promise<void>;
  /** Send the logout that could not be sent. */
  settle: () => Promise<void>;
  /** Let go of what is under way: its result no longer counts. */
  drop: (abort?: boolean) => void;
  /** Go by the hint where nothing is known: without it there is no session, and no request. */
  glance: () => void;
  busy: () => boolean;
};

export const makeFlights = (
  environment: Environment,
  { state, dispatch }: Store,
  now: () => number,
  baseUrl: string,
  landed: () => void,
): Flights => {
  const { locks, storage, random } = environment;
  let flight: Promise<void> | undefined;
  let current: AbortController | undefined;
  let leaving: Promise<void> | undefined;

  const locked = async (run: () => Promise<void>): Promise<void> => {
    if (!locks) return run();
    const waiting = new AbortController();
    const timer = environment.setTimeout(() => waiting.abort(), LOCK_LIMIT);
    let held = false;
    try {
      await locks.request(`keyturn:${baseUrl}`, { signal: waiting.signal }, () => {
        held = true;
        environment.clearTimeout(timer);
        return run();
      });
    } catch (error) {
      environment.clearTimeout(timer);
      if (held) throw error;
      await run();
    }
  };

  const fly = (run: (mine: AbortController) => Promise<void>): Promise<void> => {
    const mine = new AbortController();
    current = mine;
    flight = run(mine).finally(() => {
      if (current !== mine) return;
      current = flight = undefined;
      landed();
    });
    return flight;
  };

  const ask = async (path: string, body: object, mine: AbortController, source: "refresh" | "login", epoch: number) => {
    const at = now();
    const answer = await post(environment, baseUrl + path, body, mine);
    if (!isAnswer(answer)) throw new AuthError("unexpected_answer", 200);
    if (current !== mine) throw new AuthError("session_changed");
    dispatch({ type: "granted", source, answer, at, epoch, random: random() });
  };

  const renew = async (mine: AbortController) => {
    const { epoch, token } = state();
    await locked(async () => {
      // A broadcast that is already queued lands first.
      await new Promise<void>((resolve) => environment.setTimeout(resolve, 0));
      for (let tries = 2; tries--; ) {
        const known = state();
        if (current !== mine || known.token !== token || known.epoch !== epoch) return;
        const idle = Math.max(0, Math.round((now() - known.activeAt) / 1000));
        try {
          // Absent when nobody has acted: a refresh is no person.
          return await ask("/refresh", idle < Infinity ? { idle_seconds: idle } : {}, mine, "refresh", epoch);
        } catch (error) {
          if (current !== mine || !(error instanceof AuthError)) return;
          const reason = endReasons.get(error);
          // The server leaves the cookies when a later login of this browser replaced the session: ask with that one.
          if (reason === "logout" && tries && readHint(environment, baseUrl)) continue;
          dispatch(
            reason
              ? { type: "refused", reason, epoch }
              : { type: "failed", error, retryAfter: error.retryAfter ?? 0, at: now(), epoch, random: random() },
          );
          return;
        }
      }
    });
  };

  const flights: Flights = {
    // Why caught: who joins wants to know when it is over; the state says how it went, and a login tells its caller.
    refresh: () => (flight ?? fly(renew)).catch(() => {}),

    async obtain(spare, rejected, signal) {
      signal?.throwIfAborted();
      const has = (least: number) => state().token !== rejected && usable(state(), now(), least);
      const gone = () => state().view.status === "anonymous";
      flights.glance();
      for (let tries = 2; tries-- && !gone() && !has(spare) && now() >= state().retryAt; ) {
        await unless(signal, flights.refresh());
      }
      if (gone()) return null;
      if (has(0)) return state().token;
      throw state().error ?? new AuthError("network");
    },

    async enter(path, body) {
      await leaving;
      await flights.settle();
      await flight?.catch(() => {});
      // What is owed is void: the server ends the former session of this browser when it opens the next one.
      storage.removeItem(OWED);
      await fly((mine) => locked(() => ask(path, body, mine, "login", state().epoch)));
    },

    async leave(everywhere) {
      // Before any await: nothing that is under way may sign in again.
      flights.drop(true);
      dispatch({ type: "leave" });
      storage.setItem(OWED, everywhere ? "all" : "one");
      leaving = send();
      await leaving;
    },

    settle: async () => {
      if (storage.getItem(OWED)) await locked(send);
    },

    drop(abort) {
      if (abort) current?.abort();
      current = flight = undefined;
    },

    glance() {
      const { view, seen } = state();
      if (view.status !== "unknown" || readHint(environment, baseUrl) !== false) return;
      dispatch({ type: "left", id: null, reason: seen ? "logout_other_tab" : "never" });
    },

    busy: () => !!flight,
  };

  const send = async () => {
    const owed = storage.getItem(OWED);
    if (!owed) return;
    try {
      await post(environment, `${baseUrl}/logout`, { everywhere: owed === "all" }, new AbortController());
      storage.removeItem(OWED);
    } catch (error) {
      // What the server will never take is not owed; anything else is sent again when the network is back, or later.
      if (!(error as AuthError).retryable) storage.removeItem(OWED);
      else environment.setTimeout(flights.settle, ((error as AuthError).retryAfter ?? 30) * 1000);
    }
  };

  return flights;
};

/** Wait for a promise, but no longer than until a signal. */
const unless = (signal: AbortSignal | null | undefined, promise: Promise<void>): Promise<void> =>
  signal
    ? Promise.race([
        promise,
        new Promise<never>((_, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason), { once: true }),
        ),
      ])
    : promise;
