import { AuthProvider } from "keyturn/next";
import { getSession } from "keyturn/next/server";
import type { ReactNode } from "react";
import { Header } from "./header";
import "./globals.css";

export const metadata = { title: "Keyturn with Next.js" };

export default async function RootLayout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <AuthProvider initialSession={await getSession()}>
          <Header />
          <main>{children}</main>
        </AuthProvider>
      </body>
    </html>
  );
}
