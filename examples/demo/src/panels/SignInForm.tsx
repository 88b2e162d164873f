import { useAuth } from "keyturn/react";
import { type SubmitEvent, useState } from "react";
import { useDecisions } from "../decisions.ts";
import { useAction } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Field } from "../parts/Field.tsx";
import { Problem } from "../parts/Problem.tsx";
import { tellSpan } from "../words.ts";

/** Sign up or log in. `first`: begin with signing up. */
export const SignInForm = ({ first }: { first: boolean }) => {
  const { login, signup } = useAuth();
  const [isNew, setNew] = useState(first);
  const { times } = useDecisions();
  const action = useAction();

  const submit = (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (action.busy) return;
    const data = new FormData(event.currentTarget);
    const text = (name: string) => String(data.get(name) ?? "");
    const body = { email: text("email"), password: text("password"), remember: data.has("remember") };
    const name = text("device_name").trim();
    void action.run(() => (isNew ? signup : login)(name ? { ...body, device_name: name } : body));
  };

  const title = isNew ? "Sign up" : "Log in";
  return (
    <section className="card form-card" aria-labelledby="sign-in-title">
      <div className="card-head">
        <h2 id="sign-in-title">{title}</h2>
        <Button kind="quiet" onClick={() => setNew(!isNew)}>
          {isNew ? "I have an account" : "I am new here"}
        </Button>
      </div>
      <form onSubmit={submit}>
        <Problem text={action.error} />
        <Field
          label="E-mail"
          name="email"
          type="email"
          autoComplete="username"
          required
          placeholder="ada@example.com"
        />
        <Field
          label="Password"
          name="password"
          type="password"
          autoComplete={isNew ? "new-password" : "current-password"}
          minLength={15}
          maxLength={1024}
          required
          {...(isNew && { hint: "At least 15 characters. Any phrase will do, such as four or five words." })}
        />
        <Field label="Name of this device (optional)" name="device_name" maxLength={100} autoComplete="off" />
        <label className="check">
          <input type="checkbox" name="remember" />
          <span>
            Remember me
            <small>
              for 30 days; otherwise the session ends after {tellSpan((times?.inactivity_timeout ?? 120) * 1000)}{" "}
              without activity
            </small>
          </span>
        </label>
        <Button type="submit" kind="primary" busy={action.busy}>
          {title}
        </Button>
      </form>
    </section>
  );
};
