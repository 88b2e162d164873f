/** What must compile, and what must not. `tsc` is the test. */
import axios from "axios";
import { attachAuth } from "../../src/axios/index.ts";
import { type Answer, createAuthClient, type Identity, type Reason, type User } from "../../src/index.ts";
import { AuthProvider, RequireAuth, SignedIn, useAuth, useIdle, useSession, useUser } from "../../src/react/index.ts";

declare const answer: Answer;
declare const identity: Identity;
const auth = createAuthClient();
// @ts-expect-error the provider gets it: what a client is made with before the page is taken over differs from the markup
createAuthClient({ initialSession: identity });

export const narrowed = (): string => {
  const { status, user, session, reason } = useAuth();
  if (status === "unknown") {
    const nobody: null = user;
    return String(nobody);
  }
  if (status === "anonymous") {
    const why: Reason = reason;
    // @ts-expect-error nobody is signed in
    return why + user.name;
  }
  return user.email + session.id;
};

export const unchecked = (): string => {
  const { user } = useAuth();
  // @ts-expect-error there may be nobody
  return user.email;
};

export const maybe = (): [User | null, string | undefined] => [useUser(), useSession()?.created_at];

export const idle = (): number => {
  const { warning, secondsLeft, stay } = useIdle({ warnAt: 60 });
  stay();
  // @ts-expect-error a warning that is not there has no end
  const endsAt: number = warning.endsAt;
  return endsAt + (secondsLeft ?? 0);
};

export const trees = [
  <AuthProvider key="1" client={auth} />,
  <AuthProvider key="2" client={auth} initialSession={null} />,
  <AuthProvider key="3" client={auth} initialSession={identity}>
    <SignedIn>text</SignedIn>
    <RequireAuth loading="…" fallback={<p />} onSignedOut={(reason: Reason) => reason}>
      text
    </RequireAuth>
  </AuthProvider>,
  // @ts-expect-error an answer holds the access token, which must not stand in a page
  <AuthProvider key="4" client={auth} initialSession={answer} />,
  // @ts-expect-error there is no provider without a client
  <AuthProvider key="5" />,
];

export const detach: () => void = attachAuth(axios.create(), auth);
attachAuth(axios, auth)();
// @ts-expect-error the client is needed
attachAuth(axios);

auth.on("degraded", ({ error }) => error.requestId satisfies string | undefined);
