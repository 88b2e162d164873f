/**
 * What the client knows and how that changes, `step(state, event) -> state`, and what to tell of it, `news(former, state)`.
 *
 * Owns: every rule about who is signed in, which token counts, when to refresh, when to warn and when to cool down.
 * Must not hold: a clock, randomness, the network, the page. Times come in with the events, in milliseconds on a clock
 * that includes sleep. Its own tsconfig has no DOM and no types, so that none of those even compile here.
 */
import { ACT_INTERVAL, HOLD, SLACK } from "../limits.ts";
import type { Answer, AuthEvents, AuthState, Identity, Reason, SignedInState, Warning } from "./types.ts";

/** Everything the client knows. */
export type State = {
  /** What the application sees. */
  readonly view: AuthState;
  /** Raised when another session begins or this one ends; what was asked for under a lower one is void. */
  readonly epoch: number;
  /** The access token and when it was asked for. There is none unless somebody is signed in. */
  readonly token?: string | undefined;
  readonly at: number;
  /** When to refresh without being asked. */
  readonly dueAt: number;
  /** No refresh before then: the cool-down after `failures` in a row, the last of them `error`. */
  readonly retryAt: number;
  readonly failures: number;
  readonly error?: Failure | undefined;
  /** When a person last acted, in any tab. The server has been told when that was before `at`. */
  readonly activeAt: number;
  /** The longest time to the end for want of activity that the server has granted: its inactivity timeout. */
  readonly timeout: number;
  /** The newest session known: what is older than it is late. */
  readonly seen?: Identity | undefined;
  /** Whether that has ended. */
  readonly ended?: boolean | undefined;
};

/** An error as far as it matters here: seconds that the server asked to wait. */
export type Failure = { readonly retryAfter?: number | undefined };

/** What every event brings. */
export type Context = {
  /** When it happened. */
  readonly at: number;
  /** The session it happened to. */
  readonly id?: string | undefined;
  /** Whether it happened in this tab; another tab said so otherwise. */
  readonly own: boolean;
  /** Somewhere from 0 to 1. */
  readonly random: number;
  /** How long before the end of the session to warn. */
  readonly lead: number;
};

export type Change =
  /** An answer with an access token; a render server's has none. */
  | { readonly type: "granted"; readonly answer: Answer | (Identity & Partial<Answer>) }
  /** The session has ended. If another tab says so: the one whose id the event has, or without an id whichever there is. */
  | { readonly type: "ended"; readonly reason: Reason }
  /** A refresh failed, which says nothing about the session. */
  | { readonly type: "failed"; readonly error: Failure }
  /** Nothing may be shown until the server has been asked: back from the page cache, or past an end. */
  | { readonly type: "hide" }
  /** A person acted; `stay` when that was the answer to a warning. */
  | { readonly type: "acted"; readonly stay?: boolean | undefined }
  /** Time has passed. It has with every other event, too. */
  | { readonly type: "tick" }
  /** The network is back. */
  | { readonly type: "online" };

export type Event = Change & Context;

/** What listeners can be told of: beside the application's events, that the view is another. */
type Told = AuthEvents & { readonly change: true };

/** Something to tell the application's listeners, unless there is no detail. */
export type News = {
  readonly [Name in keyof Told]: readonly [name: Name, detail: Told[Name] | false | 0 | undefined];
}[keyof Told];

type Rules = {
  readonly [Type in Event["type"]]: (state: State, event: Extract<Change, { type: Type }> & Context) => State;
};

/** Nothing is known. */
export const INITIAL: State = {
  view: Object.freeze({ status: "unknown" }),
  epoch: 0,
  at: 0,
  dueAt: 0,
  retryAt: 0,
  failures: 0,
  activeAt: -Infinity,
  timeout: 0,
};

/** A view read without asking first of which kind it is: what others have it has not. */
type AnyView = Partial<SignedInState & { readonly reason: Reason }>;

/** How long before the end to warn: never more than half of a short timeout, or the warning would never be gone. */
const headStart = (state: State, lead: number): number => Math.min(lead, state.timeout / 2);

/** Show nothing until the server has been asked. */
const hide = (state: State): State =>
  state.ended ? state : { ...state, view: INITIAL.view, dueAt: 0, token: undefined };

/** Let time pass: a warning comes or goes, or an end is past. */
const pass = (state: State, { at, lead }: Context): State => {
  const { session, warning: former } = state.view as AnyView;
  if (!session) return state;
  // Acts that the server has not heard of yet count.
  const endsAt = Math.min(Math.max(session.inactivityEndsAt, state.activeAt + state.timeout), session.absoluteEndsAt);
  if (at >= endsAt + SLACK) return hide(state);
  const warning: Warning | undefined =
    at < endsAt - headStart(state, lead) * (former ? HOLD : 1)
      ? undefined
      : Object.freeze({ kind: endsAt < session.absoluteEndsAt ? "inactivity" : "absolute", endsAt });
  return former?.endsAt === warning?.endsAt
    ? state
    : { ...state, view: Object.freeze({ ...(state.view as SignedInState), warning }) };
};

const rules: Rules = {
  granted(state, { answer, at, own, random }) {
    const { view, epoch, activeAt, timeout, seen, ended } = state;
    const { session, access_token, expires_in = 0 } = answer;
    const known = seen?.session;
    const same = known?.id === session.id;
    // Another tab's answer counts when it is newer. Not by a clock, for tabs have none in common that can be trusted:
    // `absolute_expires_in` only falls while a session lives, and a later session has a later `created_at`.
    // Where none is known nothing compares.
    const late =
      !own &&
      (same
        ? ended || session.absolute_expires_in > known.absolute_expires_in
        : session.created_at <= (known?.created_at as string));
    if (late) return state;

    // The same person stays the same object: what depends on the user alone need not run again.
    const user =
      JSON.stringify(answer.user) === JSON.stringify(seen?.user) ? (seen as Identity).user : Object.freeze(answer.user);
    const idle = session.inactivity_expires_in * 1000;
    // What is not named here begins anew: no failure, no cool-down, no end.
    return {
      ...INITIAL,
      view: Object.freeze({
        status: "authenticated",
        user,
        session: Object.freeze({
          ...session,
          accessEndsAt: at + expires_in * 1000,
          inactivityEndsAt: at + idle,
          absoluteEndsAt: at + session.absolute_expires_in * 1000,
        }),
        // A new token answers no warning; whether it still stands is judged in the same step.
        warning: (view as AnyView).warning,
      }),
      epoch: same && !ended ? epoch : epoch + 1,
      token: access_token,
      at,
      // Why jitter: what began together must not refresh together. Never within a second: no hot loop.
      dueAt: at + Math.max(1000, expires_in * 1000 * (0.85 + 0.1 * random)),
      activeAt,
      timeout: same ? Math.max(timeout, idle) : idle,
      seen: { user, session },
    };
  },

  ended(state, { reason, own, id }) {
    const { view, epoch, activeAt, seen, ended } = state;
    // An end that is known already must not disturb a login that is under way.
    if (!own && (ended || (id && seen && id !== seen.session.id))) return state;
    // No token, then, and no cool-down.
    return {
      ...INITIAL,
      view: ended
        ? view
        : Object.freeze({ status: "anonymous", reason: own || reason !== "logout" ? reason : "logout_other_tab" }),
      epoch: epoch + 1,
      dueAt: Infinity,
      activeAt,
      // Remembered, so that no straggler brings it back.
      seen,
      ended: true,
    };
  },

  failed(state, { error, at, random }) {
    const { view, failures } = state;
    // What the server asks for is done, up to an hour: a slip there must not cost a day.
    const wait = Math.max(Math.min(error.retryAfter ?? 0, 3600), Math.min(2 ** failures, 60) * (1 + random / 2));
    return {
      ...state,
      // What is degraded already stays the same object.
      view: view.status === "authenticated" ? Object.freeze({ ...view, status: "degraded" }) : view,
      error,
      failures: failures + 1,
      retryAt: at + wait * 1000,
    };
  },

  hide,

  // While a warning stands only its answer counts: a mouse that trembles says nothing about a person. What another tab
  // took for a person's act is one.
  acted: (state, { at, own, stay }) =>
    (stay ? at <= state.activeAt : (own && (state.view as AnyView).warning) || at < state.activeAt + ACT_INTERVAL)
      ? state
      : { ...state, activeAt: at },

  tick: (state) => state,

  // The back-off was a guess about the network and is void now; what the server asked for is not.
  online: (state) => ({ ...state, retryAt: state.error?.retryAfter ? state.retryAt : 0, failures: 0 }),
};

/** Apply an event, and the time at which it happens. An event that means nothing here returns the same state. */
export const step = (state: State, event: Event): State =>
  pass((rules[event.type] as (state: State, event: Event) => State)(state, event), event);

/** What has happened from one state to the next. */
export const news = (former: State, { view, error, seen, ended }: State): readonly News[] => {
  const { user, reason, warning } = view as AnyView;
  const known = !former.ended && former.seen?.user.id;
  return [
    [
      !known ? "signedIn" : known === seen?.user.id ? "refreshed" : "userChanged",
      seen !== former.seen && user && (view as SignedInState),
    ],
    ["signedOut", ended && !former.ended && reason !== "never" && (view as { reason: Reason })],
    ["degraded", error && !former.error && { error }],
    ["idleWarning", (former.view as AnyView).warning?.kind !== warning?.kind && warning],
    ["change", former.view !== view],
  ];
};

/**
 * Whether the token lasts for another `spare` milliseconds.
 *
 * A token that lives shorter than that would never do and be refreshed for every request, so no more than a twentieth of
 * its life is asked for.
 */
export const usable = ({ view, at }: State, now: number, spare: number): boolean => {
  // Who is not signed in, or only as a render server found it, has no token: no end, to which nothing compares, or a past
  // one.
  const endsAt = (view as AnyView).session?.accessEndsAt as number;
  return now + Math.min(spare, (endsAt - at) / 20) < endsAt;
};

/**
 * When to refresh without being asked: when the token gets old, or when the server would end a session whose person has
 * acted since it was last told. Never within a cool-down.
 */
export const refreshAt = (state: State, lead: number): number => {
  const { view, at, dueAt, retryAt, activeAt } = state;
  const { session } = view as AnyView;
  const before = headStart(state, lead);
  const tellAt = session && activeAt > at ? Math.max(session.inactivityEndsAt - before, at + before / 4) : Infinity;
  return Math.max(Math.min(dueAt, tellAt), retryAt);
};
