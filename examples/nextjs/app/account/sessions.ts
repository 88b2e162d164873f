import type { ListedSession } from "keyturn";
import { serverFetch } from "keyturn/next/server";

/** The user's sessions, as the Keyturn server lists them to them. */
export const listSessions = async (): Promise<readonly ListedSession[]> => {
  const response = await serverFetch("/auth/sessions");
  if (!response.ok) throw new Error(`the list of sessions: ${response.status}`);
  return (await response.json()).sessions;
};
