/** `keyturn/next`: everything but the server's part, which is `keyturn/next/server`. */
export { Anonymous, AuthProvider, type AuthProviderProps } from "./client.tsx";
export { type AuthRewritesOptions, withAuthRewrites } from "./config.ts";
export { authGate } from "./gate.ts";
export { safeReturnTo } from "./return-to.ts";
