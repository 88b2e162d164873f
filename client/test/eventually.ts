/** Waiting in tests that run in real time. */
import { vi } from "vitest";

/** Wait until a check passes: on a machine that has other things to do for longer than vitest's own second. */
export const eventually = <Result>(check: () => Result): Promise<Result> =>
  vi.waitFor(check, { timeout: 15_000, interval: 10 }) as Promise<Result>;
