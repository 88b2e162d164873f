import { requireUser } from "keyturn/next/server";
import Link from "next/link";
import { endOthers } from "./actions";
import { listSessions } from "./sessions";

export const metadata = { title: "Account" };

export default async function Account() {
  const user = await requireUser({ returnTo: "/account" });
  const sessions = await listSessions();
  return (
    <>
      <h1>Devices of {user.name ?? user.email}</h1>
      <ul className="cards">
        {sessions.map(({ id, current, device, device_name }) => (
          <li key={id}>
            <Link href={`/account/${id}`} prefetch={true}>
              {device_name ?? device}
            </Link>
            {current && <em>this device</em>}
          </li>
        ))}
      </ul>
      <form action={endOthers}>
        <button type="submit">End all others</button>
      </form>
    </>
  );
}
