/**
 * What stands in the place of `keyturn/next/server` wherever `react-server` is no condition: in a browser's bundle.
 *
 * Why it has no exports: bundlers stop at the first name that is imported, or warn, and no page gets anything of a
 * server's.
 */
throw new Error("keyturn/next/server is for Server Components, Route Handlers and Server Actions");

export {};
