/**
 * The numbers and names of the client, each with its reason.
 *
 * Owns: constants. Times are milliseconds unless said otherwise. Must not hold: rules (machine).
 */

/** The server's clock and ours round differently; past an end by this much it is over for both. */
export const SLACK = 1000;
/** It need not be known more often that a person is there. */
export const ACT_INTERVAL = 1000;
/**
 * A warning that stands goes when there is more than so many times its head start left, not at once when the end moves.
 *
 * Why: each refresh says anew when the end is, off by a rounded second and by the time its answer travels. That must not
 * take a warning away and bring it back. What answers it moves the end by twice the head start or more.
 */
export const HOLD = 1.5;
/**
 * A request is given up after this long.
 *
 * Why: the server's settle time is made for it. A straggler must not reach the cookie jar after its siblings are dead.
 */
export const LIMIT = 10_000;
/**
 * How long to wait for the lock: a frozen tab may hold it for ever, and the server can take two refreshes at once.
 *
 * Why longer than `LIMIT`: a request that goes past a slow one is under way without the lock. When the slow one lets go of
 * it another tab may sign in, and the cookie of the answer that is still to come would replace the new session's.
 */
export const LOCK_LIMIT = 11_000;
/**
 * With the lock from another tab, wait for that tab's token at most this long.
 *
 * Why: the browser hands over locks and broadcasts separately. On a busy machine the lock came first in every eighth of
 * such moments (measured), and each time cost a refresh.
 */
export const HAND_OVER = 250;
/**
 * How often the client looks at the time, for what is due by then.
 *
 * Why no timer for each: a timer sleeps with the device and is late in a hidden page, so somebody has to look anyway.
 */
export const HEARTBEAT = 1000;
/** Seconds a token has to last for a stream, which cannot be sent twice. */
export const STREAM_SPARE = 30;
/** After an API refused even a new token, its 401s start no refresh for so long. */
export const CALM = 5_000;
/** A logout that the server could not take is sent again after so long by any open tab, or when the network is back. */
export const OWED_INTERVAL = 30_000;

/** Where it is noted when a person last acted. */
export const ACTED = "kt_acted";
/** Where it is noted that a logout is owed. */
export const OWED = "kt_logout";
