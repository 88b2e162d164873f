"use server";
import { requireUser, serverFetch } from "keyturn/next/server";
import { revalidatePath } from "next/cache";
import { redirect } from "next/navigation";

const end = async (path: string) => {
  const response = await serverFetch(path, { method: "DELETE" });
  if (!response.ok) throw new Error(`the session could not be ended: ${response.status}`);
  revalidatePath("/account");
};

export const endOthers = async () => {
  await requireUser({ returnTo: "/account" });
  await end("/auth/sessions");
};

export const endOne = async (form: FormData) => {
  await requireUser({ returnTo: "/account" });
  await end(`/auth/sessions/${encodeURIComponent(String(form.get("id")))}`);
  redirect("/account");
};
