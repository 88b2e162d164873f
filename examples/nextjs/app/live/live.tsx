"use client";
import { useAuth } from "keyturn/react";
import { useCallback, useEffect, useState } from "react";

export const Live = () => {
  const auth = useAuth();
  const [answer, setAnswer] = useState("");

  const ask = useCallback(async () => {
    const response = await auth.fetch("/auth/me").catch(() => null);
    setAnswer(response?.ok ? JSON.stringify(await response.json(), null, 2) : "No answer. Try again in a moment.");
  }, [auth.fetch]);

  useEffect(() => void ask(), [ask]);

  return (
    <>
      <h1>From the browser</h1>
      <p>The same server, asked by this page: with the browser's own token, which it renews when needed.</p>
      <pre id="answer">{answer}</pre>
      <button type="button" onClick={ask}>
        Ask again
      </button>
    </>
  );
};
