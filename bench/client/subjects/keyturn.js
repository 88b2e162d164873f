/** Keyturn with its axios binding. */
import axios from "axios";
import { createAuthClient } from "keyturn";
import { attachAuth } from "keyturn/axios";

export const make = () => {
  const auth = createAuthClient();
  const api = axios.create();
  attachAuth(api, auth);
  auth.start();
  return { api, login: (body) => auth.login(body), restore: () => auth.getToken() };
};
