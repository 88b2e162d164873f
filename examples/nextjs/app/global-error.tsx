"use client";
import "./globals.css";

/** What is shown when the layout cannot be rendered: its digest says whether the Keyturn server was to blame. */
export default function Failed({ error }: { error: Error & { digest?: string } }) {
  const known = error.digest === "unavailable";
  return (
    <html lang="en">
      <body>
        <main>
          <h1>{known ? "We cannot tell who you are" : "Something went wrong"}</h1>
          <p>{known ? "The login server does not answer. You are still signed in." : "It was not your fault."}</p>
          <button type="button" onClick={() => location.reload()}>
            Try again
          </button>
        </main>
      </body>
    </html>
  );
}
