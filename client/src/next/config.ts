/**
 * `next.config`: one origin for the application and its Keyturn server.
 *
 * Owns: the rewrites. Must not hold: anything of a request; nothing here may import Next.js, which loads this file
 * before itself.
 */
import { basePathOf, type Environment } from "./settings.ts";

type Rewrite = { source: string; destination: string; basePath?: false; [more: string]: unknown };
type Sorted<Rule> = { beforeFiles?: Rule[]; afterFiles?: Rule[]; fallback?: Rule[] };
/** The three forms in which an application may give its own. */
type Rewrites<Rule> = Rule[] | Sorted<Rule>;
/** What is read of an application's configuration. */
type Read = {
  rewrites?: () => Rewrites<Rewrite> | Promise<Rewrites<Rewrite>>;
  trailingSlash?: boolean;
  skipTrailingSlashRedirect?: boolean;
};

/** Next.js takes a function, too, whose settings would be lost: what it returns is to be given. */
type NotAFunction<Config> = Config extends (...given: never) => unknown ? never : unknown;

/** What `withAuthRewrites` takes beside the configuration. */
export type AuthRewritesOptions = {
  /** Where the Next.js server reaches the Keyturn server; default `KEYTURN_URL`. */
  url?: string | undefined;
  /** Where the server's routes are; default `KEYTURN_BASE_PATH` or `/auth`. */
  basePath?: string | undefined;
};

/**
 * Let the application's own address answer for the Keyturn server, so that its cookies are the site's.
 *
 * Next.js passes cookies, `Origin` and Fetch Metadata on as they come, and `Set-Cookie` back; it adds nothing to
 * `X-Forwarded-For`. It reads the addresses when the application is built.
 *
 * @example
 * ```ts
 * // next.config.ts
 * export default withAuthRewrites({ reactStrictMode: true });
 * ```
 */
export const withAuthRewrites = <Config extends object>(
  config: Config & NotAFunction<Config>,
  options: AuthRewritesOptions = {},
): Config => {
  const { rewrites, trailingSlash, skipTrailingSlashRedirect } = config as Read;
  return {
    ...config,
    async rewrites(): Promise<Sorted<Rewrite>> {
      const environment: Environment = process.env;
      const { url = environment.KEYTURN_URL, basePath = basePathOf(environment) } = options;
      if (!url) throw new Error("keyturn: KEYTURN_URL is not set: where is the Keyturn server?");
      // It redirects before it rewrites, and a refresh follows no redirect: nobody could sign in.
      if (trailingSlash && !skipTrailingSlashRedirect)
        throw new Error(
          `keyturn: with trailingSlash alone Next.js redirects ${basePath}/refresh; set skipTrailingSlashRedirect, too`,
        );
      const own = (await rewrites?.()) ?? {};
      const sorted = Array.isArray(own) ? { afterFiles: own } : own;
      const ours = [`${basePath}/:path*`, "/.well-known/jwks.json"].map(
        (source): Rewrite => ({ source, destination: new URL(url).origin + source, basePath: false }),
      );
      // Before the files: no page of the application stands before the routes that set its cookies.
      return { ...sorted, beforeFiles: [...ours, ...(sorted.beforeFiles ?? [])] };
    },
  };
};
