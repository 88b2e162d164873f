/**
 * Cookies out of the raw header.
 *
 * Owns: the twin of `keyturn.core.cookie.read`. Must not hold: what a cookie means.
 * Spec: `spec/vectors/cookie.json`.
 */

/**
 * Return every value the header gives for exactly this name; more than one is for the caller to refuse.
 *
 * Why not `cookies()` of Next.js: it decodes, and lets the last of two win, so that one planted from a sibling subdomain
 * would pass for ours and defeat the `__Host-` prefix.
 */
export const readCookie = (header: string, name: string): readonly string[] =>
  header
    .split(";")
    .map((pair) => pair.replace(/^[ \t]+/, ""))
    .filter((pair) => pair.startsWith(`${name}=`))
    .map((pair) => pair.slice(name.length + 1).replace(/[ \t]+$/, ""));

/** Whether there may be a session: the browser removes this one at a logout, before the server has heard of it. */
export const hinted = (header: string): boolean => readCookie(header, "kt_hint").includes("1");
