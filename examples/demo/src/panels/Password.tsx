import { useUser } from "keyturn/react";
import { type SubmitEvent, useState } from "react";
import { call } from "../auth.ts";
import { useAction } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Field } from "../parts/Field.tsx";
import { Problem } from "../parts/Problem.tsx";

/** Change the password; this session lives on, all others end. */
export const Password = () => {
  const user = useUser();
  const [done, setDone] = useState(false);
  const action = useAction();

  const submit = async (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (action.busy) return;
    const form = event.currentTarget;
    const data = new FormData(form);
    const [current, next] = [String(data.get("current")), String(data.get("next"))];
    const worked = await action.run(() =>
      call("/auth/password", "POST", { current_password: current, new_password: next }),
    );
    setDone(worked);
    if (worked) form.reset();
  };

  return (
    <Card title="Change the password" tag="auth.fetch">
      <form onSubmit={submit}>
        <input type="text" name="username" autoComplete="username" value={user?.email ?? ""} readOnly hidden />
        <Field label="Current password" name="current" type="password" autoComplete="current-password" required />
        <Field
          label="New password"
          name="next"
          type="password"
          autoComplete="new-password"
          minLength={15}
          maxLength={1024}
          required
        />
        <Problem text={action.error} />
        <p role="status" className="hint">
          {done && "Changed. All other sessions have ended."}
        </p>
        <Button type="submit" busy={action.busy}>
          Change it
        </Button>
      </form>
    </Card>
  );
};
