/**
 * How components reach the client.
 *
 * Owns: the context and the subscription. Must not hold: anything that belongs to one user or one request: on a render
 * server this module is shared by all of them.
 */
import { createContext, useContext, useSyncExternalStore } from "react";
import type { AuthClient } from "../core/types.ts";
import type { AuthState, Identity } from "../machine/types.ts";

/** A client as one provider shows it. */
export type Binding = {
  readonly client: AuthClient;
  readonly getSnapshot: () => AuthState;
  readonly getServerSnapshot: () => AuthState;
  /** From now on the client itself knows what this provider was given. */
  readonly begin: () => () => void;
};

export const Context = createContext<Binding | null>(null);

/**
 * What to render of somebody whom only a render server has seen. Times count from 0, so that a server and a browser,
 * whose clocks differ, render the same.
 */
const render = ({ user, session }: Identity): AuthState =>
  Object.freeze({
    status: "authenticated",
    user,
    session: Object.freeze({
      ...session,
      accessEndsAt: 0,
      inactivityEndsAt: session.inactivity_expires_in * 1000,
      absoluteEndsAt: session.absolute_expires_in * 1000,
    }),
  });

/**
 * Tie a client to what a render server found.
 *
 * Nothing is written to the client here: this runs while React renders, maybe on a server where the client is shared,
 * maybe for a tree that is thrown away.
 */
export const bind = (client: AuthClient, identity: Identity | null | undefined): Binding => {
  const first = identity ? render(identity) : client.getServerSnapshot();
  let begun = false;
  return {
    client,
    getServerSnapshot: () => first,
    getSnapshot() {
      const state = client.getSnapshot();
      // Epoch 0: the client has not known anybody yet, so this is no user whom it has since signed out or hidden.
      return !begun && !client.epoch && state.status === "unknown" ? first : state;
    },
    begin() {
      if (identity) client.hydrate(identity);
      begun = true;
      client.start();
      return client.stop;
    },
  };
};

export const useBinding = (): Binding => {
  const binding = useContext(Context);
  if (!binding) throw new Error("keyturn: there is no <AuthProvider> around this component");
  return binding;
};

/** Read a part of the state that is the same value for as long as it does not change. */
export const useSelected = <Part>(select: (state: AuthState) => Part): Part => {
  const { client, getSnapshot, getServerSnapshot } = useBinding();
  return useSyncExternalStore(
    client.subscribe,
    () => select(getSnapshot()),
    () => select(getServerSnapshot()),
  );
};
