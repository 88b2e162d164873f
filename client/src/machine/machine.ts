/**
 * What the client knows and how that changes: `step(state, event) -> [state, effects]`.
 *
 * Owns: every rule about who is signed in, which token counts, when to refresh, when to warn and when to cool down.
 * Must not hold: a clock, randomness, the network, the page. Times come in with the events, in milliseconds on a clock
 * that includes sleep. Its own tsconfig has no DOM and no types, so that none of those even compile here.
 */
import type { Answer, AuthEvents, AuthState, Identity, Reason, SignedInState, Warning } from "./types.ts";

/** Everything the client knows. */
export type State = {
  /** What the application sees. */
  readonly view: AuthState;
  /** Raised when another session begins or this one ends; a result that was asked for under a lower one is dropped. */
  readonly epoch: number;
  /** The access token, when it was asked for and when it expires. There is none unless somebody is signed in. */
  readonly token: string | null;
  readonly at: number;
  readonly endsAt: number;
  /** When to refresh without being asked. */
  readonly dueAt: number;
  /** No refresh before then: the cool-down after `failures` in a row, the last of them `error`. */
  readonly retryAt: number;
  readonly failures: number;
  readonly error: Failure | null;
  /** When a person last acted, in any tab. The server has been told when that was before `at`. */
  readonly activeAt: number;
  /** The longest time to the end for want of activity that the server has granted: its inactivity timeout. */
  readonly idleTimeout: number;
  /** The newest session known: what is older than it is late. */
  readonly seen: Identity | null;
  /** Whether that has ended. */
  readonly ended: boolean;
};

/** An error as far as it matters here: seconds that the server asked to wait. */
export type Failure = { readonly retryAfter?: number | undefined };

/** What every event brings. */
export type Context = {
  /** When it happened. */
  readonly at: number;
  /** The epoch under which what led to it was begun. */
  readonly epoch: number;
  /** Whether it happened in this tab; another tab said so otherwise. */
  readonly own: boolean;
  /** Somewhere from 0 to 1. */
  readonly random: number;
  /** How long before the end of the session to warn. */
  readonly lead: number;
};

export type Change =
  /** An answer with an access token. A render server's has none. */
  | {
      readonly type: "granted";
      readonly answer: Answer | (Identity & { readonly access_token: null; readonly expires_in: 0 });
    }
  /** The session has ended: this one, or if another tab says so the one with this id (whichever, without one). */
  | { readonly type: "ended"; readonly reason: Reason; readonly id?: string | undefined }
  /** A refresh failed, which says nothing about the session. */
  | { readonly type: "failed"; readonly error: Failure }
  /** Nothing may be shown until the server has been asked: back from the page cache, or past an end. */
  | { readonly type: "hide" }
  /** A person acted; `stay` when that was the answer to a warning. */
  | { readonly type: "acted"; readonly stay: boolean }
  /** Time has passed. It has with every other event, too. */
  | { readonly type: "tick" }
  /** The network is back. */
  | { readonly type: "online" };

export type Event = Change & Context;

/** What to tell the application's listeners; what says who is signed in tells them the view. */
export type Effect = {
  readonly [Name in keyof AuthEvents]: readonly [
    Name,
    ...(AuthEvents[Name] extends SignedInState ? [detail?: undefined] : [detail: AuthEvents[Name]]),
  ];
}[keyof AuthEvents];

type Step = readonly [State, ...Effect[]];
type Rules = {
  readonly [Type in Event["type"]]: (state: State, event: Extract<Change, { type: Type }> & Context) => Step;
};

const { freeze } = Object;
const { max, min } = Math;

/** Nothing is known. */
export const INITIAL: State = {
  view: freeze({ status: "unknown" }),
  epoch: 0,
  token: null,
  at: 0,
  endsAt: 0,
  dueAt: 0,
  retryAt: 0,
  failures: 0,
  error: null,
  activeAt: -Infinity,
  idleTimeout: 0,
  seen: null,
  ended: false,
};

/** The server's clock and ours round differently; past an end by this much it is over for both. */
const SLACK = 1000;
/** It need not be known more often that a person is there. */
const ACT_INTERVAL = 1000;
/**
 * A warning that stands goes when there is more than so many times its head start left, not at once when the end moves.
 *
 * Why: each refresh says anew when the end is, off by a rounded second and by the time its answer travels. That must not
 * take a warning away and bring it back. What answers it moves the end by twice the head start or more.
 */
const HOLD = 1.5;

/** The view as one of somebody signed in, if it is. */
export const signedIn = (view: AuthState): SignedInState | undefined => ("user" in view ? view : undefined);

/** When the session ends if nobody acts from now on. Acts that the server has not heard of yet count. */
const sessionEnd = ({ activeAt, idleTimeout }: State, { session }: SignedInState): number =>
  min(max(session.inactivityEndsAt, activeAt + idleTimeout), session.absoluteEndsAt);

/** How long before the end to warn: never more than half of a short timeout, or the warning would never be gone. */
const headStart = (state: State, lead: number): number => min(lead, state.idleTimeout / 2);

const rules: Rules = {
  granted(state, { answer, at, epoch, own, random }) {
    const { view, seen, ended } = state;
    const { user, session, expires_in } = answer;
    const known = seen?.session;
    const same = known?.id === session.id;
    // Another tab's answer counts when it is newer. Not by a clock, for tabs have none in common that can be trusted:
    // `absolute_expires_in` only falls while a session lives, and a later session has a later `created_at`.
    const late = own
      ? epoch !== state.epoch
      : known &&
        (same
          ? ended || session.absolute_expires_in > known.absolute_expires_in
          : session.created_at <= known.created_at);
    if (late) return [state];

    const former = signedIn(view);
    const lifetime = expires_in * 1000;
    const idle = session.inactivity_expires_in * 1000;
    const next: SignedInState = freeze({
      status: "authenticated",
      // The same person stays the same object: what depends on the user alone need not run again.
      user: former && JSON.stringify(former.user) === JSON.stringify(user) ? former.user : freeze(user),
      session: freeze({
        ...session,
        accessEndsAt: at + lifetime,
        inactivityEndsAt: at + idle,
        absoluteEndsAt: at + session.absolute_expires_in * 1000,
      }),
      // A new token answers no warning.
      warning: same ? former?.warning : undefined,
    });
    const name = !seen || ended ? "signedIn" : seen.user.id === user.id ? "refreshed" : "userChanged";
    return [
      {
        ...INITIAL,
        view: next,
        epoch: state.epoch + +(!same || ended),
        token: answer.access_token,
        at,
        endsAt: at + lifetime,
        // Why jitter: what began together must not refresh together. Never within a second: no hot loop.
        dueAt: at + max(1000, lifetime * (0.85 + 0.1 * random)),
        activeAt: state.activeAt,
        idleTimeout: same ? max(state.idleTimeout, idle) : idle,
        seen: answer,
      },
      [name],
    ];
  },

  ended(state, { reason, epoch, own, id }) {
    const { view, seen, activeAt } = state;
    // An end that is known already must not disturb a login that is under way.
    if (own ? epoch !== state.epoch : state.ended || (id && seen && id !== seen.session.id)) return [state];
    const why = reason === "logout" && !own ? "logout_other_tab" : reason;
    const anonymous = view.status === "anonymous";
    return [
      {
        ...INITIAL,
        view: anonymous ? view : freeze({ status: "anonymous", reason: why }),
        epoch: state.epoch + 1,
        dueAt: Infinity,
        activeAt,
        // Remembered, so that no straggler brings it back.
        seen,
        ended: true,
      },
      ...(anonymous || reason === "never" ? [] : ([["signedOut", { reason: why }]] as const)),
    ];
  },

  failed(state, { error, at, epoch, random }) {
    if (epoch !== state.epoch) return [state];
    const { view, failures } = state;
    // What the server asks for is done, up to an hour: a slip there must not cost a day.
    const wait = max(min(error.retryAfter ?? 0, 3600), min(60, 2 ** failures) * (1 + random / 2));
    return [
      {
        ...state,
        view: signedIn(view) ? freeze({ ...(view as SignedInState), status: "degraded" }) : view,
        error,
        failures: failures + 1,
        retryAt: at + wait * 1000,
      },
      ...(failures ? [] : ([["degraded", { error }]] as const)),
    ];
  },

  hide: (state) =>
    state.view.status === "anonymous" ? [state] : [{ ...state, view: INITIAL.view, token: null, dueAt: 0 }],

  // While a warning stands only its answer counts: a mouse that trembles says nothing about a person. What another tab
  // took for a person's act is one.
  acted: (state, { at, own, stay }) =>
    (stay ? at <= state.activeAt : (own && signedIn(state.view)?.warning) || at < state.activeAt + ACT_INTERVAL)
      ? [state]
      : [{ ...state, activeAt: at }],

  tick(state, event) {
    const { at, lead } = event;
    const view = signedIn(state.view);
    if (!view) return [state];
    const endsAt = sessionEnd(state, view);
    if (at >= endsAt + SLACK) return rules.hide(state, { ...event, type: "hide" });
    const { warning: former } = view;
    const warning: Warning | undefined =
      at < endsAt - headStart(state, lead) * (former ? HOLD : 1)
        ? undefined
        : freeze({ kind: endsAt < view.session.absoluteEndsAt ? "inactivity" : "absolute", endsAt });
    if (former?.endsAt === warning?.endsAt) return [state];
    return [
      { ...state, view: freeze({ ...view, warning }) },
      ...(warning && warning.kind !== former?.kind ? ([["idleWarning", warning]] as const) : []),
    ];
  },

  // The back-off was a guess about the network and is void now; what the server asked for is not.
  online: (state) => [{ ...state, failures: 0, retryAt: state.error?.retryAfter ? state.retryAt : 0 }],
};

/**
 * Apply an event, and the time at which it happens. The rules above are the whole of it; an event that means nothing here
 * returns the same state.
 */
export const step = (state: State, event: Event): Step => {
  const [next, ...effects] = (rules[event.type] as (state: State, event: Event) => Step)(state, event);
  const [last, ...warnings] = rules.tick(next, { ...event, type: "tick" });
  return [last, ...effects, ...warnings];
};

/**
 * Whether the token lasts for another `spare` milliseconds.
 *
 * A token that lives shorter than that would never do and be refreshed for every request, so no more than a twentieth of
 * its life is asked for.
 */
export const usable = ({ token, at, endsAt }: State, now: number, spare: number): boolean =>
  !!token && now + min(spare, (endsAt - at) / 20) < endsAt;

/**
 * When to refresh without being asked: when the token gets old, or when the server would end a session whose person has
 * acted since it was last told. Never within a cool-down.
 */
export const refreshAt = (state: State, lead: number): number => {
  const before = headStart(state, lead);
  const view = signedIn(state.view);
  const tellAt =
    view && state.activeAt > state.at ? max(view.session.inactivityEndsAt - before, state.at + before / 4) : Infinity;
  return max(min(state.dueAt, tellAt), state.retryAt);
};

/** When to look again: at a refresh if `awake`, at a warning, at an end. */
export const nextAt = (state: State, lead: number, awake: boolean): number => {
  const view = signedIn(state.view);
  return min(
    awake ? refreshAt(state, lead) : Infinity,
    view ? sessionEnd(state, view) + (view.warning ? SLACK : -headStart(state, lead)) : Infinity,
  );
};
