import { authGate } from "keyturn/next";

// Spares a render. It keeps nobody out: the pages ask `requireUser`.
export const proxy = authGate();

export const config = { matcher: ["/account/:path*", "/live"] };
