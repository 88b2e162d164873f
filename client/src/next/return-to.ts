/**
 * Where to go after a login.
 *
 * Owns: the one judgement of such an address. Must not hold: who goes there.
 */

/**
 * Take an address of this site from a query, or `otherwise`.
 *
 * Why: `?returnTo=` comes from whoever wrote the link. A login that sends people on to `//evil.example` lends our name
 * to a forged page.
 *
 * @param value - one parameter, as Next.js gives it.
 * @returns a path with its query and fragment, normalised; never another origin, whatever reads it.
 *
 * @example
 * ```ts
 * if (await getSession()) redirect(safeReturnTo((await searchParams).returnTo));
 * ```
 */
export const safeReturnTo = (value: unknown, otherwise = "/"): string => {
  // Browsers take a backslash for a slash, and drop tabs and newlines wherever they stand.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (typeof value !== "string" || !/^\/(?![/\\])/.test(value) || /[\\\u0000-\u001f\u007f]/.test(value))
    return otherwise;
  const { pathname, search, hash } = new URL(value, "http://keyturn.invalid");
  // `/.//evil.example` is a path of ours, and no more so once it is normalised.
  return pathname.startsWith("//") ? otherwise : pathname + search + hash;
};
