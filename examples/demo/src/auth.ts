/** The client of this page and the one axios instance that goes through it. This is all an application has to set up. */
import axios from "axios";
import { AuthError, createAuthClient, type ErrorCode } from "keyturn";
import { attachAuth } from "keyturn/axios";

/** Seconds before the end of the session at which the page asks whether anybody is there. */
export const WARNING = 45;

export const auth = createAuthClient({ baseUrl: "/auth", idleWarning: WARNING });

export const api = axios.create();
attachAuth(api, auth);

/** Ask for a new access token though the present one is good: an application never needs to. */
export const refreshNow = async (): Promise<void> => {
  const token = await auth.getToken();
  if (token) await auth.renew(token);
};

/** Whether the browser has kept the cookies of this page: Safari keeps no `Secure` one of a page without https. */
export const hasCookies = (): boolean => document.cookie.includes("kt_hint=1");

/** Call a route of the server that needs the access token, and throw an `AuthError` with its code if it refuses. */
export const call = async (path: string, method: string, body?: object): Promise<void> => {
  const response = await auth.fetch(path, {
    method,
    ...(body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
  });
  if (response.ok) return;
  const { code } = (await response.json().catch(() => ({}))) as { code?: ErrorCode };
  throw new AuthError(code ?? "unexpected_answer", response.status);
};
