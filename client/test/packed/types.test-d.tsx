// What has to compile for those who use the package, and what must not.
import axios from "axios";
import { AuthError, type AuthState, createAuthClient, type Reason } from "keyturn";
import { attachAuth } from "keyturn/axios";
import { Anonymous, authGate, AuthProvider as NextAuthProvider, safeReturnTo, withAuthRewrites } from "keyturn/next";
import { getSession, requireUser, serverFetch } from "keyturn/next/server";
import { AuthProvider, SignedIn, useAuth, useIdle, useUser } from "keyturn/react";

const auth = createAuthClient({ baseUrl: "/auth", apiOrigins: ["https://api.example"] });
const state: AuthState = auth.getSnapshot();
if (state.status === "anonymous") state.reason satisfies Reason;
if (state.status === "authenticated" || state.status === "degraded") {
  state.user.email satisfies string;
  state.session.absoluteEndsAt satisfies number;
  state.session.created_at satisfies string;
}
// @ts-expect-error Nobody may be signed in.
state.user;
// @ts-expect-error A snapshot is read-only.
auth.getSnapshot().status = "unknown";
// @ts-expect-error There is no such event.
auth.on("loggedIn", () => {});
auth.on("signedOut", ({ reason }) => reason satisfies Reason);
auth.on("userChanged", ({ user }) => user.id satisfies string);
auth.login({ email: "a@example.com", password: "p", remember: true }).then((user) => user.name satisfies string | null);
// @ts-expect-error A password is needed.
auth.login({ email: "a@example.com" });
auth.getToken({ minTtl: 30 }).then((token) => token satisfies string | null);
auth.fetch("/api", { method: "POST" }).then((response) => response satisfies Response);
auth.sessions.list().then((sessions) => sessions[0]?.current satisfies boolean | undefined);
auth.logout({ everywhere: true }) satisfies Promise<void>;

const explain = (error: unknown): string => {
  if (!(error instanceof AuthError)) return "?";
  switch (error.code) {
    case "invalid_credentials":
    case "offline":
      return error.code;
    // @ts-expect-error There is no such code.
    case "wrong_password":
      return "";
    default:
      return error.retryable ? `in ${error.retryAfter ?? 1} s` : error.code;
  }
};
explain(null);

// What may be left away may be undefined, as settings read from an environment are.
declare const none: undefined;
createAuthClient({ baseUrl: none, apiOrigins: none, idleWarning: none, environment: none });
auth.logout({ everywhere: none });
withAuthRewrites({}, { url: none, basePath: none });
authGate({ login: none });
requireUser({ returnTo: none, login: none });
export const useNoHeadStart = () => useIdle({ warnAt: none });

attachAuth(axios.create(), auth) satisfies () => void;

const Name = () => {
  const { logout } = useAuth();
  const user = useUser();
  return (
    <button type="button" onClick={() => logout()}>
      {user?.name}
    </button>
  );
};
export const App = () => (
  <AuthProvider client={auth}>
    <SignedIn>
      <Name />
    </SignedIn>
  </AuthProvider>
);

withAuthRewrites({ reactStrictMode: true, rewrites: async () => [] }).reactStrictMode satisfies boolean;
// @ts-expect-error A function has no settings to keep.
withAuthRewrites(() => ({ reactStrictMode: true }));
// @ts-expect-error It is no option.
withAuthRewrites({}, { server: "http://keyturn" });
authGate({ login: "/login" })(new Request("https://app.example")) satisfies Response | undefined;
safeReturnTo(undefined, "/") satisfies string;
requireUser({ returnTo: "/account" }).then((user) => user.email satisfies string);
serverFetch("/auth/sessions", { method: "DELETE" }) satisfies Promise<Response>;
getSession().then((found) => {
  found?.user.name satisfies string | null | undefined;
  // @ts-expect-error Nobody may be signed in.
  found.session;
  // @ts-expect-error It holds no token.
  found?.access_token;
});
export const Layout = async () => (
  <NextAuthProvider initialSession={await getSession()} baseUrl="/auth">
    <Anonymous>text</Anonymous>
  </NextAuthProvider>
);
// @ts-expect-error The provider makes its client itself: a server component cannot hand one over.
export const wrong = <NextAuthProvider client={auth} />;
