"use client";
import { AuthError } from "keyturn";
import { useAuth } from "keyturn/react";
import { type FormEvent, useState } from "react";

const WORDS: { [code: string]: string } = {
  invalid_credentials: "The e-mail address or the password is not right.",
  invalid_request: "That will not do: a password needs at least 15 characters.",
  conflict: "There is an account with this address. Log in instead.",
  throttled: "Too many attempts. Try again in a while.",
};

const words = (error: unknown) =>
  (error instanceof AuthError && WORDS[error.code]) || "That did not work. Try again in a moment.";

export const LoginForm = () => {
  const { login, signup } = useAuth();
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget, (event.nativeEvent as SubmitEvent).submitter);
    const text = (field: string) => String(form.get(field) ?? "");
    const credentials = { email: text("email"), password: text("password"), remember: form.has("remember") };
    setBusy(true);
    setProblem("");
    try {
      // Then the document is loaded anew, and the page sends who is signed in to where they wanted to go.
      if (form.has("new")) await signup({ ...credentials, name: text("name") || null });
      else await login(credentials);
    } catch (error) {
      setProblem(words(error));
      setBusy(false);
    }
  };

  return (
    <form onSubmit={submit}>
      <label>
        E-mail
        <input name="email" type="email" autoComplete="username" required />
      </label>
      <label>
        Password
        <input name="password" type="password" autoComplete="current-password" required />
      </label>
      <label>
        Name <small>for a new account</small>
        <input name="name" autoComplete="name" />
      </label>
      <label className="check">
        <input name="remember" type="checkbox" /> Remember me
      </label>
      <p role="alert">{problem}</p>
      <div className="row">
        <button type="submit" disabled={busy}>
          Log in
        </button>
        <button type="submit" name="new" value="1" className="quiet" disabled={busy}>
          Sign up
        </button>
      </div>
    </form>
  );
};
