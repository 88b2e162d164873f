import { requireUser } from "keyturn/next/server";
import { Live } from "./live";

export const metadata = { title: "Live" };

export default async function Page() {
  await requireUser({ returnTo: "/live" });
  return <Live />;
}
