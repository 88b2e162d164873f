/**
 * The numbers and names of the shell, each with its reason.
 *
 * Owns: constants. Times are milliseconds unless said otherwise. Must not hold: rules of the machine.
 */

/**
 * A request is given up after this long.
 *
 * Why: the server's settle time is made for it. A straggler must not reach the cookie jar after its siblings are dead.
 */
export const LIMIT = 10_000;
/** How long to wait for the lock: a frozen tab may hold it for ever, and the server can take two refreshes at once. */
export const LOCK_LIMIT = 5_000;
/** No timer is longer: when the device wakes, timers have slept too, and somebody has to notice. */
export const LONGEST_TIMER = 10_000;
/** Seconds a token has to last for a stream, which cannot be sent twice. */
export const STREAM_SPARE = 30;
/** After an API refused even a new token, its 401s start no refresh for so long. */
export const CALM = 5_000;
/** A logout that the server could not take is sent again after so long, when the network is back, or at the next load. */
export const OWED_INTERVAL = 30_000;

export const ACTED = "kt_acted";
export const OWED = "kt_logout";
