/**
 * What is believed of what comes from outside.
 *
 * Owns: the shape of answers and of other tabs' messages. Must not hold: what is done with them.
 */
import type { Answer, Message, Reason } from "../machine/types.ts";

type Loose = Record<string, unknown> | null | undefined;

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";
const isNumber = (value: unknown): value is number => Number.isFinite(value) && (value as number) >= 0;

/** Whether this is an answer with an access token. Members that are not known are none of our business. */
export const isAnswer = (value: unknown): value is Answer => {
  const { access_token, expires_in, user, session } = ((value as Loose) ?? {}) as Record<string, Loose>;
  return (
    [access_token, user?.id, session?.id, session?.created_at].every(isText) &&
    [expires_in, session?.inactivity_expires_in, session?.absolute_expires_in].every(isNumber)
  );
};

/** Read another tab's message, and nothing but what is known of it; anything else on the channel is undefined. */
export const readMessage = (data: unknown): Message | undefined => {
  const { type, at, answer, id, reason, stay } = (data as Loose) ?? {};
  if (type === "ended" && (id === undefined || isText(id)) && isText(reason))
    return { type, id, reason: reason as Reason };
  if (type === "acted" && isNumber(at)) return { type, at, stay: stay === true };
  if (type === "granted" && isNumber(at) && isAnswer(answer)) return { type, at, answer };
  return undefined;
};
