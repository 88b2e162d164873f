/**
 * The browser as the client uses it.
 *
 * Owns: every touch of a global. Nothing here runs before `createAuthClient` is called, so the module can be imported in
 * Node, at the edge and in workers. Must not hold: decisions.
 */
import type { Channel, Environment } from "./types.ts";

/** Take what there is of the browser; what is missing is undefined. */
export const browser = (): Environment => {
  const page = globalThis as Partial<typeof globalThis>;
  return {
    fetch: (input, init) => fetch(input, init),
    monotonic: () => performance.now(),
    date: () => Date.now(),
    random: () => Math.random(),
    setTimeout: (callback, milliseconds) => setTimeout(callback, milliseconds),
    clearTimeout: (timer) => clearTimeout(timer as number),
    window: page.window,
    document: page.document,
    location: page.location,
    navigator: page.navigator,
    // Only a secure context has locks. Without them tabs may refresh at once, which the server settles.
    locks: page.navigator?.locks as Environment["locks"],
    openChannel: page.BroadcastChannel && page.window ? (name) => new BroadcastChannel(name) as Channel : undefined,
    storage: storage(page),
  };
};

/** Reading the property already throws where a person has blocked cookies; then notes last as long as the page. */
const storage = (page: Partial<typeof globalThis>): Environment["storage"] => {
  try {
    if (page.window?.localStorage) return page.window.localStorage;
  } catch {}
  const notes = new Map<string, string>();
  return {
    getItem: (key) => notes.get(key) ?? null,
    setItem: (key, value) => void notes.set(key, value),
    removeItem: (key) => void notes.delete(key),
  };
};

/**
 * Make a clock that never goes back and does not stand still while the device sleeps.
 *
 * Why: `performance.now()` stops during sleep in some browsers, and the date may be wrong. The date is only asked how
 * much further it went than the other: a jump ahead is taken for sleep, which at worst costs one refresh.
 */
export const makeClock = ({ monotonic, date }: Environment): (() => number) => {
  let lastMonotonic = monotonic();
  let lastDate = date();
  let slept = 0;
  return () => {
    const [nowMonotonic, nowDate] = [monotonic(), date()];
    const drift = nowDate - lastDate - (nowMonotonic - lastMonotonic);
    if (drift > 1000) slept += drift;
    lastMonotonic = nowMonotonic;
    lastDate = nowDate;
    return nowMonotonic + slept;
  };
};
