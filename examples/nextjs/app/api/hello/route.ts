import { getSession } from "keyturn/next/server";

export const GET = async () => {
  const session = await getSession();
  const headers = { "Cache-Control": "private, no-store" };
  return Response.json({ hello: session?.user.name ?? null }, { headers });
};
