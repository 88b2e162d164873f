import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Change,
  type Context,
  type Event,
  INITIAL,
  news,
  refreshAt,
  type State,
  step,
  usable,
} from "../../src/machine/machine.ts";
import type { Answer, AuthState } from "../../src/machine/types.ts";

const AT = 1_000_000;
const LEAD = 60_000;

const answer = (
  more: { user?: string; session?: string; created?: string; left?: number; idle?: number; life?: number } = {},
): Answer => ({
  access_token: `token of ${more.user ?? "u1"}`,
  token_type: "Bearer",
  expires_in: more.life ?? 600,
  user: { id: more.user ?? "u1", email: "e", name: null },
  session: {
    id: more.session ?? "s1",
    created_at: more.created ?? "2026-01-01T00:00:00.000Z",
    inactivity_expires_in: more.idle ?? 1800,
    absolute_expires_in: more.left ?? 86_400,
  },
});

type Effect = readonly [name: string, detail: unknown];
/** The state that follows, and what is told of it. */
const apply = (state: State, change: Change, context: Partial<Context> = {}): [State, ...Effect[]] => {
  const next = step(state, { at: AT, own: true, random: 0.5, lead: LEAD, ...change, ...context } as Event);
  return [next, ...news(state, next).filter(([, detail]) => detail)];
};
const following = (state: State, ...changes: (Change & Partial<Context>)[]): State =>
  changes.reduce((known, change) => apply(known, change)[0], state);

const granted: Change = { type: "granted", answer: answer() };
const failed: Change = { type: "failed", error: {} };
const SIGNED_IN = following(INITIAL, granted);
/** One state of each kind; what is not shown counts, too. */
const STATES: Record<string, State> = {
  unknown: INITIAL,
  "unknown, failed": following(INITIAL, failed),
  "anonymous, never": following(INITIAL, { type: "ended", reason: "never", own: false }),
  "anonymous, was signed in": following(SIGNED_IN, { type: "ended", reason: "logout" }),
  authenticated: SIGNED_IN,
  "authenticated, warned": following(SIGNED_IN, { type: "tick", at: AT + 1_750_000 }),
  degraded: following(SIGNED_IN, failed),
  hidden: following(SIGNED_IN, { type: "hide" }),
};
const LATER = AT + 1_760_000;
const newer = answer({ left: 86_000 });
const { user, session } = answer({ left: 86_001 });
const EVENTS: Record<string, Change & Partial<Context>> = {
  granted: { type: "granted", answer: newer },
  "granted to a render server": { type: "granted", answer: { user, session } },
  "granted with no more time": { type: "granted", answer: answer({ left: 86_000, idle: 40 }) },
  "granted to another user": {
    type: "granted",
    answer: answer({ user: "u2", session: "s2", created: "2026-02-01T00:00:00.000Z" }),
  },
  "granted elsewhere": { type: "granted", answer: newer, own: false },
  "granted elsewhere, before": { type: "granted", answer: answer({ left: 86_401 }), own: false },
  "granted elsewhere to another user": {
    type: "granted",
    answer: answer({ user: "u2", session: "s2", created: "2026-02-01T00:00:00.000Z" }),
    own: false,
  },
  "granted elsewhere to a former session": {
    type: "granted",
    answer: answer({ session: "s0", created: "2025-01-01T00:00:00.000Z" }),
    own: false,
  },
  ended: { type: "ended", reason: "revoked" },
  "ended elsewhere": { type: "ended", reason: "logout", id: "s1", own: false },
  "ended elsewhere, another": { type: "ended", reason: "logout", id: "s9", own: false },
  "ended elsewhere, whichever": { type: "ended", reason: "revoked", own: false },
  failed,
  hide: { type: "hide" },
  acted: { type: "acted", stay: false },
  "acted elsewhere": { type: "acted", stay: false, own: false },
  stay: { type: "acted", stay: true },
  tick: { type: "tick" },
  "tick past the end": { type: "tick", at: AT + 2_000_000 },
  online: { type: "online" },
};

/** The state that follows, in short, and what is told: the whole table, so that a change of any cell is seen. */
const describeStep = (state: State, event: Change & Partial<Context>): string => {
  const [next, ...effects] = apply(state, event, { at: LATER, ...event });
  const { view } = next;
  const what = [
    view.status,
    "reason" in view ? view.reason : "",
    "user" in view ? view.user.id : "",
    "warning" in view && view.warning ? `warned:${view.warning.kind}` : "",
    next.token ? "token" : "",
    next.epoch > state.epoch ? "epoch+" : "",
    next.retryAt > LATER ? "cools" : "",
    next === state ? "same" : "",
  ];
  return [what.filter(Boolean).join(" "), ...effects.map(([name]) => name)].join(" | ");
};

describe("the machine", () => {
  it.each(Object.entries(STATES))("%s: every event", (_, state) => {
    const row = Object.fromEntries(
      Object.entries(EVENTS).map(([event, change]) => [event, describeStep(state, change)]),
    );
    expect(row).toMatchSnapshot();
  });

  it("begins knowing nothing", () => {
    expect(INITIAL.view).toEqual({ status: "unknown" });
    expect(usable(INITIAL, 0, 0)).toBe(false);
    expect(refreshAt(INITIAL, LEAD)).toBe(0);
  });

  it("holds the same user object over a refresh, and another one when the user has changed", () => {
    const user = (state: State) => "user" in state.view && state.view.user;
    expect(user(following(SIGNED_IN, { type: "granted", answer: answer() }))).toBe(user(SIGNED_IN));
    const renamed = { ...answer(), user: { id: "u1", email: "e", name: "New" } };
    expect(user(following(SIGNED_IN, { type: "granted", answer: renamed }))).toEqual(renamed.user);
  });

  it("tells the server of acts near the absolute end, which they do not move, four times a head start and not for each", () => {
    const late = following(INITIAL, { type: "granted", answer: answer({ left: 130, idle: 1800 }) });
    const state = following(
      late,
      { type: "granted", answer: answer({ left: 40, idle: 40 }) },
      { type: "acted", at: AT + 1500, own: false },
    );
    expect(refreshAt(state, LEAD)).toBe(AT + LEAD / 4);
  });

  it("backs off from one second to one minute, and takes at most an hour from a server's word", () => {
    let state = SIGNED_IN;
    const waits = Array.from({ length: 9 }, () => {
      state = following(state, { ...failed, random: 0 });
      return (state.retryAt - AT) / 1000;
    });
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
    const told = following(SIGNED_IN, { type: "failed", error: { retryAfter: 1e9 } });
    expect(told.retryAt - AT).toBe(3_600_000);
    expect(following(told, { type: "online" }).retryAt).toBe(told.retryAt);
    expect(following(state, { type: "online" })).toMatchObject({ retryAt: 0, failures: 0 });
  });

  it("lets a short token be used for 95 % of its life", () => {
    const short = following(INITIAL, { type: "granted", answer: answer({ life: 10 }) });
    expect(usable(short, AT + 9_499, 60_000)).toBe(true);
    expect(usable(short, AT + 9_500, 60_000)).toBe(false);
    expect(usable(short, AT + 9_999, 0)).toBe(true);
    expect(usable(short, AT + 10_000, 0)).toBe(false);
  });

  it("whatever refreshes say of the end, off by rounding and travel, the person is warned once and without a break", () => {
    const END = 1_800_000;
    const refresh = fc.record({ passes: fc.integer({ min: 100, max: 30_000 }), travels: fc.nat(9_900) });
    fc.assert(
      fc.property(fc.array(refresh, { minLength: 20, maxLength: 60 }), (refreshes) => {
        let [state]: readonly [State, ...unknown[]] = apply(INITIAL, granted);
        const told: string[] = [];
        let passed = 1_700_000;
        for (const { passes, travels } of refreshes) {
          passed += passes;
          const idle = Math.floor((END - passed - travels) / 1000);
          if (idle < 0) break;
          const warned = "warning" in state.view && state.view.warning;
          const more = answer({ left: 86_400 - passed / 1000, idle });
          const [next, ...effects] = apply(state, { type: "granted", answer: more }, { at: AT + passed });
          told.push(...effects.map(([name]) => name).filter((name) => name === "idleWarning"));
          if (warned) expect(next.view).toHaveProperty("warning.kind", "inactivity");
          state = next;
        }
        expect(told.length).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("tells of another warning when what was stayed for meets the absolute end", () => {
    const short = { type: "granted", answer: answer({ left: 1_820 }) } as const;
    const warned = following(INITIAL, short, { type: "tick", at: AT + 1_790_000 });
    expect(warned.view).toHaveProperty("warning.kind", "inactivity");
    const [next, ...effects] = apply(warned, { type: "acted", stay: true }, { at: AT + 1_795_000 });
    const warning = { kind: "absolute", endsAt: AT + 1_820_000 };
    expect(next.view).toHaveProperty("warning", warning);
    expect(effects).toEqual([
      ["idleWarning", warning],
      ["change", true],
    ]);
  });

  const change = fc.oneof(
    ...Object.values(EVENTS).map((one) => fc.constant(one)),
    fc.record({
      type: fc.constant("granted" as const),
      answer: fc
        .record({
          session: fc.constantFrom("s1", "s2", "s3"),
          left: fc.nat(100_000),
          idle: fc.nat(4_000),
          life: fc.nat(900),
        })
        .map((more) =>
          answer({
            ...more,
            user: more.session === "s1" ? "u1" : "u2",
            created: `2026-0${more.session.at(-1)}-01T00:00:00.000Z`,
          }),
        ),
      own: fc.boolean(),
    }),
  );
  const story = fc.array(fc.tuple(change, fc.nat(400_000)), { maxLength: 40 });

  it("whatever happens: a token only for who is shown, no freeze broken, epochs never fall, one event per end", () => {
    fc.assert(
      fc.property(story, (events) => {
        let state = INITIAL;
        let at = AT;
        for (const [event, passes] of events) {
          at += passes;
          const [next, ...effects] = apply(state, event, { at, ...event });
          const view: AuthState = next.view;
          expect(Object.isFrozen(view)).toBe(true);
          expect(next.epoch).toBeGreaterThanOrEqual(state.epoch);
          if (next.token) {
            expect("user" in view && `token of ${view.user.id}`).toBe(next.token);
            expect(next.ended).toBeFalsy();
          }
          expect(!!next.ended).toBe(view.status === "anonymous");
          if (next.ended) expect(next.token).toBeUndefined();
          if (!next.token) expect(usable(next, at, 0)).toBe(false);
          const shown = (one: AuthState) => ("user" in one ? one.user.id : null);
          // Somebody else is never shown without a word, and a sign-out is said exactly when it happens.
          const names = effects.map(([name]) => name);
          if (shown(view) && shown(state.view) && shown(view) !== shown(state.view))
            expect(names).toContain("userChanged");
          if (view !== state.view && view.status === "anonymous" && view.reason !== "never")
            expect(names).toContain("signedOut");
          if (names.includes("signedOut")) expect(state.view.status).not.toBe("anonymous");
          if (names.includes("userChanged") || names.includes("signedIn")) expect(next.epoch).toBe(state.epoch + 1);
          // Nothing is due within a cool-down, and never again at once after an answer.
          expect(refreshAt(next, LEAD)).toBeGreaterThanOrEqual(next.retryAt);
          if (effects.some(([name]) => name === "refreshed" || name === "signedIn"))
            expect(refreshAt(next, LEAD)).toBeGreaterThan(at);
          state = next;
        }
      }),
      { numRuns: 500 },
    );
  });

  it("whatever another tab says of an ended session, it does not come back", () => {
    fc.assert(
      fc.property(fc.nat(90_000), fc.nat(90_000), (first, second) => {
        const known = following(
          INITIAL,
          { type: "granted", answer: answer({ left: first }) },
          { type: "ended", reason: "logout" },
        );
        const [next, ...effects] = apply(known, { type: "granted", answer: answer({ left: second }) }, { own: false });
        expect(next).toBe(known);
        expect(effects).toEqual([]);
      }),
    );
  });

  it("does the same for the same, and leaves what it was given alone", () => {
    fc.assert(
      fc.property(story, (events) => {
        const run = () =>
          events.reduce((state, [event, passes], index) => {
            const given = JSON.stringify(state);
            const [next] = apply(state, event, { at: AT + index * passes, ...event });
            expect(JSON.stringify(state)).toBe(given);
            return next;
          }, INITIAL);
        expect(run()).toEqual(run());
      }),
      { numRuns: 100 },
    );
  });
});
