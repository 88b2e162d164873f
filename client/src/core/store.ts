/**
 * Holds the machine's state and carries out its effects.
 *
 * Owns: the state (and with it the token, in this closure and nowhere else), subscribers, listeners. Must not hold:
 * rules (machine), requests, timers.
 */
import { type Event, INITIAL, type State, step } from "../machine/machine.ts";
import type { AuthEvents, Message } from "../machine/types.ts";
import type { Environment } from "./types.ts";

export type Store = {
  state: () => State;
  dispatch: (event: Event) => void;
  emit: <Name extends keyof AuthEvents>(name: Name, detail: AuthEvents[Name]) => void;
  subscribe: (callback: () => void) => () => void;
  on: <Name extends keyof AuthEvents>(name: Name, callback: (detail: AuthEvents[Name]) => void) => () => void;
};

type Callback = (detail: never) => void;

const HINT = "kt_hint";

/** Whether the page can see that there may be a session; undefined when it could not see it anyway. */
export const readHint = ({ document, location }: Environment, baseUrl: string): boolean | undefined =>
  document && location && new URL(baseUrl).hostname === new URL(location.href).hostname
    ? RegExp(`(^|; )${HINT}=1`).test(document.cookie)
    : undefined;

/**
 * Make the store.
 *
 * @param tell - passes a message on to other tabs.
 * @param changed - is called after every event, when everybody else has been.
 */
export const makeStore = (environment: Environment, tell: (message: Message) => void, changed: () => void): Store => {
  let state = INITIAL;
  const sets = new Map<string, Set<Callback>>();

  const add = (name: string, callback: Callback) => {
    // A wrapper of its own: the same function may listen twice, and each stop ends one of the two.
    const own: Callback = (detail) => callback(detail);
    const set = sets.get(name) ?? new Set();
    sets.set(name, set.add(own));
    return () => void set.delete(own);
  };

  const call = (name: string, detail?: unknown) => {
    for (const callback of [...(sets.get(name) ?? [])]) {
      try {
        callback(detail as never);
      } catch (error) {
        // A listener's fault is its own; it must not stop a sign-out from reaching the next one.
        environment.setTimeout(() => {
          throw error;
        }, 0);
      }
    }
  };

  return {
    state: () => state,
    dispatch(event) {
      const { view } = state;
      const [next, ...effects] = step(state, event);
      state = next;
      for (const [kind, message] of effects) {
        if (kind === "tell") tell(message);
        if (kind === "forget" && environment.document)
          environment.document.cookie = `${HINT}=; Path=/; Max-Age=0; Secure; SameSite=Lax`;
      }
      if (view !== next.view) call("");
      for (const [kind, name, detail] of effects) if (kind === "emit") call(name, detail);
      changed();
    },
    emit: call,
    subscribe: (callback) => add("", callback),
    on: add,
  };
};
