/**
 * What the client knows and how that changes: `step(state, event) -> [state, effects]`.
 *
 * Owns: every rule about who is signed in, which token counts, when to refresh, when to warn and when to cool down.
 * Must not hold: a clock, randomness, the network, the page. Times come in with the events, in milliseconds on a clock
 * that includes sleep. Its own tsconfig has no DOM and no types, so that none of those even compile here.
 */
import type { Answer, AuthEvents, AuthState, Identity, Message, Reason, SignedInState, Warning } from "./types.ts";

/** Everything the client knows. Frozen; `token` never leaves the closure that holds the state. */
export type State = {
  /** What the application sees. */
  readonly view: AuthState;
  /** Raised when another session begins or this one ends; a result that was asked for under a lower one is dropped. */
  readonly epoch: number;
  readonly token: string | null;
  /** When the token expires. */
  readonly endsAt: number;
  /** How long it lives. */
  readonly lifetime: number;
  /** When to refresh without being asked. */
  readonly dueAt: number;
  /** Not before then: the cool-down after a failure. */
  readonly retryAt: number;
  /** Not before then because the server said so. */
  readonly askedAt: number;
  readonly failures: number;
  readonly error: unknown;
  /** When a person last acted, in any tab. */
  readonly activeAt: number;
  /** The last of those acts that the server has been told. */
  readonly reportedAt: number;
  /** When the session ends for want of activity, as the server knows it; and whatever anybody does. */
  readonly idleEndsAt: number;
  readonly absoluteEndsAt: number;
  /** The longest time to that end the server has granted: its inactivity timeout. */
  readonly idleTimeout: number;
  /** The newest session known, ended or not: what is older than it is late. */
  readonly seen: { readonly id: string; readonly user: string; readonly created: string; readonly left: number } | null;
  readonly ended: boolean;
};

export type Event =
  /** A render server found this user signed in. */
  | { readonly type: "hydrated"; readonly identity: Identity; readonly at: number }
  /** An answer with an access token, asked for at `at` under `epoch`. */
  | ({ readonly type: "granted"; readonly source: AuthEvents["refreshed"]["source"]; readonly answer: Answer } & {
      readonly at: number;
      readonly epoch: number;
      readonly random: number;
    })
  /** The server says that there is no session. */
  | { readonly type: "refused"; readonly reason: Reason; readonly epoch: number }
  /** A refresh failed and says nothing about the session. `retryAfter` in seconds. */
  | ({ readonly type: "failed"; readonly error: unknown; readonly retryAfter: number; readonly at: number } & {
      readonly epoch: number;
      readonly random: number;
    })
  /** Signed out by the person here. */
  | { readonly type: "leave" }
  /** Another tab says that a session has ended. */
  | { readonly type: "left"; readonly id: string | null; readonly reason: Reason }
  /** Nothing may be shown until the server has been asked: back from the page cache, or past an end. */
  | { readonly type: "hide" }
  /** A person acted. */
  | { readonly type: "acted"; readonly at: number; readonly stay: boolean }
  /** Time has passed. `lead` is how long before the end to warn. */
  | { readonly type: "tick"; readonly at: number; readonly lead: number }
  /** The network is back. */
  | { readonly type: "online" };

export type Effect =
  | { readonly [Name in keyof AuthEvents]: readonly ["emit", Name, AuthEvents[Name]] }[keyof AuthEvents]
  | readonly ["tell", Message]
  /** There is no session to ask for at the next load. */
  | readonly ["forget"];

type Step = readonly [State, ...Effect[]];

export const UNKNOWN: AuthState = Object.freeze({ status: "unknown" });

/** Nothing is known. */
export const INITIAL: State = Object.freeze({
  view: UNKNOWN,
  epoch: 0,
  token: null,
  endsAt: 0,
  lifetime: 0,
  dueAt: 0,
  retryAt: 0,
  askedAt: 0,
  failures: 0,
  error: null,
  activeAt: -Infinity,
  reportedAt: -Infinity,
  idleEndsAt: Infinity,
  absoluteEndsAt: Infinity,
  idleTimeout: 0,
  seen: null,
  ended: false,
});

/** The longest cool-down that is taken from a server's word, in seconds: a slip there must not sign off for days. */
const LONGEST_RETRY = 3600;
/** The server's clock and ours round differently; past an end by this much it is over for both. */
const SLACK = 1000;

const change = (state: State, to: Partial<State>): State => Object.freeze({ ...state, ...to });

/** The state as one of somebody signed in, if it is. */
export const signedIn = (view: AuthState): SignedInState | undefined => ("user" in view ? view : undefined);

/** When the session ends if nobody acts from now on. Acts that the server has not heard of yet count. */
const idleEnd = (state: State): number => Math.max(state.idleEndsAt, state.activeAt + state.idleTimeout);

const end = (state: State): number => Math.min(idleEnd(state), state.absoluteEndsAt);

const show = (status: SignedInState["status"], identity: Identity, at: number, accessEndsAt: number): SignedInState =>
  Object.freeze({
    status,
    user: Object.isFrozen(identity.user) ? identity.user : Object.freeze({ ...identity.user }),
    session: Object.freeze({
      ...identity.session,
      accessEndsAt,
      inactivityEndsAt: at + identity.session.inactivity_expires_in * 1000,
      absoluteEndsAt: at + identity.session.absolute_expires_in * 1000,
    }),
  });

/** What to show of somebody whom only a render server has seen. */
export const render = (identity: Identity): SignedInState => show("authenticated", identity, 0, 0);

const know = (state: State, { user, session }: Identity, view: SignedInState): Partial<State> => ({
  view,
  seen: { id: session.id, user: user.id, created: session.created_at, left: session.absolute_expires_in },
  ended: false,
  idleEndsAt: view.session.inactivityEndsAt,
  absoluteEndsAt: view.session.absoluteEndsAt,
  idleTimeout: Math.max(state.seen?.id === session.id ? state.idleTimeout : 0, session.inactivity_expires_in * 1000),
});

/** Nobody is signed in: forget the token, remember which session it was so that no straggler brings it back. */
const leave = (state: State, reason: Reason, ...effects: Effect[]): Step =>
  state.view.status === "anonymous"
    ? [change(state, { epoch: state.epoch + 1 }), ...effects]
    : [
        change(INITIAL, {
          view: Object.freeze({ status: "anonymous", reason }),
          epoch: state.epoch + 1,
          dueAt: Infinity,
          activeAt: state.activeAt,
          seen: state.seen,
          ended: true,
        }),
        ...(reason === "never" ? [] : ([["emit", "signedOut", { reason }]] as const)),
        ...effects,
      ];

/**
 * Whether another tab's answer is newer than what is known here.
 *
 * Why not by a clock: tabs have none in common that can be trusted. The server's `absolute_expires_in` only falls while
 * a session lives, and a later session has a later `created_at`.
 */
const newer = (state: State, { session }: Answer): boolean =>
  !state.seen ||
  (state.seen.id === session.id
    ? !state.ended && session.absolute_expires_in <= state.seen.left
    : session.created_at > state.seen.created);

type Rules = { readonly [Type in Event["type"]]: (state: State, event: Extract<Event, { type: Type }>) => Step };

const rules: Rules = {
  hydrated: (state, { identity, at }) =>
    state.view.status === "unknown" && !state.seen
      ? [change(state, know(state, identity, show("authenticated", identity, at, at)))]
      : [state],

  granted(state, { source, answer, at, epoch, random }) {
    if (source === "broadcast" ? !newer(state, answer) : epoch !== state.epoch) return [state];
    const { seen, ended } = state;
    const lifetime = answer.expires_in * 1000;
    const endsAt = at + lifetime;
    const former = signedIn(state.view);
    const fresh = show("authenticated", answer, at, endsAt);
    // The same person stays the same object, so that what depends on the user alone does not run again.
    const view =
      former && JSON.stringify(former.user) === JSON.stringify(fresh.user)
        ? Object.freeze({ ...fresh, user: former.user })
        : fresh;
    const { user, session } = view;
    const same = !!seen && !ended && seen.id === session.id;
    const next = change(state, {
      ...know(state, answer, view),
      epoch: same ? state.epoch : state.epoch + 1,
      token: answer.access_token,
      lifetime,
      endsAt,
      // Why jitter: tabs and browsers that began together must not refresh together. Never within a second: no hot loop.
      reportedAt: Math.min(state.activeAt, at),
      dueAt: at + Math.max(1000, lifetime * (0.85 + 0.1 * random)),
      retryAt: 0,
      askedAt: 0,
      failures: 0,
      error: null,
    });
    const effects: Effect[] = [["emit", "refreshed", { session, source }]];
    if (!seen || ended) effects.unshift(["emit", "signedIn", { user, session }]);
    else if (seen.user !== user.id) effects.unshift(["emit", "userChanged", { user, session }]);
    if (source !== "broadcast") effects.unshift(["tell", { kind: "token", at, answer }]);
    return [next, ...effects];
  },

  refused: (state, { reason, epoch }) =>
    epoch === state.epoch
      ? leave(state, reason, ["forget"], ["tell", { kind: "ended", id: state.seen?.id ?? null, reason }])
      : [state],

  failed(state, { error, retryAfter, at, epoch, random }) {
    if (epoch !== state.epoch) return [state];
    const askedAt = at + Math.min(retryAfter, LONGEST_RETRY) * 1000;
    const backoff = Math.min(60_000, 1000 * 2 ** state.failures) * (1 + random / 2);
    const view = signedIn(state.view);
    return [
      change(state, {
        view: view ? Object.freeze({ ...view, status: "degraded" }) : state.view,
        error,
        failures: state.failures + 1,
        askedAt,
        retryAt: Math.max(askedAt, at + backoff),
      }),
      ...(state.failures ? [] : ([["emit", "degraded", { error }]] as const)),
    ];
  },

  leave: (state) =>
    leave(state, "logout", ["forget"], ["tell", { kind: "ended", id: state.seen?.id ?? null, reason: "logout" }]),

  left: (state, { id, reason }) =>
    id === null || !state.seen || id === state.seen.id
      ? leave(state, reason === "logout" ? "logout_other_tab" : reason)
      : [state],

  hide: (state) =>
    state.view.status === "anonymous"
      ? [state]
      : [
          change(state, {
            view: UNKNOWN,
            token: null,
            endsAt: 0,
            dueAt: 0,
            idleEndsAt: Infinity,
            absoluteEndsAt: Infinity,
          }),
        ],

  // While a warning stands only its answer counts: a mouse that trembles says nothing about a person.
  acted: (state, { at, stay }) =>
    at <= state.activeAt || (!stay && signedIn(state.view)?.warning) ? [state] : [change(state, { activeAt: at })],

  tick(state, { at, lead }) {
    const view = signedIn(state.view);
    if (!view) return [state];
    const endsAt = end(state);
    if (at >= endsAt + SLACK) return rules.hide(state, { type: "hide" });
    const kind = endsAt === state.absoluteEndsAt ? "absolute" : "inactivity";
    const warns = at >= endsAt - headStart(state, lead);
    if (warns ? view.warning?.kind === kind && view.warning.endsAt === endsAt : !view.warning) return [state];
    const { warning: former, ...rest } = view;
    if (!warns) return [change(state, { view: Object.freeze(rest) })];
    const warning: Warning = Object.freeze({ kind, endsAt });
    return [
      change(state, { view: Object.freeze({ ...rest, warning }) }),
      ...(former ? [] : ([["emit", "idleWarning", warning]] as const)),
    ];
  },

  // Back-off was a guess about the network and is void now; what the server asked for is not.
  online: (state) => [change(state, { retryAt: state.askedAt, failures: 0 })],
};

/** How long before the end to warn: never more than half of a short timeout, or the warning would never be gone. */
const headStart = (state: State, lead: number): number => Math.min(lead, state.idleTimeout / 2);

/** Apply an event. The rules above are the whole of it; an event that means nothing in a state returns the same state. */
export const step = (state: State, event: Event): Step =>
  (rules[event.type] as (s: State, e: Event) => Step)(state, event);

/**
 * Whether the token lasts for another `spare` milliseconds.
 *
 * A token that lives shorter than that would never do and be refreshed for every request, so no more than a twentieth of
 * its life is asked for.
 */
export const usable = (state: State, at: number, spare: number): boolean =>
  state.token !== null && at + Math.min(spare, state.lifetime / 20) < state.endsAt;

/**
 * When to refresh without being asked: when the token gets old, or when the server would end a session whose person has
 * acted since it was last told. Never within a cool-down.
 */
const refreshAt = (state: State, lead: number): number => {
  const before = headStart(state, lead);
  const reportAt =
    state.activeAt > state.reportedAt
      ? Math.max(state.idleEndsAt - before, state.endsAt - state.lifetime + before / 4)
      : Infinity;
  return Math.max(Math.min(state.dueAt, reportAt), state.retryAt);
};

/** Whether it is time for that. */
export const due = (state: State, at: number, lead: number): boolean => at >= refreshAt(state, lead);

/** When to look again: at a refresh that is due if `awake`, at a warning or at an end. */
export const nextAt = (state: State, lead: number, awake: boolean): number => {
  const refresh = awake ? refreshAt(state, lead) : Infinity;
  const view = signedIn(state.view);
  return view ? Math.min(refresh, end(state) + (view.warning ? SLACK : -headStart(state, lead))) : refresh;
};
