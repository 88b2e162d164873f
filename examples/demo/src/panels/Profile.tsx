import type { User, WireSession } from "keyturn";
import { useAuth } from "keyturn/react";
import { useCallback } from "react";
import { useLoaded } from "../hooks.ts";
import { Card } from "../parts/Card.tsx";
import { tellDate } from "../words.ts";

/** Who the server takes the access token for. */
export const Profile = () => {
  const { fetch } = useAuth();
  const load = useCallback(async () => {
    const response = await fetch("/auth/me");
    if (!response.ok) throw new Error("the profile cannot be read");
    return (await response.json()) as { user: User; session: WireSession };
  }, [fetch]);
  const { value } = useLoaded(load);
  return (
    <Card title="Your profile" tag="GET /auth/me">
      <p>Asked of the server each time the access token changes.</p>
      <dl className="facts">
        <dt>E-mail</dt>
        <dd>{value?.user.email ?? "…"}</dd>
        <dt>User</dt>
        <dd>
          <code>{value?.user.id ?? "…"}</code>
        </dd>
        <dt>Session</dt>
        <dd>
          <code>{value?.session.id ?? "…"}</code>
        </dd>
        <dt>Since</dt>
        <dd>{value ? tellDate(value.session.created_at) : "…"}</dd>
      </dl>
    </Card>
  );
};
