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
  const answer = value as Loose;
  const user = answer?.user as Loose;
  const session = answer?.session as Loose;
  return (
    [answer?.access_token, user?.id, session?.id, session?.created_at].every(isText) &&
    [answer?.expires_in, session?.inactivity_expires_in, session?.absolute_expires_in].every(isNumber)
  );
};

/** Read another tab's message, and nothing but what is known of it; anything else on the channel is undefined. */
export const readMessage = (data: unknown): Message | undefined => {
  const { type, at, answer, id, reason, stay } = (data as Loose) ?? {};
  if (type === "ended")
    return (id === null || isText(id)) && isText(reason) ? { type, id, reason: reason as Reason } : undefined;
  if (!isNumber(at)) return undefined;
  if (type === "acted") return { type, at, stay: stay === true, own: false };
  return type === "granted" && isAnswer(answer) ? { type, at, answer, source: "broadcast" } : undefined;
};
