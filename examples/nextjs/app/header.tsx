"use client";
import { SignedIn, SignedOut, useAuth, useUser } from "keyturn/react";
import Link from "next/link";

export const Header = () => {
  const { logout } = useAuth();
  const user = useUser();
  return (
    <header>
      <nav aria-label="Pages">
        <Link href="/" prefetch={false}>
          Keyturn
        </Link>
        <Link href="/account">Account</Link>
        <Link href="/live">Live</Link>
      </nav>
      <SignedIn>
        <span id="who">{user?.name ?? user?.email}</span>
        <button type="button" onClick={() => logout()}>
          Log out
        </button>
      </SignedIn>
      <SignedOut>
        <Link href="/login">Log in</Link>
      </SignedOut>
    </header>
  );
};
