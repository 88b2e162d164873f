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

/** Read another tab's message; anything else on the channel is undefined. */
export const readMessage = (data: unknown): Message | undefined => {
  const message = data as Loose;
  const { kind, at, answer, id, reason, stay } = message ?? {};
  if (kind === "token" && isNumber(at) && isAnswer(answer)) return { kind, at, answer };
  if (kind === "active" && isNumber(at)) return { kind, at, stay: stay === true };
  if (kind === "ended" && (id === null || isText(id)) && isText(reason)) return { kind, id, reason: reason as Reason };
  return undefined;
};
