import { requireUser } from "keyturn/next/server";
import { notFound } from "next/navigation";
import { endOne } from "../actions";
import { listSessions } from "../sessions";

export const metadata = { title: "Device" };

export default async function Device({ params }: { params: Promise<{ id: string }> }) {
  const { id } = await params;
  const user = await requireUser({ returnTo: `/account/${id}` });
  const session = (await listSessions()).find((one) => one.id === id);
  if (!session) notFound();
  return (
    <>
      <h1>{session.device_name ?? session.device}</h1>
      <dl>
        <dt>Signed in as</dt>
        <dd>{user.email}</dd>
        <dt>Address</dt>
        <dd>{session.ip || "unknown"}</dd>
        <dt>Since</dt>
        <dd>{session.created_at.slice(0, 16).replace("T", " ")} UTC</dd>
      </dl>
      <form action={endOne}>
        <input type="hidden" name="id" value={id} />
        <button type="submit">End this session</button>
      </form>
    </>
  );
}
