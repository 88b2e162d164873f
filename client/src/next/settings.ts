/**
 * What the environment says to the Next.js server, by the names that the Keyturn server has for it.
 *
 * Owns: reading it. Must not hold: a value of its own that lasts: it is read anew for every request.
 */

export type Environment = { readonly [name: string]: string | undefined };

export type Settings = {
  /** Origin of the Keyturn server. */
  readonly server: string;
  /** Path of its route for render servers. */
  readonly path: string;
  /** What a relative address of `serverFetch` counts from, unless it is a route of the server; only this origin and the server's get the token. */
  readonly api: string;
  readonly keyId: string;
  readonly key: string;
  readonly trustedProxies: number;
};

export const basePathOf = ({ KEYTURN_BASE_PATH }: Environment): string => KEYTURN_BASE_PATH || "/auth";

/** Read the settings. Throws a plain error when one is missing: a fault of the deployment, not of a session. */
export const readSettings = (environment: Environment): Settings => {
  const { KEYTURN_URL, KEYTURN_SSR_KEYS, KEYTURN_API_URL, KEYTURN_TRUSTED_PROXIES } = environment;
  // The first of several signs, as in the server's own key rings.
  const [, keyId, key] = /^\s*([\w.-]{1,64}):([\w-]+)(?:[\s,]|$)/.exec(KEYTURN_SSR_KEYS ?? "") ?? [];
  if (!KEYTURN_URL || !keyId || !key)
    throw new Error("keyturn: KEYTURN_URL and KEYTURN_SSR_KEYS (id:base64url) have to be set");
  const server = new URL(KEYTURN_URL).origin;
  const api = KEYTURN_API_URL || server;
  const path = `${basePathOf(environment)}/ssr`;
  return { server, path, api, keyId, key, trustedProxies: Number(KEYTURN_TRUSTED_PROXIES) || 0 };
};
