import { useAuth } from "keyturn/react";
import { type SubmitEvent, useCallback } from "react";
import { api } from "../auth.ts";
import { useAction, useLoaded } from "../hooks.ts";
import { Button } from "../parts/Button.tsx";
import { Card } from "../parts/Card.tsx";
import { Field } from "../parts/Field.tsx";
import { Problem } from "../parts/Problem.tsx";
import { tellTime } from "../words.ts";

type Note = { number: number; at: number; text: string };

/** Data of an API of its own: read with `auth.fetch`, written with axios. */
export const Notes = () => {
  const { fetch } = useAuth();
  const action = useAction();
  const load = useCallback(async () => {
    const response = await fetch("/demo/notes");
    if (!response.ok) throw new Error("the notes cannot be read");
    return ((await response.json()) as { notes: Note[] }).notes;
  }, [fetch]);
  const { value: notes, reload } = useLoaded(load);

  const submit = async (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const text = String(new FormData(form).get("text"));
    if (action.busy || !(await action.run(() => api.post("/demo/notes", { text })))) return;
    form.reset();
    await reload();
  };

  return (
    <Card title="Protected data" tag="auth.fetch + axios">
      <p>
        An API that only an access token opens. The list is read with <code>auth.fetch</code>, a note is sent with an
        ordinary axios instance; neither line mentions a token.
      </p>
      <form className="inline" onSubmit={submit}>
        <Field label="A note" name="text" required maxLength={200} autoComplete="off" />
        <Button type="submit" busy={action.busy}>
          Keep it
        </Button>
      </form>
      <Problem text={action.error} />
      {notes?.length ? (
        <ul className="notes">
          {notes.slice(0, 4).map(({ number, at, text }) => (
            <li key={number}>
              {text} <time>{tellTime(at)}</time>
            </li>
          ))}
        </ul>
      ) : (
        <p className="hint">{notes ? "No notes yet." : "Reading …"}</p>
      )}
    </Card>
  );
};
