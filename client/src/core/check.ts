/**
 * What is believed of what comes from outside.
 *
 * Owns: the shape of answers and of other tabs' messages. Must not hold: what is done with them.
 */
import type { Change, Context } from "../machine/machine.ts";
import type { Answer } from "../machine/types.ts";

/** What a tab tells the others: what has changed in it, as the machine takes it. */
type Message = Change & Pick<Context, "at" | "id">;
type Loose = Record<string, unknown> | null | undefined;

const isText = (value: unknown): value is string => typeof value === "string" && !!value;
const isNumber = (value: unknown): value is number => Number.isFinite(value) && (value as number) >= 0;

/** Whether this is an answer with an access token. Members that are not known are none of our business. */
export const isAnswer = (value: unknown): value is Answer => {
  const { access_token, expires_in, user, session } = ((value as Loose) ?? {}) as Record<string, Loose>;
  return (
    [access_token, user?.id, session?.id, session?.created_at].every(isText) &&
    [expires_in, session?.inactivity_expires_in, session?.absolute_expires_in].every(isNumber)
  );
};

/**
 * Whether this is a message of another tab. Its `id` is only compared, and `stay` only asked for; whose event it is, and
 * what else it may say, is not taken from it.
 *
 * Why not `expired`: it says that a request had no cookie, and a document of this origin in a frame of another site never
 * sends one. Not every browser keeps its messages from the tabs, which find out by themselves.
 */
export const isMessage = (data: unknown): data is Message => {
  const { type, at, answer, reason } = (data ?? {}) as Record<string, unknown>;
  return (
    isNumber(at) &&
    (type === "acted" ||
      (type === "ended" && isText(reason) && reason !== "expired") ||
      (type === "granted" && isAnswer(answer)))
  );
};
