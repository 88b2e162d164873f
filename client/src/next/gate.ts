/**
 * A gate for `proxy.ts` (in Next.js 15: `middleware.ts`).
 *
 * Owns: a look at the hint. Must not hold: a decision about access. It saves a render for whom it is plain that nobody
 * is signed in, and no more: the hint is a cookie that anybody can write, and a request may come past it
 * (CVE-2025-29927). What is private asks `requireUser`.
 */
import { hinted } from "./cookie.ts";

const withoutSlash = (path: string): string => path.replace(/\/$/, "");

/** A request as Next.js hands it over: it knows below which path the application is. */
type Asked = Request & { readonly nextUrl?: { readonly basePath: string } };

/**
 * Send those without a session to the login page. **Not a security boundary.**
 *
 * Paths are those of the application, without a `basePath` of `next.config`, as for the `redirect` of Next.js: `login`,
 * and `returnTo`, which the login page redirects to.
 *
 * @example
 * ```ts
 * // proxy.ts
 * import { authGate } from "keyturn/next";
 *
 * export const proxy = authGate();
 * export const config = { matcher: "/account/:path*" };
 * ```
 */
export const authGate =
  ({ login = "/login" }: { login?: string | undefined } = {}) =>
  (request: Asked): Response | undefined => {
    const { headers, method, nextUrl: { basePath } = { basePath: "" } } = request;
    // Server Actions and what the router fetches are answered by the page, which redirects by itself: a redirect on the
    // way would leave the router's own parameters in the address.
    const loads = method === "GET" && (headers.get("sec-fetch-dest") ?? "document") === "document";
    if (!loads || hinted(headers.get("cookie") ?? "")) return undefined;
    const { pathname, search } = new URL(request.url);
    const location = new URL(basePath + login, request.url);
    // Whatever the matcher says: led to itself, the login page would never be seen.
    if (withoutSlash(pathname) === withoutSlash(location.pathname)) return undefined;
    location.searchParams.set("returnTo", (pathname.slice(basePath.length) || "/") + search);
    return new Response(null, {
      status: 307,
      headers: { Location: location.href, "Cache-Control": "private, no-store" },
    });
  };
