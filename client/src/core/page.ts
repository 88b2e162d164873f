/**
 * Listens: to the page, to the person, to other tabs, and to the time.
 *
 * Owns: when to look. Must not hold: what follows (machine), requests (flights).
 */
import { due, nextAt } from "../machine/machine.ts";
import type { Message } from "../machine/types.ts";
import { readMessage } from "./check.ts";
import type { Flights } from "./flights.ts";
import { readHint, type Store } from "./store.ts";
import type { Channel, Environment } from "./types.ts";

const ACTIVE = "kt_active";
/** Other tabs need not know more often than this that a person is there. */
const ACT_INTERVAL = 1_000;
/** No timer is longer: when the device wakes, timers have slept too, and somebody has to notice. */
const LONGEST_TIMER = 10_000;
const PERSON = ["pointerdown", "pointermove", "keydown", "wheel"];
const PAGE = ["visibilitychange", "focus", "online", "resume", "pageshow", "pagehide"];

export type Page = {
  start: () => void;
  stop: () => void;
  tell: (message: Message) => void;
  /** Set the timer anew. */
  arm: () => void;
  act: (stay: boolean) => void;
  tick: () => void;
  warnAt: (seconds: number) => void;
};

export const makePage = (
  environment: Environment,
  store: () => Store,
  flights: () => Flights,
  now: () => number,
  baseUrl: string,
  seconds: number,
): Page => {
  const { window, document, navigator, storage, date } = environment;
  let lead = seconds * 1000;
  let channel: Channel | undefined;
  let listening: AbortController | undefined;
  let timer: unknown;

  const awake = () => document?.visibilityState !== "hidden" && navigator?.onLine !== false;
  // Tabs share the device's date and nothing else; how long ago it was then is all that is taken from it.
  const fromDate = (at: number) => now() - Math.max(0, date() - at);
  const toDate = (at: number) => date() - Math.max(0, now() - at);

  const page: Page = {
    start() {
      if (!window) return;
      listening = new AbortController();
      const options = { capture: true, passive: true, signal: listening.signal };
      for (const name of PERSON) window.addEventListener(name, () => page.act(false), options);
      for (const name of PAGE) window.addEventListener(name, happens, options);
      channel = environment.openChannel?.(`keyturn:${baseUrl}`);
      if (channel) channel.onmessage = ({ data }) => hear(readMessage(data));
      // A person who clicked a link acted, on the page before this one.
      const acted = Number(storage.getItem(ACTIVE));
      if (acted) store().dispatch({ type: "acted", at: fromDate(acted), stay: false });
      flights().glance();
      void flights().settle();
      const { view, token } = store().state();
      if (view.status !== "anonymous" && !token) void flights().refresh();
    },
    stop() {
      listening?.abort();
      listening = undefined;
      channel?.close();
      channel = undefined;
      page.arm();
    },
    tell(message) {
      channel?.postMessage("at" in message ? { ...message, at: toDate(message.at) } : message);
    },
    arm() {
      environment.clearTimeout(timer);
      if (!listening) return;
      const at = nextAt(store().state(), lead, awake() && !flights().busy());
      if (at < Infinity) timer = environment.setTimeout(look, Math.min(Math.max(0, at - now()), LONGEST_TIMER));
    },
    act(stay) {
      const at = now();
      const before = store().state();
      if (!stay && at - before.activeAt < ACT_INTERVAL) return;
      store().dispatch({ type: "acted", at, stay });
      if (store().state() !== before) page.tell({ kind: "active", at, stay });
    },
    tick: () => store().dispatch({ type: "tick", at: now(), lead }),
    warnAt(later) {
      lead = later * 1000;
      page.tick();
    },
  };

  const look = () => {
    page.tick();
    if (awake() && due(store().state(), now(), lead)) void flights().refresh();
  };

  const happens = ({ type, persisted }: Event & { persisted?: boolean }) => {
    // Before a page goes into the page cache and before it is painted from there: whoever comes back may be another.
    if (persisted) {
      flights().drop();
      store().dispatch({ type: "hide" });
    }
    if (type === "pagehide") {
      const { activeAt } = store().state();
      if (activeAt > -Infinity) storage.setItem(ACTIVE, String(toDate(activeAt)));
      return;
    }
    if (type === "online") {
      store().dispatch({ type: "online" });
      void flights().settle();
    }
    if (!awake()) return;
    flights().glance();
    const { view, retryAt } = store().state();
    // Where no channel told of a login or a logout elsewhere, the hint does.
    const hint = readHint(environment, baseUrl);
    const elsewhere = view.status === "anonymous" ? hint && !storage.getItem("kt_logout") : !channel && hint === false;
    if (elsewhere && now() >= retryAt) void flights().refresh();
    look();
  };

  const hear = (message: Message | undefined) => {
    if (message?.kind === "token") {
      const { at, answer } = message;
      const { dispatch, state } = store();
      dispatch({
        type: "granted",
        source: "broadcast",
        answer,
        at: fromDate(at),
        epoch: state().epoch,
        random: environment.random(),
      });
    } else if (message?.kind === "ended") {
      const before = store().state().epoch;
      store().dispatch({ type: "left", id: message.id, reason: message.reason });
      if (store().state().epoch !== before) flights().drop(true);
    } else if (message) {
      store().dispatch({ type: "acted", at: fromDate(message.at), stay: message.stay });
      page.tick();
    }
  };

  return page;
};
