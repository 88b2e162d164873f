import { getSession } from "keyturn/next/server";
import Link from "next/link";

export default async function Home() {
  const session = await getSession();
  const name = session?.user.name ?? session?.user.email;
  return (
    <>
      <h1>{name ? `Hello, ${name}` : "Hello"}</h1>
      <p>
        This page was rendered for {name ?? "nobody"}, and so was its first HTML. The server asked with the cookie of
        this request and got a token for a minute; only the browser ever rotates.
      </p>
      <p>
        <Link className="button" href="/account">
          {name ? "Your devices" : "Log in to see your devices"}
        </Link>
      </p>
    </>
  );
}
