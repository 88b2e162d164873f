import { Anonymous } from "keyturn/next";
import { getSession, safeReturnTo } from "keyturn/next/server";
import { redirect } from "next/navigation";
import { LoginForm } from "./form";

export const metadata = { title: "Log in" };

export default async function Login({ searchParams }: { searchParams: Promise<{ returnTo?: string | string[] }> }) {
  const { returnTo } = await searchParams;
  if (await getSession()) redirect(safeReturnTo(returnTo, "/account"));
  return (
    <Anonymous>
      <h1>Log in</h1>
      <LoginForm />
    </Anonymous>
  );
}
